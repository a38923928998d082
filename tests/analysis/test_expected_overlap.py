"""The Jaccard index of random sets, against all pairs of sets that there are."""

from __future__ import annotations

from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench.analysis.expected_overlap import expected_jaccard
from tests.support.messages import refused

LAYER = st.integers(1, 5).flatmap(lambda width: st.tuples(st.integers(0, width), st.integers(0, width), st.just(width)))


@settings(max_examples=20, deadline=None)
@given(layers=st.lists(LAYER, min_size=1, max_size=2))
def test_it_is_the_mean_over_all_pairs(layers):
    per_layer = [
        [
            (len(set(first) & set(second)), len(set(first) | set(second)))
            for first in combinations(range(width), own)
            for second in combinations(range(width), other)
        ]
        for own, other, width in layers
    ]
    values = []
    for pairs in product(*per_layer):
        both, either = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
        values.append(both / either if either else 0.0)
    own, other, widths = zip(*layers, strict=True)
    expected = expected_jaccard(own, other, widths)
    assert expected.mean == pytest.approx(sum(values) / len(values))
    assert sum(value <= expected.high + 1e-12 for value in values) >= 0.975 * len(values) - 1e-6


def test_more_units_than_a_layer_has():
    with refused(3, 4):
        expected_jaccard([4], [1], [3])
