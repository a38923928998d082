from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from tests.support.tasks import TASKS, Rows, languages_of, write_rows


@pytest.fixture(scope="session")
def nli_rows() -> Rows:
    return [{"premise": f"Premise {i}.", "hypothesis": f"परिकल्पना {i}", "label": i % 3} for i in range(6)]


@pytest.fixture(scope="session")
def qa_rows() -> Rows:
    return [
        {
            "id": f"q{i}",
            "context": f"In {1900 + i} the river rose by {i} metres.",
            "question": "When did the river rise?",
            "answers": {"text": [f"In {1900 + i}", f"{1900 + i}"], "answer_start": [0, 3]},
        }
        for i in range(10)
    ]


@pytest.fixture
def data(tmp_path: Path, nli_rows: Rows, qa_rows: Rows, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small data folder, named by LNBENCH_DATA."""
    for language in {
        code for family in ("ppl", "xnli", "xnli_pair", "xquad", "xquad_pair") for code in languages_of(family)
    }:
        write_rows(tmp_path / f"corpus/{language}.jsonl.gz", [{"text": f"In {1900 + i} it rose."} for i in range(3)])
        write_rows(tmp_path / f"xnli/{language}.test.jsonl.gz", nli_rows)
        write_rows(tmp_path / f"xnli/{language}.validation.jsonl", nli_rows[:3])
        write_rows(tmp_path / f"xquad/{language}.jsonl.gz", qa_rows)
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def manager() -> Callable[..., TaskManager]:
    def make(**metadata: object) -> TaskManager:
        return TaskManager(include_path=str(TASKS), include_defaults=False, metadata=metadata)

    return make
