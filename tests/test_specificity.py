"""Matched specificity and LangSpec-F1, against their formulas and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lnbench.specificity import langspec_f1, matched_specificity

NUMBERS = st.floats(-10, 10).map(lambda value: round(value, 3))


@settings(max_examples=60, deadline=None)
@given(own=NUMBERS, draws=st.lists(NUMBERS, max_size=7))
def test_rho_is_the_ratio_and_its_interval_that_of_the_draws_mean(own, draws):
    found = matched_specificity(own, draws)
    mean = math.fsum(draws) / len(draws) if draws else 0.0
    if not draws or np.mean(draws) == 0:
        assert found.value is None
    else:
        assert found.value == pytest.approx(own / np.mean(draws))
    if len(draws) < 3 or len(set(draws)) == 1:
        assert (found.low, found.high) == (None, None)
        return
    low, high = stats.t.interval(0.95, len(draws) - 1, loc=np.mean(draws), scale=stats.sem(draws))
    if low > 0 or high < 0:
        ends = sorted([own / low, own / high])
        assert (found.low, found.high) == (pytest.approx(ends[0]), pytest.approx(ends[1]))
        assert found.low <= found.value + 1e-9 and found.value <= found.high + 1e-9
    elif own and mean:
        assert (found.low is None) != (found.high is None)
        bound = own / (high if mean > 0 else low)
        assert (found.low if found.high is None else found.high) == pytest.approx(bound)


@given(own=NUMBERS, draws=st.lists(NUMBERS, min_size=3, max_size=6), factor=st.sampled_from([-1.0, 0.5, 8.0]))
def test_rho_does_not_depend_on_unit_or_sign(own, draws, factor):
    one, other = matched_specificity(own, draws), matched_specificity(factor * own, [factor * d for d in draws])
    for first, second in zip(one, other, strict=True):
        assert (first is None) == (second is None)
        assert first is None or second == pytest.approx(first)


def test_the_interval_of_rho_holds_what_draws_have_on_average():
    random = np.random.default_rng(0)
    held = []
    for _ in range(400):
        found = matched_specificity(2.0, random.normal(0.5, 0.1, 5).tolist())
        held.append(found.low <= 4.0 and (found.high is None or found.high >= 4.0))
    assert 0.92 < np.mean(held) < 0.98


@pytest.mark.parametrize(
    ("own", "others", "base", "wanted"),
    [
        (0.4, [0.0, 0.0], 0.4, 1.0),
        (0.2, [0.2, 0.2], 0.4, 0.5),
        (0.2, [0.0, 0.0], 0.4, 2 * 0.5 / 1.5),
        (-0.1, [0.3, 0.1], 0.4, 0.0),
        (0.0, [0.0], 0.4, 0.0),
        (0.3, [0.1, 0.5], 0.6, 0.5),
    ],
)
def test_langspec_f1_is_the_mean_of_precision_and_recall(own, others, base, wanted):
    assert float(langspec_f1(own, np.mean(others), base)) == pytest.approx(wanted)
    precision = max(own, 0) / (max(own, 0) + np.mean(others)) if own > 0 else 0.0
    recall = max(own, 0) / base
    if own > 0:
        weighted = 5 * precision * recall / (4 * precision + recall)
        assert float(langspec_f1(own, np.mean(others), base, beta=2)) == pytest.approx(weighted)
