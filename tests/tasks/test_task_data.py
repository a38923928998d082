from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from lnbench import demo, task_data
from tests.support.messages import lacks, refused
from tests.support.tasks import Rows, write_rows


def same(first: datasets.DatasetDict, second: datasets.DatasetDict) -> bool:
    return {split: (rows.features, rows.to_list()) for split, rows in first.items()} == {
        split: (rows.features, rows.to_list()) for split, rows in second.items()
    }


@pytest.fixture
def hub(nli_rows: Rows, qa_rows: Rows, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The hub with the small folder's rows in its own schema; returns what was asked of it."""
    label = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    text = datasets.Value("string")
    answers = {"text": datasets.Sequence(text), "answer_start": datasets.Sequence(datasets.Value("int32"))}
    nli = datasets.Features(hypothesis=text, premise=text, label=label)
    qa = datasets.Features(id=text, context=text, question=text, answers=answers)
    sets = {
        ("facebook/xnli", "hi", "test"): (nli_rows, nli),
        ("facebook/xnli", "hi", "validation"): (nli_rows[:3], nli),
        ("google/xquad", "xquad.hi", "validation"): (qa_rows, qa),
    }
    asked: list[tuple[Any, ...]] = []

    def load_dataset(path: str, name: str, *, split: str) -> datasets.Dataset:
        asked.append((path, name, split))
        rows, features = sets[path, name, split]
        return datasets.Dataset.from_list(rows, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize("load", [task_data.xnli, task_data.xquad])
def test_hub_and_folder_give_the_same_rows(
    load: Callable[..., datasets.DatasetDict],
    data: Path,
    hub: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = load(lnbench_language="hi")
    assert not hub
    monkeypatch.setenv("LNBENCH_DATA", "")
    assert same(load(lnbench_language="hi"), local)
    assert hub
    assert same(load(lnbench_language="hi", lnbench_data=str(data)), local)


def test_columns(data: Path, nli_rows: Rows, qa_rows: Rows) -> None:
    xnli = task_data.xnli(lnbench_language="hi")
    assert xnli["test"].to_list() == [row | {"language": "hi"} for row in nli_rows]
    assert len(xnli["validation"]) == 3
    assert task_data.xquad(lnbench_language="zh")["validation"].to_list() == [r | {"language": "zh"} for r in qa_rows]


def test_metadata_wins_over_the_environment(data: Path, nli_rows: Rows, tmp_path: Path) -> None:
    write_rows(tmp_path / "other/xnli/en.test.jsonl", nli_rows[:2])
    other = task_data.xnli(lnbench_language="en", lnbench_data=str(tmp_path / "other"))
    assert len(other["test"]) == 2


def test_model_arguments_do_not_reach_the_data(data: Path) -> None:
    arguments: dict[str, Any] = {
        "language": "auto",
        "languages": "en",
        "pretrained": "x",
        "split": "y",
        "version": 1.0,
        "data": "z",
    }
    assert task_data.xnli(lnbench_language="hi", **arguments)["test"][0]["language"] == "hi"


def test_missing_few_shot_file_is_reported_but_no_obstacle(
    tmp_path: Path, nli_rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(tmp_path / "xnli/en.test.jsonl.gz", nli_rows)
    with caplog.at_level(logging.WARNING):
        splits = task_data.xnli(lnbench_language="en", lnbench_data=str(tmp_path))
    assert (len(splits["test"]), len(splits["validation"])) == (6, 0)
    assert not lacks(caplog.text, "few-shot", "XNLI")


@pytest.mark.parametrize(("part", "expected"), [("all", range(10)), ("first80", range(8)), ("last20", range(8, 10))])
def test_xquad_part(data: Path, part: str, expected: range) -> None:
    rows = task_data.xquad(lnbench_language="en", xquad_part=part)["validation"]
    assert rows["id"] == [f"q{i}" for i in expected]


def test_xquad_part_errors(data: Path, qa_rows: Rows) -> None:
    with refused("half", "all, first80, last20"):
        task_data.xquad(lnbench_language="en", xquad_part="half")
    write_rows(data / "xquad/en.jsonl.gz", qa_rows[:1])
    with refused("xquad_part=first80", "1", "xquad_part=all"):
        task_data.xquad(lnbench_language="en", xquad_part="first80")


GOOD = '{"premise": "a", "hypothesis": "b", "label": 0}\n'


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", ["rows"]),
        (GOOD + '{"premise": "a", "hypo', ["line 2", "JSON"]),
        (b"\xff\xfe\n", ["UTF-8"]),
        (
            GOOD + '{"premise": "a", "label": 0}\n',
            ["line 2: hypothesis", "premise, hypothesis, label"],
        ),
        ('{"premise": "a", "hypothesis": "b", "label": 3}\n', ["line 1: label", "2"]),
        ('{"premise": "a", "hypothesis": "b", "label": "0"}\n', ["line 1: label", "integer"]),
        ('{"premise": null, "hypothesis": "b", "label": 0}\n', ["line 1: premise", "string"]),
        ("[1]\n", ["line 1", "NliRow"]),
    ],
)
def test_bad_xnli_rows(tmp_path: Path, content: str | bytes, named: list[str]) -> None:
    path = tmp_path / "xnli/hi.test.jsonl"
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with refused(path, *named):
        task_data.xnli(lnbench_language="hi", lnbench_data=str(tmp_path))


@pytest.mark.parametrize(
    ("answers", "named"),
    [
        ({"text": [], "answer_start": []}, ["answers.text", "1"]),
        ({"text": ["a", "b"], "answer_start": [0]}, ["answers", "text", "answer_start"]),
        (["a"], ["answers", "Answers"]),
    ],
)
def test_bad_xquad_rows(tmp_path: Path, qa_rows: Rows, answers: object, named: list[str]) -> None:
    write_rows(tmp_path / "xquad/hi.jsonl", [*qa_rows, qa_rows[0] | {"answers": answers}])
    with refused("line 11", *named):
        task_data.xquad(lnbench_language="hi", lnbench_data=str(tmp_path))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"text\n", lambda b: b[:20] + b"\0" * 50])
