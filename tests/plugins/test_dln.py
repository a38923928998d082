"""Distribution-aware language neurons, against enumerated groups and exactly integrated distributions."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench.plugins.selectors.dln import Dln, smaller_groups, spanning_cost
from lnbench.statistics import LEVELS, Statistics
from lnbench.statistics.overlap import distribution_overlap
from tests.plugins.test_selectors import LANGUAGES, chosen
from tests.support.samples import normal, statistics_of, with_rates

FEW = settings(max_examples=20, deadline=None, derandomize=True)


def with_quantiles(units: np.ndarray, language: str = "en") -> Statistics:
    """Statistics of sorted quantiles ``[levels, units]``, in one layer."""
    blank = with_rates(torch.full((1, units.shape[1]), 0.5), language=language)
    kept = torch.tensor(units, dtype=torch.float32).unsqueeze(1)
    values = replace(blank.values, quantiles=kept, mean=kept.mean(0), std=torch.zeros(1, units.shape[1]))
    return replace(blank, sites={"post": values})


def random_units(random: np.random.Generator, units: int) -> np.ndarray:
    """Quantiles with point masses, gaps, and constants, at values that languages may share."""
    columns = []
    for _ in range(units):
        kind = random.integers(4)
        values = random.normal(random.normal(), 1, len(LEVELS)) if kind else np.full(len(LEVELS), random.integers(2))
        if kind == 2:
            values = np.round(values * 2) / 2
        if kind == 3:
            values = np.maximum(values, 0)
        columns.append(np.sort(values))
    return np.stack(columns, axis=1).astype(np.float32)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Overlap of two distributions, point masses and even stretches apart, in exact fractions."""
    grid = sorted({Fraction(float(value)) for value in (*first, *second)})

    def masses(quantiles: np.ndarray) -> tuple[dict[Fraction, Fraction], dict[tuple[Fraction, Fraction], Fraction]]:
        points: dict[Fraction, Fraction] = dict.fromkeys(grid, Fraction())
        stretches: dict[tuple[Fraction, Fraction], Fraction] = dict.fromkeys(pairwise(grid), Fraction())
        knots = [
            (Fraction(float(x)), Fraction(float(level))) for x, level in zip(quantiles, LEVELS.tolist(), strict=True)
        ]
        for (low, below), (high, upto) in pairwise(knots):
            if low == high:
                points[low] += upto - below
            for cell in stretches:
                if low <= cell[0] and cell[1] <= high:
                    stretches[cell] += (upto - below) * (cell[1] - cell[0]) / (high - low)
        return points, stretches

    (points, stretches), (other_points, other_stretches) = masses(first), masses(second)
    return float(
        sum(min(points[x], other_points[x]) for x in grid)
        + sum(min(stretches[cell], other_stretches[cell]) for cell in stretches)
    )


def test_overlap_equals_that_of_exact_fractions():
    random = np.random.default_rng(0)
    first, second = random_units(random, 8), random_units(random, 8)
    found = distribution_overlap(with_quantiles(first), with_quantiles(second))[0]
    for unit in range(8):
        assert float(found[unit]) == pytest.approx(overlap(first[:, unit], second[:, unit]), abs=1e-9)


def test_overlap_of_known_distributions():
    levels = LEVELS.numpy()
    columns = [levels, levels + 0.25, levels * 2, levels + 2, np.zeros(len(levels)), np.full(len(levels), 1.0)]
    units = np.stack(columns, axis=1)
    uniform = np.repeat(levels[:, None], units.shape[1], axis=1)
    found = distribution_overlap(with_quantiles(units), with_quantiles(uniform))[0]
    assert found.tolist() == pytest.approx([1, 0.75, 0.5, 0, 0, 0], abs=1e-6)
    same = distribution_overlap(with_quantiles(units), with_quantiles(units))[0]
    assert same.tolist() == pytest.approx([1.0] * 6)


def test_overlap_of_text_is_near_that_of_its_histograms():
    pre = {code: normal(4000, 1, 6, seed=seed) + torch.linspace(0, 2, 6) * seed for seed, code in enumerate("ab")}
    statistics = {code: statistics_of(own, language=code) for code, own in pre.items()}
    found = distribution_overlap(statistics["a"].at("pre"), statistics["b"].at("pre"))[0]
    exact = [2 * torch.special.ndtr(-torch.tensor(shift) / 2).item() for shift in torch.linspace(0, 2, 6).tolist()]
    assert found.tolist() == pytest.approx(exact, abs=0.1)


