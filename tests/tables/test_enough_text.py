"""What so much text is worth: the shipped curve is the recorded run, and of its points the nearest is quoted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lnbench import demo
from lnbench.analysis.until_stable import StabilityCurve
from lnbench.tables.enough_text import PAPERS, text_worth
from tests.docs.record_runs import RUNS, record
from tests.support.figure_data import curve_of
from tests.support.messages import lacks


def test_the_shipped_curve_is_the_recorded_run(tmp_path: Path) -> None:
    curve = StabilityCurve.load(demo.CURVE)
    curve.save(tmp_path / "stability-curve.json")
    assert record(tmp_path) == json.loads(RUNS.read_text(encoding="utf-8"))["enough"]
    assert curve.languages and set(curve.languages) == set(demo.LANGUAGES) and curve.model == "gemma-3-270m"


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (1, ["4,096", "0.40 to 0.50", "16,384", "0.80 to 0.90"]),
        (7_000, ["8,192", "0.65 to 0.75", "16,384", "0.80 to 0.90"]),
        (PAPERS, ["16,384", "0.80 to 0.90"]),
    ],
)
def test_the_nearest_point_and_the_last(
    tokens: int, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve_of().save(tmp_path / "stability-curve.json")
    monkeypatch.setattr(demo, "CURVE", tmp_path / "stability-curve.json")
    text = text_worth(tokens)
    assert not lacks(text, *said, "tiny", "lape", f"{PAPERS:,}")
    assert text.count("0.80 to 0.90") == 1
