"""``LNBENCH_DATA`` means one thing to every command, task and setting, and each says which text it reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from lnbench import demo
from lnbench import lm as lm_package
from lnbench.cli import main
from lnbench.cli.commands.demo import DemoSettings
from lnbench.cli.commands.finetune import InspectSettings
from lnbench.cli.commands.neurons import StabilitySettings
from lnbench.cli.commands.stats import StatsSettings
from lnbench.data_folder import default_corpus, name_of_text, text_read
from lnbench.finetuning.job import FinetuneJob
from lnbench.lm.arguments import option_words
from lnbench.lm.command_line import text_of
from lnbench.lm.experiment import Experiment
from lnbench.perplexity.request import PerplexityRequest
from lnbench.perplexity.task import corpus_of
from lnbench.reproduce.plan import plan
from lnbench.reproduce.reproduction_request import ReproductionRequest
from lnbench.sweeps import worker
from lnbench.sweeps.spec import Sweep
from tests.support.messages import refused
from tests.support.sweeps import spec_of, sweep

SETTINGS: dict[str, type[BaseModel]] = {
    "stats": StatsSettings,
    "ppl": PerplexityRequest,
    "eval": Experiment,
    "sweep": Sweep,
    "demo": DemoSettings,
    "finetune": FinetuneJob,
    "finetune inspect": InspectSettings,
    "neurons stability": StabilitySettings,
}
NEEDED = {
    "sweep": {"languages": ["en"], "tasks": ["lnbench_demo_nli_{lang}"]},
    "finetune": {"finetuner": "lora", "out": "adapter"},
    "finetune inspect": {"adapter": "adapter"},
    "neurons stability": {"selectors": ["lape"], "out": "stability"},
}


def command_line(words: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """Run a command in this process, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["lnbench", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


KINDS = {".jsonl.gz": "{lang}.jsonl.gz", ".jsonl": "{lang}.jsonl", ".txt": ""}


@pytest.fixture(params=KINDS)
def data(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data folder with a corpus; its pattern."""
    (tmp_path / "corpus").mkdir()
    for language in ("en", "hi", "zh"):
        (tmp_path / "corpus" / f"{language}{request.param}").touch()
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path))
    return str(tmp_path / "corpus" / KINDS[request.param])


@pytest.mark.parametrize("command", SETTINGS)
def test_settings_read_the_data_folder(command: str, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, needed = SETTINGS[command], NEEDED.get(command, {})
    assert model(**needed).corpus == data
    assert model(**needed, corpus="mine/{lang}.txt").corpus == "mine/{lang}.txt"
    monkeypatch.delenv("LNBENCH_DATA")
    assert model(**needed).corpus == demo.CORPUS


def test_tasks_and_reproductions_read_it_too(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reproduced() -> str:
        return plan(ReproductionRequest(names=("figure1",), model="x/y", scale="small", languages="en+hi")).corpus

    assert corpus_of("hi") == reproduced() == default_corpus() == data
    monkeypatch.delenv("LNBENCH_DATA")
    assert corpus_of("hi") == reproduced() == default_corpus() == demo.CORPUS


def test_a_folder_without_a_corpus_is_one_of_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xnli").mkdir()
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path))
    assert default_corpus() == corpus_of("hi") == PerplexityRequest().corpus == demo.CORPUS


def test_a_data_folder_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path / "none"))
    for command, model in SETTINGS.items():
        with refused("LNBENCH_DATA", tmp_path / "none"):
            model(**NEEDED.get(command, {}))
    assert command_line(["--help"], monkeypatch) == 0, "nothing is looked at for the help"


def test_commands_that_are_printed_name_no_default(data: str) -> None:
    assert option_words(PerplexityRequest(tokens=5)) == ["--tokens", "5"]
    assert "mine/{lang}.txt" in option_words(PerplexityRequest(corpus="mine/{lang}.txt"))


FIRST_LINES = {
    "embedded": (demo.CORPUS, None, "text: lnbench's embedded text"),
    "a pattern": ("data/{lang}.txt", None, "text: data/{lang}.txt"),
    "the hub": ("wikimedia/wikipedia:20231101.{lang}", None, "text: wikimedia/wikipedia:20231101.{lang}"),
    "Statistics": (demo.CORPUS, "stats", "text: that of the Statistics in stats"),
}


@pytest.mark.parametrize(("corpus", "statistics", "line"), FIRST_LINES.values(), ids=FIRST_LINES)
def test_the_first_line(corpus: str, statistics: str | None, line: str) -> None:
    assert text_read(corpus, statistics).startswith(line)


def test_the_first_line_names_the_variable(data: str) -> None:
    assert text_read(data) == f"text: {data} (of LNBENCH_DATA)"
    assert name_of_text(data).endswith(" in LNBENCH_DATA")
    assert name_of_text("/somewhere/else/{lang}.txt") == "{lang}.txt"
    assert name_of_text("data/{lang}.txt") == "data/{lang}.txt"


EVALUATIONS = {
    ("--model_args", "intervention=p10,corpus=data/*.txt"): "text: data/*.txt",
    ("--model_args=corpus=data", "--tasks", "x"): "text: data",
    ("--model_args", json.dumps({"corpus": "data/{lang}.txt"})): "text: data/{lang}.txt",
    ("--model_args", "statistics=stats"): "text: that of the Statistics in stats",
    ("--tasks", "lnbench_demo"): "text: lnbench's embedded text",
    ("--model", "hf", "--tasks", "x"): None,
}


@pytest.mark.parametrize(("words", "line"), EVALUATIONS.items())
def test_the_first_line_of_an_evaluation(words: tuple[str, ...], line: str | None) -> None:
    assert (text_of(words) or "").startswith(line or "") and (line is None) == (text_of(words) is None)


@pytest.mark.parametrize(
    "words",
    [
        ["stats", "--model", "MODEL", "--tokens", "100", "--length", "32", "--languages", "en+hi", "--out", "OUT"],
        ["stats", "--corpus", "none/{lang}.txt", "--out", "OUT"],
        ["demo", "--model", "EMPTY", "--out", "OUT"],
        ["ppl", "--model", "EMPTY", "--out", "OUT"],
        ["neurons", "stability", "lape", "--model", "EMPTY", "--out", "OUT"],
        ["reproduce", "figure1", "--model", "EMPTY", "--scale", "small", "--out", "OUT"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_commands_begin_with_it(
    words: list[str],
    tiny_model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"MODEL": tiny_model, "OUT": str(tmp_path / "out"), "EMPTY": str(tmp_path / "empty")}
    command_line([places.get(word, word) for word in words], monkeypatch)
    first = capsys.readouterr().out.splitlines()[0]
    assert first == text_read("none/{lang}.txt" if "--corpus" in words else demo.CORPUS)


# A text that cannot be read as asked is refused before a model is loaded

UNREADABLE: dict[str, tuple[dict[str, str], dict[str, object], tuple[object, ...]]] = {
    "another column": (
        {"en.jsonl": '{"body": "a"}', "hi.jsonl": '{"body": "b"}'},
        {},
        ("text", "body", "--text-column"),
    ),
    "a column that is not there": (
        {"en.jsonl": '{"text": "a"}', "hi.jsonl": '{"text": "b"}'},
        {"text_column": "body"},
        ("body", "text"),
    ),
    "the second language alone": ({"en.jsonl": '{"text": "a"}', "hi.jsonl": '{"body": "b"}'}, {}, ("hi.jsonl", "body")),
    "a line that is no document": ({"en.jsonl": "[1]", "hi.jsonl": '{"text": "b"}'}, {}, ("en.jsonl", "line 1")),
}


@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.parametrize("kind", ["sweep", "fine-tuning"])
def test_a_text_is_looked_at_before_a_model_is_loaded(
    kind: str, case: str, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, options, named = UNREADABLE[case]
    for name, content in files.items():
        (tmp_path / name).write_text(content + "\n", encoding="utf-8")

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(lm_package, "LNBenchLM", loaded)
    monkeypatch.setattr(worker, "LNBenchLM", loaded, raising=False)
    corpus = f"{tmp_path}/{{lang}}.jsonl"
    with refused(*named):
        if kind == "sweep":
            given = {"pretrained": "absent", "selector": "lape", "corpus": corpus, "corpus_tokens": 10}
            sweep(spec_of(given, **options), tmp_path / "out")
        else:
            FinetuneJob(
                finetuner="masked_lora:languages=hi",
                model=tiny_model,
                selector="lape",
                corpus=corpus,
                out=tmp_path / "out",
                **options,
            ).run()
