"""The lm-eval tasks: their documents and scores, and that a cell of the matrix is an lm-eval invocation."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from lnbench import content_hash, task_data
from lnbench.demo import CORPUS
from lnbench.files import tasks_dir
from lnbench.leaderboard.merged_records import values_of
from lnbench.perplexity import task
from lnbench.perplexity.request import PerplexityRequest
from lnbench.perplexity.run_matrix import run
from lnbench.perplexity.task import corpus_of, documents, process_results
from tests.support.messages import refused
from tests.support.tiny import SELECTOR

PAPER = ["en", "fr", "es", "vi", "id", "ja", "zh", "bn", "hi", "ta", "te", "mr", "ur", "kn", "ml", "pa"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with short documents in two languages."""
    (tmp_path / "corpus").mkdir()
    for language, text in (("hi", "नदी चौड़ी और शांत है"), ("ur", "دریا چوڑا ہے")):
        rows = [json.dumps({"text": f"{text} {number}"}, ensure_ascii=False) for number in range(9)]
        (tmp_path / "corpus" / f"{language}.jsonl.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return TaskManager(include_path=str(tasks_dir()), include_defaults=False)


def test_there_is_a_task_for_every_language_of_the_paper(manager: TaskManager) -> None:
    assert {f"lnbench_ppl_{language}" for language in PAPER} <= set(manager.all_subtasks)


def test_the_documents_are_those_that_lnbench_ppl_reads(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = documents(lnbench_language="hi")["test"]
    assert len(rows) == 9
    assert set(rows["language"]) == {"hi"}
    assert {row["text"][-1] for row in rows} == set("012345678")
    monkeypatch.setattr(task, "DOCUMENTS", 2)
    monkeypatch.setattr(task, "CHARACTERS", 5)
    assert list(documents(lnbench_language="hi")["test"]["text"]) == [text[:5] for text in rows["text"][:2]]


def test_where_the_text_comes_from(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert corpus_of("hi") == f"{data}/corpus/{{lang}}.jsonl.gz"
    with refused(data / "corpus" / "ta.jsonl.gz", "hi, ur", "LNBENCH_DATA"):
        corpus_of("ta")
    monkeypatch.delenv("LNBENCH_DATA")
    assert corpus_of("hi", str(data)) == f"{data}/corpus/{{lang}}.jsonl.gz"
    assert corpus_of("hi") == CORPUS
    assert corpus_of("ta") == "wikimedia/wikipedia:20231101.{lang}"


def test_other_text_makes_another_cell_of_a_sweep(data: Path) -> None:
    content_hash.forget()
    before = task_data.content_of("ppl_hi", None)
    assert before is not None
    (data / "corpus" / "hi.jsonl.gz").write_bytes(b"")
    content_hash.forget()
    assert task_data.content_of("ppl_hi", None) != before


def test_scores() -> None:
    found = process_results({"text": "नदी"}, [-9 * math.log(2)])
    assert found["document_bits_per_byte"] == pytest.approx(1)
    assert found["bits_per_byte"] == found["byte_perplexity"] == (-9 * math.log(2), 9)


def test_a_cell_is_an_lm_eval_invocation(
    data: Path, tiny_model: str, manager: TaskManager, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The task under hi's neurons on Urdu text, and the matrix's cell (hi, ur) of the same documents."""
    shared = {"selector": SELECTOR, "corpus": str(data / "corpus"), "corpus_tokens": 150}
    request = PerplexityRequest(
        model=tiny_model,
        languages="hi+ur",
        tokens=10_000,
        length=512,
        mode="truncate",
        controls=0,
        **shared,
    )
    matrix = run(request, tmp_path_factory.mktemp("ppl"), progress=False)
    scores = {}
    for intervention in ("none", "zero"):
        arguments = {"pretrained": tiny_model, "intervention": intervention, "language": "hi"}
        scores[intervention] = simple_evaluate(
            model="lnbench",
            model_args={**arguments, **shared, "languages": "hi+ur"},
            tasks=["lnbench_ppl_ur"],
            task_manager=manager,
            batch_size=4,
        )
    before, after = (one["results"]["lnbench_ppl_ur"] for one in scores.values())
    assert before["bits_per_byte,none"] == pytest.approx(matrix.baseline["ur"].bits_per_byte, rel=1e-5)
    change = after["bits_per_byte,none"] - before["bits_per_byte,none"]
    assert change == pytest.approx(matrix.cell("hi", "ur").delta_bits_per_byte, abs=1e-5)
    assert before["byte_perplexity,none"] == pytest.approx(2 ** before["bits_per_byte,none"])
    samples: list[dict[str, Any]] = scores["zero"]["samples"]["lnbench_ppl_ur"]
    assert len(samples) == matrix.slices["ur"].documents == 9
    kept = [((one["doc_id"],), "none", {"document_bits_per_byte": one["document_bits_per_byte"]}) for one in samples]
    values, problem = values_of(kept, "document_bits_per_byte", after["document_bits_per_byte,none"])
    assert problem is None
    assert len(values) == 9