def test_damaged_gzip(data: Path, damage: Callable[[bytes], bytes]) -> None:
    path = data / "xquad/hi.jsonl.gz"
    path.write_bytes(damage(path.read_bytes()))
    with refused(path, "truncated"):
        task_data.xquad(lnbench_language="hi")


def test_blank_lines_and_unknown_columns_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "xnli/hi.test.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress((GOOD + "\n" + GOOD.replace('"label"', '"genre": "x", "label"')).encode()))
    rows = task_data.xnli(lnbench_language="hi", lnbench_data=str(tmp_path))["test"]
    assert rows.column_names == ["premise", "hypothesis", "label", "language"]
    assert len(rows) == 2


def test_missing_folder_file_and_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path / "none"))
    with refused("LNBENCH_DATA", tmp_path / "none"):
        task_data.xnli(lnbench_language="hi")
    with refused("lnbench_data", tmp_path / "gone"):
        task_data.xquad(lnbench_language="hi", lnbench_data=str(tmp_path / "gone"))
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path))
    with refused(tmp_path / "xnli" / "hi.test.jsonl.gz", "LNBENCH_DATA"):
        task_data.xnli(lnbench_language="hi")
    with refused("facebook/xnli", "xx", "ar, bg"):
        task_data.xnli(lnbench_language="xx")
    with refused("google/xquad", "ur", "ar, de"):
        task_data.xquad(lnbench_language="ur")
    with refused("demo", "fr", "en, vi, hi, ur, zh"):
        task_data.demo_nli(lnbench_language="fr")


def test_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.delenv("LNBENCH_DATA", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with refused("no route to host", "LNBENCH_DATA", "xquad/hi.jsonl.gz"):
        task_data.xquad(lnbench_language="hi")


def test_missing_demo_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "DATA", tmp_path)
    with refused(tmp_path / "qa" / "en.jsonl"):
        task_data.demo_qa(lnbench_language="en")


def test_contexts_with_distractors() -> None:
    assert task_data.contexts_with_distractors(["a", "b", "b", "c"]) == [
        (["a", "b"], 0),
        (["c", "b"], 1),
        (["b", "c"], 0),
        (["a", "c"], 1),
    ]
    with refused("2"):
        task_data.contexts_with_distractors(["a", "a"])
