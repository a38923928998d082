"""The embedded text: shape, balance, and no item of a task in the corpus."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from lnbench import demo, task_data

in_each_language = pytest.mark.parametrize("language", demo.LANGUAGES)


def rows(kind: str, language: str) -> list[dict[str, Any]]:
    with (demo.DATA / kind / f"{language}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@in_each_language
def test_corpus(language: str) -> None:
    texts = [row["text"] for row in rows("corpus", language)]
    assert demo.CORPUS.format(lang=language) == str(demo.DATA / "corpus" / f"{language}.jsonl")
    assert all(text == text.strip() and text for text in texts)
    assert len(set(texts)) == len(texts)


@in_each_language
def test_no_continuation_item_is_in_the_corpus(language: str) -> None:
    corpus = "\n".join(row["text"] for row in rows("corpus", language))
    for row in rows("continuation", language):
        assert row["continuation"] not in corpus
        assert row["context"] not in corpus


@in_each_language
def test_continuation(language: str) -> None:
    items = rows("continuation", language)
    assert all(set(row) == {"context", "continuation"} for row in items)
    assert all(text == text.strip() and text for row in items for text in row.values())
    assert len({row["context"] for row in items}) == len(items)

    first = task_data.demo_continuation(lnbench_language=language)["test"]
    assert first.to_list() == task_data.demo_continuation(lnbench_language=language)["test"].to_list()
    assert first.column_names == ["contexts", "label", "continuation", "language"]
    for row, item in zip(first, items, strict=True):
        assert len(set(row["contexts"])) == len(row["contexts"]) == 2
        assert row["contexts"][row["label"]] == item["context"]
        assert row["continuation"] == item["continuation"]
    counts = Counter(first["label"]).values()
    assert max(counts) - min(counts) <= 1


@in_each_language
def test_nli(language: str) -> None:
    items = task_data.demo_nli(lnbench_language=language)["test"]
    counts = Counter(items["label"])
    assert set(counts) == {0, 1, 2}
    assert len(set(counts.values())) == 1
    assert all(row["premise"].strip() and row["hypothesis"].strip() for row in items)
    assert len({(row["premise"], row["hypothesis"]) for row in items}) == len(items)


@in_each_language
def test_qa(language: str) -> None:
    items = task_data.demo_qa(lnbench_language=language)["test"]
    assert len(set(items["id"])) == len(items)
    for row in items:
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            assert text
            assert row["context"][start : start + len(text)] == text


def test_import_is_light() -> None:
    code = "import sys, lnbench.demo; sys.exit(bool({'torch', 'lm_eval', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
