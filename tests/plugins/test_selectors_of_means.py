"""Selectors that read means or rates of several languages, against their formulas in plain Python."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench import NeuronSet
from lnbench.choices import select
from lnbench.host import get_host
from lnbench.plugins.selectors.all import All
from lnbench.plugins.selectors.language_dimensions import LanguageDimensions
from lnbench.plugins.selectors.lape import Lape
from lnbench.plugins.selectors.lape_ternary import LapeTernary
from lnbench.plugins.selectors.mean_difference import MeanDifference
from lnbench.plugins.selectors.top_activation import TopActivation
from lnbench.statistics import Statistics
from lnbench.testing import tiny_model, tiny_statistics
from tests.plugins.test_selectors import LANGUAGES, Chosen, Rates, chosen, random_rates, statistics_with
from tests.support.messages import refused
from tests.support.samples import with_rates

FEW = settings(max_examples=25, deadline=None, derandomize=True)
Places = list[tuple[int, int]]


def places(rows: list[list[float]]) -> Places:
    return [(layer, index) for layer, row in enumerate(rows) for index in range(len(row))]


def limit_of(rates: Rates, bar: float) -> float:
    everything = sorted(p for rows in rates.values() for row in rows for p in row)
    return everything[max(1, round(bar * len(everything))) - 1]


def entropy(p: list[float]) -> float:
    shares = [value / math.fsum(p) for value in p if value > 0]
    return -math.fsum(share * math.log(share) for share in shares)


# lape:balanced=true


@FEW
@given(seed=st.integers(0, 10**6), languages=st.integers(2, 5), steps=st.sampled_from([3, 50, 1000]))
def test_balanced_lape_gives_every_language_its_lowest_entropies(seed, languages, steps):
    rates = random_rates(seed, languages, 2, 20, steps)
    limit = limit_of(rates, 0.6)
    own = {
        code: sorted(
            (round(entropy([each[layer][index] for each in rates.values()]), 11), layer, index)
            for layer, index in places(rows)
            if rows[layer][index] > limit
        )
        for code, rows in rates.items()
    }
    count = min(round(round(0.3 * 40) / languages), *map(len, own.values()))
    selector = Lape(top_fraction=0.3, bar=0.6, balanced=True)
    if count == 0:
        with refused("balanced", "bar"):
            selector.select(statistics_with(rates))
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = chosen(selector.select(statistics_with(rates)))
    assert found == {code: {place[1:] for place in ranked[:count]} for code, ranked in own.items()}


def test_balanced_lape_says_that_a_language_has_too_few():
    rates = {"en": [[0.9, 0.8, 0.7, 0.6, 0.0, 0.0]], "hi": [[0.0, 0.0, 0.0, 0.0, 0.9, 0.0]]}
    found = Lape(top_fraction=0.7, bar=0.5, balanced=True).select(statistics_with(rates))
    assert [found.count(code) for code in ("en", "hi")] == [1, 1]


# Values that are always positive


@pytest.mark.parametrize("selector", ["lape", "lape_ternary", "random_active:like=all"])
def test_rates_of_values_that_are_always_positive_tell_nothing(selector):
    always = {code: with_rates(torch.ones(2, 8), language=code) for code in ("en", "hi")}
    named = {"lape": ("LAPE", "mean_difference")}.get(selector, ("random" if ":" in selector else selector,))
    with refused(*named, "post"):
        select(selector, always)


@pytest.mark.parametrize(
    "selector",
    ["lape", "lape:balanced=true", "lape_ternary", "dln", "mean_difference", "language_dimensions"],
)
def test_selectors_that_compare_languages_need_two(selector):
    with refused("two"):
        select(selector, {"en": with_rates(torch.full((1, 4), 0.5))})


# lape_ternary


def ternary(rates: Rates, penalty: float, count: int) -> Places:
    harmonic = math.fsum(1 / n for n in range(1, len(rates) + 1)) / len(rates)
    scores = []
    for layer, index in places(next(iter(rates.values()))):
        p = [rows[layer][index] for rows in rates.values()]
        if any(p):
            score = entropy(p) / math.log(len(rates)) - penalty * max(p) / harmonic
            scores.append((round(score, 11), layer, index))
    return [place[1:] for place in sorted(scores)[:count]]


@FEW
@given(
    seed=st.integers(0, 10**6),
    languages=st.integers(2, 5),
    steps=st.sampled_from([3, 50, 1000]),
    penalty=st.sampled_from([0.0, 0.05, 0.2]),
    bar=st.sampled_from([0.5, 0.8]),
)
def test_ternary_equals_its_formula(seed, languages, steps, penalty, bar):
    rates = random_rates(seed, languages, 2, 20, steps)
    found = LapeTernary(top_fraction=0.25, bar=bar, penalty=penalty).select(statistics_with(rates))
    selected, limit = ternary(rates, penalty, 10), limit_of(rates, bar)
    assert chosen(found) == {
        code: {(layer, index) for layer, index in selected if rows[layer][index] > limit}
        for code, rows in rates.items()
    }
    wanted: dict[str, set[tuple[int, int]]] = {"specific": set(), "related": set(), "general": set()}
    for layer, index in selected:
        over = sum(rows[layer][index] > limit for rows in rates.values())
        if over:
            wanted["specific" if over == 1 else "general" if over == languages else "related"].add((layer, index))
    assert {name: members(found, name) for name in found.classes} == wanted
    assert found.derived == {"penalty": penalty}


def members(neurons: NeuronSet, name: str) -> set[tuple[int, int]]:
    return {(layer, index) for layer, row in neurons.classes[name].items() for index in row.tolist()}


@FEW
@given(seed=st.integers(0, 10**6), languages=st.integers(2, 4))
def test_the_penalty_is_the_largest_without_general_neurons(seed, languages):
    rates = random_rates(seed, languages, 2, 20, 50)
    limit = limit_of(rates, 0.5)

    def general(penalty: float) -> bool:
        selected = ternary(rates, penalty, 6)
        return any(all(rows[layer][index] > limit for rows in rates.values()) for layer, index in selected)

    found = LapeTernary(top_fraction=0.15, bar=0.5).select(statistics_with(rates))
    penalty = found.derived["penalty"]
    assert 0 <= penalty <= 0.2
    assert general(penalty) == bool(found.classes["general"])
    if penalty > 0:
        assert not general(penalty)
    if penalty < 0.2:
        assert general(penalty + 1e-3)


def test_classes_are_kept_in_the_file(tmp_path):
    rates = {"en": [[0.9, 0.9, 0.9, 0.1]], "hi": [[0.0, 0.8, 0.9, 0.1]], "zh": [[0.0, 0.0, 0.9, 0.0]]}
    found = select("lape_ternary:top_fraction=1:bar=0.5:penalty=0", statistics_with(rates))
    assert {name: members(found, name) for name in found.classes} == {
        "specific": {(0, 0)},
        "related": {(0, 1)},
        "general": {(0, 2)},
    }
    found.save(tmp_path / "set.json")
    again = NeuronSet.load(tmp_path / "set.json")
    assert again == found
    assert {name: members(again, name) for name in again.classes} == {
        name: members(found, name) for name in found.classes
    }
    assert again.derived == {"penalty": 0.0}


# Means


def with_means(means: Rates, spreads: Rates, site: str = "post") -> dict[str, Statistics]:
    made = {}
    for code, rows in means.items():
        blank = with_rates(torch.full((len(rows), len(rows[0])), 0.5), language=code, site=site)
        mean, std = torch.tensor(rows, dtype=torch.float32), torch.tensor(spreads[code], dtype=torch.float32)
        made[code] = replace(blank, sites={site: replace(blank.values, mean=mean, std=std)})
    return made


def top(scores: dict[tuple[int, int], float], count: int) -> set[tuple[int, int]]:
    return set(sorted(scores, key=lambda place: (-round(scores[place], 9), place))[:count])


@FEW
@given(
    seed=st.integers(0, 10**6),
    languages=st.integers(2, 5),
    side=st.sampled_from(["above", "below", "both"]),
    standardised=st.booleans(),
)
def test_mean_difference_equals_its_formula(seed, languages, side, standardised):
    # Multiples of 1/8 are exact in float32; many tie.
    means = {
        code: [[8 * p - 4 for p in row] for row in rows]
        for code, rows in random_rates(seed, languages, 2, 15, 64).items()
    }
    spreads = {
        code: [[4 * p for p in row] for row in rows]
        for code, rows in random_rates(seed + 1, languages, 2, 15, 16).items()
    }
    found = chosen(
        MeanDifference(fraction=0.2, side=side, standardised=standardised).select(with_means(means, spreads))
    )
    for code in means:
        others = [other for other in means if other != code]
        scores = {}
        for layer, index in places(means[code]):
            value = means[code][layer][index] - math.fsum(means[o][layer][index] for o in others) / len(others)
            if abs(value) < 1e-12:
                value = 0.0
            if standardised and value:
                rest = math.fsum(spreads[o][layer][index] ** 2 for o in others) / len(others)
                pooled = math.sqrt((spreads[code][layer][index] ** 2 + rest) / 2)
                value = value / pooled if pooled else math.copysign(math.inf, value)
            scores[layer, index] = {"above": value, "below": -value, "both": abs(value)}[side]
        finite = {place: min(max(score, -1e9), 1e9) for place, score in scores.items()}
        wanted, ranked = top(finite, 6), sorted(finite.values())
        if any(0 < abs(ranked[-6] - other) < 1e-6 for other in ranked):
            continue
        assert {scores_of: finite[scores_of] for scores_of in found[code]} == {p: finite[p] for p in wanted}


def test_cohens_d_of_two_languages_is_the_usual_one():
    statistics = with_means({"en": [[1.0, 3.0]], "hi": [[0.0, 0.0]]}, {"en": [[1.0, 6.0]], "hi": [[1.0, 8.0]]})
    assert chosen(MeanDifference(fraction=0.5).select(statistics))["en"] == {(0, 1)}
    assert chosen(MeanDifference(fraction=0.5, standardised=True).select(statistics))["en"] == {(0, 0)}
    scores = MeanDifference(standardised=True).select(statistics).scores
    assert scores is not None
    assert scores["en"].tolist() == [[1.0, pytest.approx(3 / math.sqrt(50))]]


def test_top_activation_takes_one_language_at_a_time():
    means = {"en": [[0.5, -3.0, 2.0, 1.0]], "hi": [[9.0, 0.0, 0.0, 0.0]]}
    both = with_means(means, means)
    assert chosen(TopActivation(fraction=0.5).select(both))["en"] == {(0, 2), (0, 3)}
    assert chosen(TopActivation(fraction=0.5).select({"en": both["en"]}))["en"] == {(0, 2), (0, 3)}
    assert chosen(TopActivation(fraction=0.5, side="both").select(both))["en"] == {(0, 1), (0, 2)}
    assert chosen(TopActivation(fraction=0.25, side="below").select(both))["en"] == {(0, 1)}


def test_all_takes_every_unit_that_exists():
    blank = with_rates(torch.full((2, 4), 0.5))
    missing = torch.zeros(2, 4)
    missing[1, 3] = torch.nan
    values = replace(blank.values, **{name: getattr(blank.values, name) + missing for name in ("mean", "std", "min")})
    values = replace(values, positive_rate=values.positive_rate + missing, max=values.max + missing)
    found = All().select({"en": replace(blank, sites={"post": values})})
    assert found.per_layer("en").tolist() == [4, 3]


# Residual dimensions


def dimensions(means: Rates, code: str, source: str | None, layer: int, count: int) -> Chosen:
    others = [source] if source else [other for other in means if other != code]
    rows = means[code]
    scores = {
        (layer % len(rows), index): abs(
            rows[layer][index] - math.fsum(means[other][layer][index] for other in others) / len(others)
        )
        for index in range(len(rows[0]))
    }
    return {code: top(scores, count)}


@FEW
@given(seed=st.integers(0, 10**6), layer=st.integers(-3, 2), source=st.sampled_from([None, LANGUAGES[0]]))
def test_language_dimensions_equal_their_formula(seed, layer, source):
    means = {
        code: [[8 * p - 4 for p in row] for row in rows] for code, rows in random_rates(seed, 3, 3, 16, 64).items()
    }
    statistics = with_means(means, means, site="residual")
    found = chosen(LanguageDimensions(count=5, layer=layer, source=source).select(statistics))
    for code in means:
        wanted = {code: set()} if code == source else dimensions(means, code, source, layer, 5)
        assert found[code] == wanted[code]


def test_language_dimensions_are_of_the_residual_stream():
    means = {"en": [[0.0, 1.0]], "hi": [[0.0, 2.0]]}
    with refused("language_dimensions", "'post'", "residual"):
        LanguageDimensions(count=1).select(with_means(means, means))
    residual = with_means(means, means, site="residual")
    with refused("count=3", "2"):
        LanguageDimensions(count=3).select(residual)
    with refused("layer=1", "0 to 0"):
        LanguageDimensions(count=1, layer=1).select(residual)
    with refused("'zh'", "en, hi"):
        LanguageDimensions(count=1, source="zh").select(residual)


# Sites

MODEL = tiny_model()
COMPARING = ("lape", "lape:balanced=true", "lape_ternary", "random_active:like=all")
ANYWHERE = ("dln", "mean_difference:fraction=0.2", "top_activation:fraction=0.2", "all", "other_language:like=all")


@pytest.mark.parametrize("site", ["pre", "post", "product", "attention", "residual"])
def test_selectors_work_at_any_site_where_they_make_sense(site):
    statistics = tiny_statistics(MODEL, site=site)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for selector in (*ANYWHERE, *(() if site == "attention" else COMPARING)):
            found = select(selector, statistics)
            assert (found.site, found.widths) == (site, statistics["en"].widths)
    for selector in COMPARING if site == "attention" else ():
        with refused("attention", "positive"):
            select(selector, statistics)
    if site == "residual":
        assert select("language_dimensions:count=5", statistics).per_layer("hi").tolist() == [0, 0, 5]
    else:
        with refused("language_dimensions", repr(site), "residual"):
            select("language_dimensions:count=5", statistics)


# Equal sizes


@pytest.mark.parametrize(
    "of", ["lape:bar=0.3", "lape_ternary:bar=0.3", "mean_difference", "act_prob", "top_activation", "dln"]
)
def test_top_takes_as_many_of_a_ranking_for_every_language(of):
    statistics = tiny_statistics(MODEL)
    found = select(f"top:of=[{of}]:count=5", statistics)
    assert [found.count(code) for code in found] == [5] * 3
    scores = get_host().resolve("selector", of).select(statistics).scores
    for code, own in chosen(found).items():
        ranked = {place: float(scores[code][place]) for place in places(scores[code].tolist())}
        assert own == set(sorted(ranked, key=lambda place: (-ranked[place], place))[:5])


def test_top_needs_a_ranking_that_is_long_enough():
    statistics = tiny_statistics(MODEL)
    with refused("random", "scores"):
        select("top:of=random:count=5", statistics)
    with refused("count=73", "'en'", "72"):
        select("top:of=mean_difference:count=73", statistics)
    controls = get_host().control_of("top:of=[lape:bar=0.3]:count=5", 1, "random_active")
    assert [select(controls, statistics).count(code) for code in statistics] == [5] * 3
