"""The tasks of pairs, ``lnbench_clas_…`` and ``lnbench_demo_open_…``: questions, targets, and what the results say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from typer.testing import CliRunner

from lnbench import demo
from lnbench.cli import app
from lnbench.language_control import questions
from lnbench.lm import LNBenchLM
from lnbench.lm.asked import put_in_frame
from lnbench.sweeps import records
from lnbench.sweeps.cells import Cell, Loading, plan
from lnbench.sweeps.spec import parse
from tests.support.messages import refused
from tests.support.tasks import write_rows
from tests.support.tiny import SELECTOR

Manager = Callable[..., TaskManager]


def docs(manager: Manager, name: str = "lnbench_demo_open_en", **metadata: object) -> list[dict[str, Any]]:
    return list(manager(**metadata).load(name)["tasks"][name].eval_docs)


@pytest.mark.parametrize("language", demo.LANGUAGES)
def test_embedded_questions_are_parallel(language: str) -> None:
    rows, english = (questions.demo_open(lnbench_language=code, clas_split="all")["test"] for code in (language, "en"))
    assert len(rows) == 20 and rows["id"] == english["id"]
    assert len(set(rows["prompt"])) == 20


def test_splits_share_no_question(manager: Manager) -> None:
    test, tune, whole = ({doc["id"] for doc in docs(manager, clas_split=name)} for name in ("test", "tune", "all"))
    assert (len(test), len(tune)) == (16, 4)
    assert test | tune == whole and not test & tune
    assert {doc["split"] for doc in docs(manager)} == {"test"}
    with refused("clas_split", "train", "test, tune, all"):
        docs(manager, clas_split="train")


@pytest.mark.parametrize(
    ("metadata", "target"),
    [({}, "en"), ({"language": "auto"}, "en"), ({"language": "hi"}, "hi"), ({"language": "hi", "source": "eng"}, "hi")],
)
def test_the_target_is_the_experiments(manager: Manager, metadata: dict[str, str], target: str) -> None:
    (doc, *_) = docs(manager, **metadata)
    assert (doc["language"], doc["source"], doc["target"]) == ("en", "en", target)


def test_impossible_pairs_are_refused(manager: Manager) -> None:
    with refused("source=zh", "en"):
        docs(manager, language="hi", source="zh")
    with refused("language=xx", "lid.176"):
        docs(manager, language="xx")
    with refused("lnbench_frame", "chat", "auto, plain"):
        docs(manager, lnbench_frame="chat")


def test_clas_reads_the_data_folder_else_the_hub(
    manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_dataset(path: str, *, split: str) -> datasets.Dataset:
        assert (path, split) == ("DGurgurov/CLaS-Bench", "train")
        rows = [("en", 1, "Why?"), ("de", 1, "Warum?"), ("en", 2, "How?"), ("en", 3, "When?")]
        return datasets.Dataset.from_list(
            [{"language_code": code, "question_id": number, "question": text} for code, number, text in rows]
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [doc["prompt"] for doc in docs(manager, "lnbench_clas_en")] == ["How?", "When?"]
    with refused("zh", "de, en"):
        docs(manager, "lnbench_clas_zh")
    write_rows(tmp_path / "clas/en.jsonl.gz", [{"id": f"q{number}", "question": f"Q{number}?"} for number in range(3)])
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path))
    assert [doc["id"] for doc in docs(manager, "lnbench_clas_en", language="hi")] == ["q1", "q2"]
    with refused(tmp_path / "clas/zh.jsonl.gz"):
        docs(manager, "lnbench_clas_zh")


def test_tasks_are_clas_benchs_languages(manager: Manager) -> None:
    tasks = [name for name in manager().all_subtasks if name.startswith("lnbench_clas_")]
    assert len(tasks) == 32
    assert questions.source_of("lnbench_clas_no") == "no"
    assert questions.source_of("lnbench_xnli_hi") is None
    assert questions.is_of_pairs("lnbench_clas") and not questions.is_of_pairs("lnbench_demo_qa_hi")


class Template:
    """A stand-in for a model, of which only the tokenizer's template is asked for."""

    def __init__(self, template: str | None) -> None:
        self.tokenizer = type("Tokenizer", (), {"chat_template": template})()

    def apply_chat_template(self, turns: list[dict[str, str]]) -> str:
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in turns)


@pytest.mark.parametrize(
    ("template", "frame", "asked", "expected"),
    [
        (None, "auto", "Why?", "Q: Why?\nA:"),
        ("{{x}}", "auto", "Why?", "<user>Why?"),
        ("{{x}}", "plain", "Why?", "Why?"),
        (None, "auto", "Q: Why?\nA:", "Q: Why?\nA:"),  # lm-eval has put it into something else
    ],
)
def test_prompts_are_framed_by_the_model(template: str | None, frame: str, asked: str, expected: str) -> None:
    doc = {"prompt": "Why?", "lnbench_frame": frame}
    request = Instance("generate_until", doc, (asked, {"until": []}), 0)
    put_in_frame(Template(template), [request])
    assert request.args == (expected, {"until": []})


@pytest.fixture
def lm(tiny_model: str) -> Iterator[LNBenchLM]:
    yield LNBenchLM(tiny_model, batch_size=2)


