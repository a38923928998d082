"""Numbers that a small fault in the code would shift a little: each against a value worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from lnbench.lm.scoring import TokenRow
from lnbench.significance import bootstrap_interval, sign_flip_tests, widened_tail


@pytest.mark.parametrize(("n", "tail"), [(10, 0.00855), (5, 0.00096), (1000, 0.02480)])
def test_the_tail_of_a_small_sample(n: int, tail: float) -> None:
    """Of 10 values: t is 2.2622 at 9 degrees of freedom, times the root of 10 / 9 is 2.3845."""
    assert widened_tail(n) == pytest.approx(tail, abs=3e-5)


def test_a_bootstrap_interval_has_both_tails() -> None:
    """The bootstrap's mean is nearly normal here: its interval is that of the same tail, on both sides."""
    values = np.random.default_rng(0).normal(1, 2, size=200)
    low, high = bootstrap_interval(values)
    reach = -stats.norm.ppf(widened_tail(200)) * values.std() / math.sqrt(200)
    assert low == pytest.approx(values.mean() - reach, abs=0.03)
    assert high == pytest.approx(values.mean() + reach, abs=0.03)


def test_a_random_test_never_says_never() -> None:
    (p_value,) = sign_flip_tests(np.ones((1, 60)))
    assert 0 < p_value <= 1e-3


@pytest.mark.parametrize("longest", [4, 7, 8, 9])
def test_a_row_has_as_many_tokens_as_the_model_takes(longest: int) -> None:
    row = TokenRow.of(("", [1, 2, 3, 4, 5, 6], [7, 8, 9]), longest)
    assert row.tokens == [1, 2, 3, 4, 5, 6, 7, 8][-longest:]
    assert row.scored == 3
