"""The command line: every command on tiny input, help with an example, and errors of one line."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
import torch
import typer
from annotated_types import Ge
from pydantic import TypeAdapter
from typer.testing import CliRunner

from lnbench.cli import app, commands, main
from lnbench.cli.commands.demo import DemoSettings
from lnbench.cli.commands.finetune import InspectSettings
from lnbench.cli.commands.neurons import StabilitySettings
from lnbench.cli.commands.select import SelectSettings
from lnbench.cli.commands.stats import MergeSettings, StatsSettings
from lnbench.cli.listing import every_command, plugin_commands
from lnbench.errors import LnbenchError
from lnbench.files import read_json, tasks_dir
from lnbench.finetuning.job import FinetuneJob
from lnbench.hookspecs import hookimpl
from lnbench.lm.command_line import complete
from lnbench.neurons import NeuronSet
from lnbench.perplexity.request import PerplexityRequest
from lnbench.reproduce.reproduction_request import ReproductionRequest
from lnbench.settings import Settings, option_of
from lnbench.testing import tiny_model as tiny
from tests.support.messages import lacks, refused
from tests.support.tiny import tokenizer

COMMANDS = dict(every_command(typer.main.get_command(app)))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    example = re.search(r"Example: (\S+)", inspect.getdoc(COMMANDS[command].callback) or "")
    assert example and example[1] in ("lnbench", "lm_eval")


def test_each_file_is_a_command_and_listed() -> None:
    files = {path.stem for path in Path(commands.__path__[0]).glob("[!_]*.py")}
    listed = run("--help")
    assert {name.split()[1] for name in COMMANDS} == files
    assert all(re.search(rf"^│ {name} ", listed, re.MULTILINE) for name in files)


@pytest.mark.parametrize(
    ("command", "model", "others"),
    [
        ("demo", DemoSettings, set()),
        ("select", SelectSettings, {"format_"}),
        ("stats", StatsSettings, set()),
        ("stats merge", MergeSettings, set()),
        ("neurons stability", StabilitySettings, {"format_", "width"}),
        ("ppl", PerplexityRequest, {"out", "format_"}),
        ("finetune FINETUNER", FinetuneJob, {"-finetuner"}),
        ("finetune inspect", InspectSettings, {"format_"}),
        ("reproduce NAME", ReproductionRequest, {"-names", "others", "dry_run", "speeds", "executor", "format_"}),
    ],
)
def test_options_are_the_fields_of_settings(command: str, model: type[Settings], others: set[str]) -> None:
    params = {one.name: one for one in COMMANDS[f"lnbench {command}"].params if one.name != "help"}
    left_out = {name[1:] for name in others if name.startswith("-")}
    fields = {name: field for name, field in model.model_fields.items() if name not in left_out}
    assert set(params) == set(fields) | {name for name in others if not name.startswith("-")}
    for name, field in fields.items():
        param, option = params[name], option_of(model, name)
        assert param.required == field.is_required()
        assert str(field.description).rstrip(".").casefold() == param.help.rstrip(".").casefold()
        if not isinstance(param, typer.core.TyperArgument):
            assert param.opts == [f"--{option.name}", *([f"-{option.short}"] if option.short else [])]
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if default not in (None, (), {}) and option.has_default and not option.repeated:
            # As a user would write it: what was not given is read like what was.
            assert TypeAdapter(Annotated[field.annotation, field]).validate_python(param.default) == default
        for bound in (one.ge for one in field.metadata if isinstance(one, Ge)):
            refused = CliRunner().invoke(app, [*command.split(), f"--{option.name}", str(bound - 1)])
            assert refused.exit_code == 2 and f"--{option.name}" in refused.output


class _EntryPoint:
    """A plugin that adds commands, as pip would have installed it."""

    def __init__(self, name: str, register: Callable[[typer.Typer], None]) -> None:
        self.name = self.value = name
        self.dist = SimpleNamespace(name=name, version="1", metadata={"Name": name})
        self._plugin = type(name, (), {"lnbench_register_commands": staticmethod(hookimpl(_named_app(register)))})

    def load(self) -> Any:
        return self._plugin

    def __lt__(self, other: _EntryPoint) -> bool:
        return self.name < other.name


def _named_app(register: Callable[[typer.Typer], None]) -> Callable[[typer.Typer], None]:
    def lnbench_register_commands(app: typer.Typer) -> None:
        register(app)

    return lnbench_register_commands


def test_plugins_add_commands_and_broken_ones_disturb_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(app: typer.Typer) -> None:
        @app.command()
        def count(words: list[str]) -> None:
            """Count words."""
            typer.echo(len(words))

    def taken(app: typer.Typer) -> None:
        app.command("report")(lambda: None)

    def failing(app: typer.Typer) -> None:
        app.command("half")(lambda: None)
        raise RuntimeError("no luck")

    found = [_EntryPoint(one.__name__, one) for one in (count, taken, failing)]
    monkeypatch.setenv("LNBENCH_DISABLE_PLUGINS", "")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found)
    assert run("count", "a", "b").strip() == "2"
    listed = run("--help")
    assert "Count words." in listed and "half" not in listed
    assert "Write one HTML page" in listed
    problems = plugin_commands()[1]
    assert len(problems) == 2
    assert any("taken" in one and "'report'" in one for one in problems)
    assert any("failing" in one and "no luck" in one for one in problems)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lnbench.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'datasets', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def test_from_statistics_to_exported_neurons(work: Path, tiny_model: str, tiny_corpus: str) -> None:
    stats, neurons = str(work / "stats"), str(work / "neurons.json")
    collected = run(
        *("stats", "--model", tiny_model, "--corpus", tiny_corpus, "--languages", "hi+zh+en"),
        *("--tokens", "300", "--length", "64", "--out", stats),
    )
    assert re.search(r"\bhi: \d+ documents; 0 empty; .* 300 tokens", collected)
    shown = run("stats", "show", stats)
    assert all(word in shown for word in ("hi", "zh", "pre", "post", "P95"))
    run("select", "lape:top_fraction=0.3", "--statistics", stats, "--out", neurons)
    found = NeuronSet.load(neurons)
    assert found.selector == {"name": "lape", "parameters": {"top_fraction": 0.3, "bar": 0.95}}
    assert "layer" in run("neurons", "show", neurons)
    assert "hi" in run("neurons", "overlap", neurons)
    other = str(work / "random.json")
    run("select", f"random:like={neurons}:seed=3", "--statistics", stats, "--out", other)
    assert "Jaccard" in run("neurons", "overlap", neurons, other)
    exported = work / "neurons.pth"
    run("neurons", "export", neurons, str(exported))
    back = str(work / "back.json")
    run(
        *("neurons", "import", str(exported), "--languages", "+".join(found.languages)),
        *("--model", found.model, "--width", str(found.width), "--out", back),
    )
    returned = NeuronSet.load(back)
    for language in found.languages:
        assert torch.equal(found.mask(language), returned.mask(language))


@pytest.mark.slow
def test_until_stable_as_typed(work: Path, tiny_model: str, tiny_corpus: str) -> None:
    stats, drawn = str(work / "enough"), work / "drawn"
    options = ("--corpus", tiny_corpus, "--languages", "hi+zh", "--length", "64", "--out", stats)
    said = run("stats", "--model", tiny_model, "--tokens", "auto:600", *options)
    assert "lape" in (shown := run("stats", "show", stats)) and "act_prob" in shown
    assert read_json(work / "enough" / "stability-curve.json")["model"]
    run("figures", stats, "--out", str(drawn), "--format", "svg", "--width", "column")
    assert list(drawn.glob("stability_curve-*.svg"))
    assert "600 tokens" in said


@pytest.mark.slow
def test_demo_on_a_tiny_model(work: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lnbench.quickstart.SELECTORS", ("lape:top_fraction=0.4", "act_prob:fraction=0.1"))
    out = work / "demo"
    small = ("--limit", "3", "--tokens", "1200", "--languages", "hi+zh")
    *_, finding, page, command = run("demo", "--model", tiny_model, "--out", str(out), *small).splitlines()
    page = page.rpartition(": ")[2]
    assert Path(page) == (out / "report" / "index.html").resolve()
    assert Path(page).is_file()
    assert finding.endswith(".")
    assert "lnbench demo --model" in command
    leaderboard = read_json(out / "leaderboard.json")
    assert leaderboard["format"] == "lnbench.leaderboard/1"
    rows = leaderboard["rows"]
    cells = {(row["selector"], row["intervention"], row["language"]) for row in rows}
    answers = [row for row in rows if row["metric"] == "answer_language"]
    assert {row["language"] for row in answers} == {"hi", "zh"}
    assert {row["n"] for row in answers} == {10}
    selectors = {selector for selector, _, _ in cells}
    chosen = {"lape:top_fraction=0.4", "act_prob:fraction=0.1"}
    assert selectors == {"-", *chosen, *(f"random:like=[{selector}]:seed=0" for selector in chosen)}
    assert {intervention for _, intervention, _ in cells} == {"none", "mean", "p90", "zero", "p10"}
    wanted = {"model", "selector", "finetune", "intervention", "language", "task", "metric", "value", "stderr", "n"}
    wanted |= {"baseline", "delta", "ci_low", "ci_high", "p_value", "command"}
    assert wanted <= set(rows[0])
    # So small a model has no neurons for some language; that is a failure of its cells, and is told.
    rows = [row for row in rows if not (row["status"] == "failed" and "neurons" in row["error"])]
    assert all((row["delta"] is None) == (row["intervention"] == "none") for row in rows)
    chosen_first = [row for row in rows if row["selector"] == "lape:top_fraction=0.4" and row["metric"] == "acc"]
    places = [("hi", "zh").index(row["language"]) for row in chosen_first]
    of_first = [row["intervention"] for row in chosen_first if row["language"] == chosen_first[0]["language"]]
    assert places == sorted(places), "in the order of the spec, in whatever order they were run"
    assert of_first == ["mean", "p90", "zero", "p10"]
    cells = {(row["task"], row["selector"], row["intervention"], row["language"]) for row in rows}
    assert len(cells) >= 2 * (1 + 4 * 2)
    assert len(list((out / "cells").rglob("results_*.json"))) == len(cells)
    assert len(list((out / "cells").rglob("samples_*.jsonl"))) == len(cells)
    assert {path.name for path in (out / "neurons").iterdir()} == {"lape.json", "act_prob.json"}


def test_tasks_prints_a_folder() -> None:
    assert Path(run("tasks").strip()) == tasks_dir()


def test_plugins_lists_parameters_and_origin() -> None:
    printed = run("plugins")
    assert all(word in printed for word in ("lape", "act_prob", "p{percent}", "top_fraction", "0.01", "lnbench"))


@pytest.mark.parametrize("form", ["terminal", "markdown", "csv", "json", "html", "latex"])
def test_doctor_shows_where_a_models_neurons_are(form: str, tiny_model: str) -> None:
    printed = CliRunner().invoke(app, ["doctor", "--model", tiny_model, "--format", form])
    assert printed.exit_code == 0
    hooks = [f"model.layers.{layer}.mlp.act_fn".replace("_", r"\_" if form == "latex" else "_") for layer in range(3)]
    assert [hook for hook in hooks if hook not in printed.stdout.replace("\\_", "_").replace("\n", "")] in ([], hooks)
    assert "LlamaForCausalLM, located by structure: 72 neurons in 3 layers" in printed.output


def test_doctor_refuses_a_model_without_neurons(tmp_path: Path) -> None:
    tiny_mamba = tiny("mamba", hidden_size=16, num_hidden_layers=2, state_size=4, time_step_rank=2)
    tiny_mamba.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    done = CliRunner().invoke(app, ["doctor", "--model", str(tmp_path)])
    assert done.exit_code == 1
    assert "no feed-forward" in str(done.exception)


def test_doctor_names_versions() -> None:
    printed = CliRunner().invoke(app, ["doctor"]).output
    assert all(word in printed for word in ("torch", "lm_eval", "tasks"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["select", "lapse", "--statistics", "{stats}", "--out", "x.json"], ["lapse", "act_prob", "lape"]),
        (["select", "lape", "--statistics", "/nowhere", "--out", "x.json"], ["/nowhere"]),
        (["stats"], ["--out"]),
        (["stats", "--corpus", "/nowhere/{lang}.jsonl", "--out", "x"], ["/nowhere"]),
        (["neurons", "show", "/nowhere.json"], ["/nowhere.json"]),
        (["demo", "--languages", "xx"], ["xx"]),
        (["stats", "--model", "/nope/x", "--out", "x"], ["/nope/x", "no such folder"]),
        (["stats", "--model-args", "foo", "--out", "x"], ["--model-args='foo'", "key=value,key=value"]),
        (["stats", "--batch-level", "2", "--out", "x"], ["--batch-level"]),
        (["stats", "--tokens", "many", "--out", "x"], ["many", "1000000, 500k"]),
        (["stats", "--tokens", "xx=5", "--out", "x"], ["xx"]),
        (["stats", "--shard", "3/2", "--out", "x"], ["3/2"]),
        (["stats", "merge", "/nowhere"], ["/nowhere"]),
        (["stats", "--nope"], ["--nope"]),
        (["nope"], ["nope"]),
        (["select"], ["'selector'"]),
        (
            ["demo", "--languages", "en+hi", "--task", "lnbench_nope_{lang}"],
            ["lnbench_nope_en", "--languages", "none"],
        ),
        (["demo", "--task", "lnbench_nope_{lang}"], ["lnbench_nope_{lang}", "--task"]),
    ],
)
def test_errors_are_one_line_and_exit_code_two(
    arguments: list[str],
    named: list[str],
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, printed = failed([part.replace("{stats}", str(work / "stats")) for part in arguments], monkeypatch, capsys)
    assert code == 2
    assert printed.startswith("lnbench: ")
    assert not lacks(printed, *named)
    assert len(printed.splitlines()) == 1


def failed(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[object, str]:
    """Exit code and stderr of one call that fails."""
    monkeypatch.setenv("LNBENCH_TRACEBACK", "")  # so that what --traceback sets is taken back
    monkeypatch.setattr(sys, "argv", ["lnbench", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    return exit_.value.code, capsys.readouterr().err.strip()


@pytest.mark.slow
def test_errors_of_the_model_and_of_lm_eval_end_in_one_line(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bogus = ["stats", "--model", tiny_model, "--model-args", "bogus=1", "--out", str(tmp_path)]
    for arguments, message in ((bogus, "'bogus'"), (["eval", "--tasks", "nope"], "nope")):
        code, printed = failed(arguments, monkeypatch, capsys)
        assert code == 2
        assert "Traceback" not in printed
        last = printed.splitlines()[-1]
        assert last.startswith("lnbench: ") and not lacks(last, message, "--traceback")


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = failed(["--traceback", "neurons", "show", "/nowhere.json"], monkeypatch, capsys)
    assert code == 2
    assert "Traceback (most recent call last)" in printed and "/nowhere.json" in printed.splitlines()[-1]


@pytest.mark.parametrize(
    ("raised", "code", "line", "hint"),
    [
        (KeyboardInterrupt(), 130, "interrupted; the same command continues", False),
        (EOFError("file is cut off"), 2, "file is cut off", True),
        (ValueError("first\nsecond"), 2, "first", True),
        (LnbenchError("first\nsecond"), 2, "first second", False),
        (KeyError("key"), 2, "KeyError('key')", True),
        (RuntimeError(), 2, "RuntimeError()", True),
    ],
)
def test_whatever_is_raised_is_one_line(
    raised: BaseException,
    code: int,
    line: str,
    hint: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def tasks_dir() -> Path:
        raise raised

    monkeypatch.setattr("lnbench.files.tasks_dir", tasks_dir)
    exit_code, printed = failed(["tasks"], monkeypatch, capsys)
    said, _, remedy = printed.partition(" (")
    assert (exit_code, said, "--traceback" in remedy) == (code, f"lnbench: {line}", hint)


def test_no_command_prints_help_and_success_is_code_zero(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lnbench"])
    with pytest.raises(SystemExit) as exit_:
        main()
    printed = capsys.readouterr()
    assert exit_.value.code == 2 and "Usage" in printed.out + printed.err
    monkeypatch.setattr(sys, "argv", ["lnbench", "tasks"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0


@pytest.mark.slow
def test_the_demo_takes_the_languages_that_corpus_and_task_have(
    tiny_model: str, tiny_corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lnbench.quickstart.SELECTORS", ("act_prob:fraction=0.1",))
    monkeypatch.setattr("lnbench.quickstart.INTERVENTIONS", ("none", "zero"))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for language, source in (("hi", "hi"), ("zh", "zh"), ("xx", "en"), ("yy", "vi")):
        shutil.copy(tiny_corpus.replace("{lang}", source), corpus / f"{language}.jsonl")
    arguments = ["demo", "--model", tiny_model, "--corpus", str(corpus), "--limit", "2", "--tokens", "200"]
    printed = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")], catch_exceptions=False).stderr
    assert "for them: xx, yy" in " ".join(printed.split())
    assert {row["language"] for row in read_json(tmp_path / "out" / "leaderboard.json")["rows"]} == {"hi", "zh"}
    (corpus / "zh.jsonl").unlink()
    with refused("hi, xx, yy", "--languages", "--task"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_eval_adds_what_is_missing_and_nothing_else() -> None:
    assert complete(["--tasks", "a"]) == ["run", "--model", "lnbench", "--tasks", "a"]
    assert complete(["run", "--model", "hf", "--include_path=x"]) == ["run", "--model", "hf", "--include_path=x"]
    assert "corpus=d/*.txt" in complete(["--model_args", "corpus=d/{lang}.txt"])
    assert complete(["--model_args", '{"corpus": "{lang}"}'])[-1] == '{"corpus": "{lang}"}'
    assert complete(["--help"]) == ["run", "--help"]
