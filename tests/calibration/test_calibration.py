"""The simulation in small: the whole is ``python -m tests.calibration``."""

from __future__ import annotations

import pytest
from scipy import stats

from tests.calibration.few_changes import coverage
from tests.calibration.null_data import METRICS, leaderboard_rates, matrix_rates


def most(samples: int, share: float = 0.05) -> float:
    """The largest share that is plausible where the true one is ``share``."""
    return float(stats.binom.ppf(0.9995, samples, share)) / samples


@pytest.mark.parametrize("metric", METRICS)
def test_a_leaderboard_of_cells_that_do_not_differ(metric: str) -> None:
    differs, covers, mark = leaderboard_rates(metric, 24, 1, 60)
    assert differs <= most(60)
    assert covers >= 1 - most(60, 0.07)
    assert mark is None
    assert 0 < (leaderboard_rates(metric, 100, 3, 300)[2] or 0) <= most(300)


def test_a_perplexity_matrix_of_cells_that_do_not_differ() -> None:
    differs, covers, mark = matrix_rates(24, 1, 40)
    assert differs <= most(40)
    assert covers >= 1 - most(40, 0.07)
    assert mark is None
    assert (matrix_rates(24, 3, 60)[2] or 0) <= most(60)


@pytest.mark.parametrize("name", ["as often up as down", "all down, mostly by little"])
@pytest.mark.parametrize(("rate", "documents"), [(0.05, 12), (0.02, 48), (0.2, 238)])
def test_intervals_of_few_changes(name: str, rate: float, documents: int) -> None:
    assert coverage(name, rate, documents, 200) >= stats.binom.ppf(0.0005, 200, 0.93) / 200