@FEW
@given(seed=st.integers(0, 10**6), languages=st.integers(2, 6))
def test_cost_and_group_equal_those_of_all_bipartitions(seed, languages):
    random = np.random.default_rng(seed)
    values = random.integers(0, 6, (languages, languages)) / 5
    overlaps = np.maximum(values, values.T)
    everyone = set(range(languages))
    costs = {
        members: max(overlaps[one, other] for one in members for other in everyone - set(members))
        for size in range(1, languages // 2 + 1)
        for members in combinations(range(languages), size)
    }
    stacked = torch.tensor(overlaps)[..., None]
    cost = spanning_cost(stacked)
    assert float(cost) == min(costs.values())
    sizes = random.permutation(languages).astype(float).tolist()
    cheapest = [members for members, own in costs.items() if own == float(cost)]
    mask = smaller_groups(stacked, cost, torch.tensor(sizes, dtype=torch.float64)[:, None])
    group = tuple(mask[:, 0].nonzero().flatten().tolist())
    assert group in cheapest
    smallest = [members for members in cheapest if len(members) == min(map(len, cheapest))]
    assert len(group) == len(smallest[0])
    assert sum(sizes[member] for member in group) == max(sum(sizes[m] for m in members) for members in smallest)


@FEW
@given(seed=st.integers(0, 10**6), languages=st.integers(2, 4), percent=st.sampled_from([0.1, 5, 20, 100]))
def test_dln_equals_its_formula(seed, languages, percent):
    random = np.random.default_rng(seed)
    units = {code: random_units(random, 10) for code in LANGUAGES[:languages]}
    statistics = {code: with_quantiles(own, code) for code, own in units.items()}
    pairs = list(combinations(units, 2))
    overlaps = {
        pair: distribution_overlap(statistics[pair[0]], statistics[pair[1]])[0].mul(1e12).round().div(1e12).tolist()
        for pair in pairs
    }
    everything = sorted(value for own in overlaps.values() for value in own)
    tau = everything[max(1, int(len(everything) * percent / 100)) - 1]
    found = Dln(percent=percent).select(statistics)
    sorted_codes = sorted(units)
    for unit in range(10):
        costs = {}
        for size in range(1, languages // 2 + 1):
            for group in combinations(sorted_codes, size):
                across = [own[unit] for pair, own in overlaps.items() if (pair[0] in group) != (pair[1] in group)]
                costs[group] = max(across)
        owners = {code for code, own in chosen(found).items() if (0, unit) in own}
        if min(costs.values()) > tau:
            assert not owners
            continue
        squares = {code: float(own.mean[0, unit].double() ** 2) for code, own in statistics.items()}
        best = min(
            (group for group, own in costs.items() if own == min(costs.values())),
            key=lambda group: (len(group), -sum(squares[code] for code in group), group),
        )
        assert owners == set(best)
        kind = "single" if len(best) == 1 else "multi"
        assert unit in found.classes[kind].get(0, torch.empty(0)).tolist()
    assert found.derived == {"tau": tau}
    turned = Dln(percent=percent).select(dict(reversed(statistics.items())))
    assert chosen(turned) == chosen(found)


def test_dln_keeps_single_or_multi_language_units():
    levels = LEVELS.numpy()
    far = {"en": (9, 9), "hi": (9, 0), "ur": (0, 0), "vi": (0, 0), "zh": (0, 0)}
    statistics = {
        code: with_quantiles(np.stack([levels + here for here in shifts], axis=1), code) for code, shifts in far.items()
    }
    wanted = {"multi": {(0, 0)}, "single": {(0, 1)}}
    for name, units in wanted.items():
        found = chosen(Dln(percent=30, classes=name).select(statistics))
        assert found["en"] == units
        assert found["hi"] == ({(0, 0)} if name == "multi" else set())
    assert chosen(Dln(percent=30).select(statistics))["en"] == {(0, 0), (0, 1)}
