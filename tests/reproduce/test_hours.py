"""Hours beforehand: rates × amounts, and no number where a speed was not measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lnbench.cli import app
from lnbench.files import cache_dir
from lnbench.reproduce.hours import FILE, Rates, estimate
from lnbench.reproduce.plan import plan
from lnbench.reproduce.reproduction_request import ReproductionRequest
from tests.support.messages import refused


def figures(**changes: Any) -> dict[str, Any]:
    """What ``make gpu`` writes, of round numbers."""
    parts: dict[str, Any] = {
        "statistics": {"figures": {"tokens_per_s": 20_000.0}},
        "scoring": {"figures": {"requests_per_s": 100.0}},
        "override": {"figures": {"decoding_tokens_per_s": 400.0}},
        "cell": {"figures": {"overridden_s": 2.0}},
        "training": {"figures": {"lora_tokens_per_s": 4_000.0, "masked_lora_tokens_per_s": 3_000.0}},
        "training_nf4": {"figures": {"lora_tokens_per_s": 2_000.0, "masked_lora_tokens_per_s": 1_500.0}},
    }
    return {"device": {"device": "A GPU"}, "rehearsal": False, "parts": parts | changes}


def test_statistics_of_the_papers_text() -> None:
    rates = Rates.of(figures())
    assert rates.statistics_hours(16 * 100_000_000) == pytest.approx(16 * 100_000_000 / 20_000 / 3600)
    (sentence,) = rates.sentences([100_000_000], 16)
    assert "22.2 h" in sentence
    assert "A GPU" in sentence


def test_table_4_by_hand() -> None:
    found = plan(ReproductionRequest(names=("table4",), model="meta-llama/Llama-3.1-8B"))
    rates = Rates.of(figures())
    by_kind: dict[str, float] = {}
    for step in found.steps:
        hours = rates.of_step(step)
        assert hours is not None
        by_kind[step.kind] = by_kind.get(step.kind, 0) + hours
    languages = {language for step in found.steps if step.kind == "statistics" for language in step.languages}
    assert by_kind["statistics"] == pytest.approx(len(languages) * 100_000_000 / 20_000 / 3600)
    # 100,000 examples twice, of 256 tokens, at the speed of NF4.
    assert by_kind["adapter"] == pytest.approx(2 * 100_000 * 256 / 2_000 / 3600)
    cells = sum(len(step.commands()) for step in found.steps if step.kind == "sweep")
    assert by_kind["sweep"] == pytest.approx(cells * (5_010 / 100 + 2) / 3600)
    assert by_kind["neurons"] == 0


@pytest.mark.parametrize("missing", ["statistics", "scoring", "override", "cell", "training_nf4"])
def test_what_was_not_measured_has_no_hours(missing: str) -> None:
    rates = Rates.of(figures(**{missing: {"failed": "out of memory"}}))
    (line,) = estimate(plan(ReproductionRequest(names=("table4", "table5"))).steps, rates)
    assert "an unknown time" in line


def test_a_dry_run_says_how_long_it_takes(tmp_path: Path) -> None:
    file = tmp_path / "speeds.json"
    file.write_text(json.dumps(figures()))
    run = CliRunner().invoke
    words = ["reproduce", "figure1", "--model", "m", "--languages", "en+hi", "--dry-run"]
    assert "how long is not known" in run(app, words).output
    assert "# about " in run(app, [*words, "--speeds", str(file)]).output
    kept = cache_dir() / FILE
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(figures() | {"rehearsal": True}))
    try:
        assert "a rehearsal" in run(app, words).output
    finally:
        kept.unlink()


@pytest.mark.parametrize("content", [[], {"parts": {}}, {"device": {}, "rehearsal": False, "parts": []}])
def test_other_files_are_refused(content: Any, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(json.dumps(content))
    with refused("make gpu"):
        Rates.load(file)
