"""Questions to Statistics: quantiles, shares above a threshold, percentiles of pooled activations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lnbench.statistics.language_statistics import check_same_model
from lnbench.statistics.site_values import LEVELS
from tests.support.messages import refused
from tests.support.samples import normal, statistics_of, with_rates

LAYERS, WIDTH = 3, 7
SCALES = torch.tensor([0.3, 1.0, 4.0])[:, None] * torch.linspace(0.5, 2, WIDTH)
CONTINUOUS = statistics_of(normal(9_000, LAYERS, WIDTH) * SCALES, chunk=900)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(q=st.floats(0, 1), p=st.floats(0, 1))
def test_quantiles_rise_with_their_level(q, p):
    low, high = sorted((q, p))
    for site in ("pre", "post"):
        statistics = CONTINUOUS.at(site)
        assert (statistics.quantile(low) <= statistics.quantile(high) + 1e-6).all()
        assert (statistics.quantile(low) >= statistics.min).all()
        assert (statistics.quantile(high) <= statistics.max).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(q=st.floats(0, 1))
def test_exceedance_undoes_quantile(q):
    for site in ("pre", "post"):
        statistics = CONTINUOUS.at(site)
        torch.testing.assert_close(
            statistics.exceedance(statistics.quantile(q)),
            torch.full((LAYERS, WIDTH), 1 - q, dtype=torch.float64),
            rtol=0,
            atol=2e-3,
        )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(first=st.floats(-20, 20), second=st.floats(-20, 20))
def test_exceedance_falls_with_the_threshold(first, second):
    low, high = sorted((first, second))
    assert (CONTINUOUS.exceedance(low) >= CONTINUOUS.exceedance(high)).all()
    assert ((CONTINUOUS.exceedance(low) >= 0) & (CONTINUOUS.exceedance(low) <= 1)).all()


def test_quantile_is_linear_between_the_kept_levels():
    kept = CONTINUOUS.values.quantiles
    ten = int((LEVELS == 0.1).nonzero())
    assert torch.equal(CONTINUOUS.quantile(0.1), kept[ten])
    torch.testing.assert_close(CONTINUOUS.quantile(0.1025), 0.75 * kept[ten] + 0.25 * kept[ten + 1])
    for number, level in enumerate(LEVELS.tolist()):
        assert torch.equal(CONTINUOUS.quantile(level), kept[number])
        assert torch.equal(CONTINUOUS.quantile(round(level * 100, 4) / 100), kept[number])
    CONTINUOUS.quantile(0.1).zero_()
    assert not torch.equal(CONTINUOUS.quantile(0.1), torch.zeros(LAYERS, WIDTH))


@pytest.mark.parametrize("q", [-0.01, 1.01, 10, float("nan")])
def test_levels_lie_between_0_and_1(q):
    for ask in (CONTINUOUS.quantile, CONTINUOUS.pooled_quantile, lambda q: CONTINUOUS.pooled_quantile(q, "layer")):
        with refused("0", "1", q):
            ask(q)


def test_exceedance_at_the_ends_and_with_ties():
    pre = torch.tensor([-1.0] * 40 + [0.0] * 30 + [2.0] * 30).repeat(100)[:, None, None]
    statistics = statistics_of(pre, torch.relu)
    for threshold, share in ((-1, 1), (-1e-9, 1), (0, 0.3), (1.0, 0.3), (2, 0), (3, 0)):
        assert abs(float(statistics.exceedance(threshold)) - share) <= 0.011, threshold
    before = statistics.at("pre")
    for threshold, share in ((-2, 1), (-0.9, 0.6), (-0.1, 0.6), (0, 0.3), (0.1, 0.3), (1.9, 0.3), (2, 0)):
        assert abs(float(before.exceedance(threshold)) - share) <= 0.011, threshold
    assert statistics.exceedance(0.0).item() == before.exceedance(0.0).item() == 0.3
    constant = statistics_of(torch.full((2000, 1, 2), 0.7), torch.relu)
    assert constant.exceedance(torch.tensor([[0.7, 0.69]])).tolist() == [[0, 1]]


def test_exceedance_takes_any_threshold_that_broadcasts():
    wanted = CONTINUOUS.exceedance(torch.full((LAYERS, WIDTH), 0.5))
    for threshold in (0.5, torch.tensor(0.5), torch.full((LAYERS, 1), 0.5), torch.full((1, WIDTH), 0.5).double()):
        assert torch.equal(CONTINUOUS.exceedance(threshold), wanted)


@pytest.mark.parametrize("function", [functional.silu, functional.gelu, torch.relu])
@pytest.mark.parametrize("site", ["pre", "post"])
def test_pooled_quantile_equals_pooling_everything(function, site):
    pre = normal(6_000, LAYERS, WIDTH, seed=4) * SCALES
    values = function(pre) if site == "post" else pre
    statistics = statistics_of(pre, function).at(site)
    for q in (0.05, 0.3, 0.5, 0.9, 0.99):
        layer, model = statistics.pooled_quantile(q, "layer"), statistics.pooled_quantile(q, "model")
        assert (layer.shape, model.shape) == ((LAYERS, 1), (1, 1))
        assert torch.equal(statistics.pooled_quantile(q, "neuron"), statistics.quantile(q))
        for found, pool in [*zip(layer, values.transpose(0, 1), strict=True), (model, values)]:
            below, upto = (pool < found.item()).double().mean(), (pool <= found.item()).double().mean()
            assert below - 0.006 <= q <= upto + 0.006


def test_pooled_quantile_of_mostly_dead_neurons_is_zero():
    statistics = statistics_of(normal(3_000, 2, 4) - 3, torch.relu)
    assert (statistics.pooled_quantile(0.9, "layer") == 0).all()
    assert statistics.pooled_quantile(0.9, "model").item() == 0
    assert torch.equal(statistics.pooled_quantile(0, "layer"), torch.zeros(2, 1))
    torch.testing.assert_close(statistics.pooled_quantile(1, "model").item(), statistics.max.max().item())


def test_unknown_scope_and_site():
    with refused("head", "neuron, layer, model"):
        CONTINUOUS.pooled_quantile(0.5, "head")
    with refused("gate", "pre, post"):
        CONTINUOUS.at("gate")


def test_fingerprint_follows_the_numbers_and_not_where_they_lie():
    one = with_rates([[0.5]])
    others = [
        replace(one, language="hi"),
        replace(one, tokens=7),
        with_rates([[0.25]]),
    ]
    assert replace(one, provenance={"model": "elsewhere"}).fingerprint == one.fingerprint
    assert len({each.fingerprint for each in (one, *others)}) == 4
    assert replace(one, provenance={"model": "tiny", "revision": None}).fingerprint == one.fingerprint


def test_statistics_compared_are_alike():
    one = with_rates([[0.5, 0.1]])
    assert check_same_model({"en": one, "hi": replace(one, language="hi")}) == ("tiny", 1, 2)
    with refused("Statistics"):
        check_same_model({})
    for other, named in (
        (with_rates([[0.5, 0.1]], language="hi", model="large"), ["model", "'tiny'", "'en'", "'large'", "'hi'"]),
        (with_rates([[0.5]], language="hi"), ["widths", "2", "1"]),
        (with_rates([[0.5, 0.1]], language="hi", site="pre"), ["site", "'post'", "'pre'"]),
        (replace(one, language="hi", provenance={"model": "tiny", "weights": "ab"}), ["weights", "None", "'ab'"]),
    ):
        with refused(*named):
            check_same_model({"en": one, "hi": other})
