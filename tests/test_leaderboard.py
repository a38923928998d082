"""Rows, their paired comparisons, and the file."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lnbench import leaderboard
from lnbench.errors import LnbenchError
from lnbench.leaderboard import Cell, build, compare


def cell(intervention: str, values: list[float], metric: str = "acc", documents: list[str] | None = None) -> Cell:
    return Cell(
        model="m",
        selector="lape",
        intervention=intervention,
        language="hi",
        command="lm_eval …",
        tasks={"t": {metric: values}},
        documents={"t": documents or [str(number) for number in range(len(values))]},
    )


def test_rows_compare_with_the_cell_without_intervention() -> None:
    none, zero = build([cell("none", [1, 1, 1, 0]), cell("zero", [0, 0, 1, 0])])
    assert (none.value, none.baseline, none.delta, none.p_value) == (0.75, None, None, None)
    assert (zero.value, zero.baseline, zero.delta) == (0.25, 0.75, -0.5)
    assert zero.n == 4
    assert zero.stderr == pytest.approx(stats.sem([0, 0, 1, 0]))
    assert zero.ci_low is not None and zero.ci_high is not None and zero.ci_low <= -0.5 <= zero.ci_high


def test_other_documents_are_not_paired() -> None:
    rows = build([cell("none", [1, 0]), cell("zero", [0, 0], documents=["x", "y"])])
    assert rows[1].delta is None


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_accuracy_is_tested_by_mcnemars_exact_test(pairs: list[tuple[bool, bool]]) -> None:
    before, after = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    gained = sum(second > first for first, second in pairs)
    lost = sum(second < first for first, second in pairs)
    expected = stats.binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert compare(before, after)["p_value"] == pytest.approx(expected)


def test_other_metrics_are_tested_by_sign_flips() -> None:
    difference = np.array([0.3, 0.1, -0.05, 0.4, 0.2, 0.25, 0.1, 0.35])
    signs = np.array(list(itertools.product([1, -1], repeat=len(difference))))
    observed = difference.mean()
    expected = (np.abs((signs * difference).mean(axis=1)) >= observed - 1e-12).mean()
    assert compare([1.0] * 8, list(1 + difference))["p_value"] == pytest.approx(expected, abs=1e-9)


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        before = random.normal(size=40)
        found = compare(list(before), list(before + random.normal(0.3, 1, 40)))
        covered += found["ci_low"] <= 0.3 <= found["ci_high"]
    assert 0.88 <= covered / 200 <= 0.99


def test_null_data_are_rejected_about_as_often_as_the_level_says() -> None:
    random = np.random.default_rng(1)
    rejected = sum(
        compare(list(random.normal(size=12)), list(random.normal(size=12)))["p_value"] < 0.05 for _ in range(200)
    )
    assert rejected <= 22


def test_degenerate_comparisons() -> None:
    same = compare([0.5, 0.7], [0.5, 0.7])
    assert (same["delta"], same["p_value"]) == (0, 1)
    assert "p_value" not in compare([1.0], [0.3])
    with pytest.raises(LnbenchError, match="cannot pair"):
        compare([1.0], [1.0, 0.0])


def test_the_file(tmp_path: Path) -> None:
    rows = build([cell("none", [1, 0]), cell("zero", [0, 0])])
    leaderboard.save(rows, tmp_path / "leaderboard.json")
    assert leaderboard.load(tmp_path / "leaderboard.json") == rows
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(LnbenchError, match="not a leaderboard"):
        leaderboard.load(tmp_path / "other.json")