def test_perplexity_is_the_unchanged_models(lm: LNBenchLM, manager: Manager, given: dict[str, Any]) -> None:
    changed = LNBenchLM(**given, intervention="zero", language="hi")
    results: Any = simple_evaluate(
        model=changed,
        tasks=["lnbench_demo_open_en"],
        task_manager=manager(language="hi"),
        limit=3,
        bootstrap_iters=0,
        gen_kwargs={"max_gen_toks": 8},
    )
    samples = results["samples"]["lnbench_demo_open_en"]
    assert {sample["doc"]["target"] for sample in samples} == {"hi"}
    nats = []
    for sample in samples:
        (prompt, _), answer = sample["arguments"][0], sample["resps"][0][0]
        assert prompt == f"Q: {sample['doc']['prompt']}\nA:"
        tokens = len(lm._pair(prompt, answer.rstrip()).continuation) if answer.strip() else 0
        if not tokens:
            assert sample["perplexity"] is None
            continue
        request = Instance("loglikelihood", {}, (prompt, answer.rstrip()), 0, metadata=("task", 0, 1))
        ((likelihood, _),) = lm.loglikelihood([request])
        nats.append(-likelihood / tokens)
        assert sample["perplexity"] == pytest.approx(nats[-1], rel=1e-4)
    measured = results["results"]["lnbench_demo_open_en"]["perplexity,none"]
    assert measured == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-4)


def planned(corpus: str, **fields: Any) -> list[Cell]:
    spec = {"interventions": ["none", "zero"], "selectors": [SELECTOR], "corpus": corpus, "controls": 0, **fields}
    return plan(parse(spec), [Loading("tiny", {})])


def test_a_sweep_scores_its_baseline_for_each_target(tiny_corpus: str) -> None:
    cells = planned(tiny_corpus, languages=["hi", "zh"], tasks=["lnbench_demo_open_en", "lnbench_demo_nli_en"])
    baselines = [cell for cell in cells if cell.intervention == "none"]
    of_pairs = [cell for cell in baselines if cell.task == "lnbench_demo_open_en"]
    assert [(cell.languages, cell.arguments["language"]) for cell in of_pairs] == [(("hi",), "hi"), (("zh",), "zh")]
    assert len({cell.key for cell in cells}) == len(cells) == 4 + 3
    assert [cell.languages for cell in baselines if cell.task == "lnbench_demo_nli_en"] == [("hi", "zh")]


def test_pairs_of_a_sweep(tiny_corpus: str) -> None:
    tasks = ["lnbench_demo_open_{source}", "lnbench_demo_nli_{lang}", "lnbench_demo_qa_{target}"]
    cells = planned(tiny_corpus, pairs=["en→hi", "zh -> hi"], tasks=tasks)
    pairs = [
        (cell.task, cell.arguments["source"], cell.arguments["language"])
        for cell in cells
        if cell.intervention == "zero"
    ]
    assert sorted(pairs) == sorted(
        (task, source, "hi")
        for source in ("en", "zh")
        for task in (f"lnbench_demo_open_{source}", "lnbench_demo_nli_hi", "lnbench_demo_qa_hi")
    )
    # Without intervention a pair is its target, and a question its own language.
    assert sorted(cell.task for cell in cells if cell.intervention == "none") == sorted({task for task, _, _ in pairs})
    assert len({cell.key for cell in cells}) == len({cell.slug for cell in cells}) == len(cells)
    assert all("source=" in cell.command for cell in cells if cell.intervention == "zero")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"pairs": ["en"]}, ("pairs", "en")),
        ({"pairs": ["hi→hi"]}, ("pairs", "hi→hi")),
        ({"pairs": ["en→hi", "en->hi"]}, ("pairs", "en→hi")),
        ({}, ("languages", "pairs")),
        ({"languages": ["hi"], "tasks": ["lnbench_demo_open_{source}"]}, ("source", "hi", "pairs")),
        ({"pairs": ["en→hi"], "tasks": [{"en": "lnbench_demo_nli_en"}]}, ("tasks", "hi")),
    ],
)
def test_impossible_pairs_of_a_sweep_are_refused(
    fields: dict[str, Any], named: tuple[str, ...], tiny_corpus: str
) -> None:
    with refused(*named):
        planned(tiny_corpus, **{"tasks": ["lnbench_demo_nli_{lang}"], **fields})


def test_a_pair_of_one_language_is_refused_by_the_model(given: dict[str, Any]) -> None:
    with refused("source=hi", "hi"):
        LNBenchLM(**given, intervention="zero", language="hi", source="hi")


@pytest.mark.slow
def test_a_sweep_over_pairs_says_source_and_target(tiny_model: str, tiny_corpus: str, tmp_path: Path) -> None:
    spec = {
        "models": [tiny_model],
        "pairs": ["en→hi", "en→zh"],
        "tasks": ["lnbench_demo_open_{source}"],
        "interventions": ["none", "swap"],
        "selectors": [SELECTOR],
        "corpus": tiny_corpus,
        "corpus_tokens": 400,
        "controls": 0,
        "limit": 2,
        "batch_size": 2,
        "gen_kwargs": {"max_gen_toks": 4},
    }
    (tmp_path / "pairs.yaml").write_text(json.dumps(spec), encoding="utf-8")
    for command in (["sweep", str(tmp_path / "pairs.yaml"), "--out", str(tmp_path / "run")], ["clas", "score"]):
        words = command if len(command) > 2 else [*command, str(tmp_path / "run")]
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    kept = [record for record in records.load(tmp_path / "run") if record.metric == "lfs"]
    assert {(record.intervention, record.source, record.language) for record in kept} == {
        (intervention, "en", target) for intervention in ("none", "swap") for target in ("hi", "zh")
    }
    for record in kept:
        assert record.samples
        lines = (tmp_path / "run" / record.samples).read_text(encoding="utf-8").splitlines()
        assert {json.loads(line)["doc"]["target"] for line in lines} == {record.language}
