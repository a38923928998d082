"""Controls that draw other units for those of a set: as active ones, and another language's."""

from __future__ import annotations

import warnings
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench import NeuronSet
from lnbench.choices import select
from lnbench.controls import draw
from lnbench.host import get_host
from lnbench.plugins.selectors import random_active
from lnbench.plugins.selectors.other_language import OtherLanguage
from lnbench.plugins.selectors.random_active import RandomActive
from lnbench.statistics import Statistics
from lnbench.statistics.ranking import mean_magnitude
from tests.plugins.test_selectors import chosen
from tests.support.messages import refused
from tests.support.samples import normal, statistics_of

LAYERS, WIDTH = 2, 60
FEW = settings(max_examples=15, deadline=None, derandomize=True)


def statistics_with_seed(seed: int, languages: tuple[str, ...] = ("en", "hi", "zh")) -> dict[str, Statistics]:
    shift, spread = normal(LAYERS, WIDTH, seed=seed + 90), normal(LAYERS, WIDTH, seed=seed + 91).exp()
    return {
        code: statistics_of(
            (normal(40, LAYERS, WIDTH, seed=seed + 7 * number) + shift + 0.3 * normal(LAYERS, WIDTH, seed=number))
            * spread,
            language=code,
        )
        for number, code in enumerate(languages)
    }


MADE = {seed: statistics_with_seed(seed) for seed in range(3)}


def random_set(seed: int, share: float) -> NeuronSet:
    generator = torch.Generator().manual_seed(seed)
    masks = {code: torch.rand(LAYERS, WIDTH, generator=generator) < share for code in ("en", "hi", "zh")}
    return NeuronSet.from_masks("tiny", masks)


def test_the_mean_magnitude_is_that_of_the_values():
    pre = normal(3000, 1, 5, seed=1) + torch.tensor([-2.0, -0.5, 0.0, 0.3, 4.0])
    one = statistics_of(pre).at("pre")
    assert mean_magnitude(one)[0].tolist() == pytest.approx(pre[:, 0].abs().mean(0).tolist(), rel=0.02)
    exact = []
    for unit in range(5):
        kept, total = one.values.quantiles[:, 0, unit].double().tolist(), 0.0
        levels = np.array([0, 0.001, 0.0025, 0.005, *np.arange(1, 100) / 100, 0.995, 0.9975, 0.999, 1])
        for (low, high), (below, upto) in zip(pairwise(kept), pairwise(levels), strict=True):
            total += (upto - below) * float(np.abs(low + (high - low) * (np.arange(400) + 0.5) / 400).mean())
        exact.append(total)
    assert mean_magnitude(one)[0].tolist() == pytest.approx(exact, rel=1e-4)


def strata_of(statistics: dict[str, Statistics], bar: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidates ``[layers, width]`` and each unit's stratum, one number after another."""
    rates = np.stack([own.positive_rate.numpy() for own in statistics.values()])
    limit = np.sort(rates.flatten())[max(1, round(bar * rates.size)) - 1]
    candidates = (rates > limit).any(0)
    means = [rates.mean(0), np.stack([mean_magnitude(own).numpy() for own in statistics.values()]).mean(0)]
    strata = np.zeros((2, LAYERS, WIDTH), dtype=int)
    for which, values in enumerate(means):
        for layer in range(LAYERS):
            for part in range(1, count):
                if candidates[layer].any():
                    cut = np.quantile(values[layer][candidates[layer]], part / count)
                    strata[which, layer] += values[layer] >= cut - 1e-12
    return candidates, strata


@FEW
@given(
    made=st.integers(0, 2),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.02, 0.1, 0.4, 0.8]),
    bar=st.sampled_from([0.3, 0.7, 0.95]),
    count=st.integers(1, 4),
)
def test_random_active_matches_layer_rate_and_magnitude(made, seed, share, bar, count):
    statistics, neurons = MADE[made], random_set(seed, share)
    candidates, strata = strata_of(statistics, bar, count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = draw(RandomActive(bar=bar, strata=count, seed=seed), neurons, statistics)
    for language in neurons:
        own, other = neurons.mask(language).numpy(), drawn.mask(language).numpy()
        assert drawn.per_layer(language).tolist() == neurons.per_layer(language).tolist()
        for layer in range(LAYERS):
            free = candidates[layer] & ~own[layer]
            names = list(zip(*strata[:, layer].tolist(), strict=True))
            wanted = Counter(name for name, held in zip(names, own[layer], strict=True) if held)
            available = Counter(name for name, held in zip(names, free, strict=True) if held)
            got = Counter(name for name, held in zip(names, other[layer] & free, strict=True) if held)
            assert all(got[name] >= min(wanted[name], available[name]) for name in wanted)
            if free.sum() >= own[layer].sum():
                assert not (other[layer] & ~free).any()
            elif (~own[layer]).sum() >= own[layer].sum():
                assert not (other[layer] & own[layer]).any()


def test_random_active_does_not_depend_on_other_languages_of_the_set_and_changes_with_the_seed():
    statistics, neurons = MADE[0], random_set(1, 0.1)
    alone = NeuronSet.from_masks("tiny", {"hi": neurons.mask("hi")})
    drawn = [draw(RandomActive(bar=0.3, seed=seed), neurons, statistics) for seed in (0, 0, 1)]
    assert chosen(drawn[0]) == chosen(drawn[1]) != chosen(drawn[2])
    assert chosen(draw(RandomActive(bar=0.3), alone, statistics))["hi"] == chosen(drawn[0])["hi"]


def test_random_active_shares_what_draws_have_in_common_and_nothing_else(monkeypatch):
    neurons, asked = random_set(1, 0.1), []
    compute = RandomActive._candidates
    monkeypatch.setattr(RandomActive, "_candidates", lambda self, seen: asked.append(self) or compute(self, seen))
    random_active._LAST.clear()
    for seed in range(3):
        draw(RandomActive(bar=0.3, seed=seed), neurons, MADE[0])
    assert len(asked) == 1
    choices = [({"bar": 0.3}, 0), ({"bar": 0.6}, 0), ({"strata": 1}, 0), ({"bar": 0.3}, 1), ({"bar": 0.3}, 0)]
    shared = [chosen(draw(RandomActive(**own), neurons, MADE[made])) for own, made in choices]
    for (own, made), found in zip(choices, shared, strict=True):
        random_active._LAST.clear()
        assert chosen(draw(RandomActive(**own), neurons, MADE[made])) == found
    assert len({str(found) for found in shared}) > 2


def test_controls_say_what_they_lack():
    neurons = random_set(0, 0.1)
    with refused("Statistics", "--statistics"):
        draw("random_active", neurons, {})
    with refused("'hi'", "random"):
        draw("other_language", NeuronSet.from_masks("tiny", {"hi": neurons.mask("hi")}), {})
    with refused("lape", "draw"):
        draw("lape", neurons, {})
    with refused("30", "60"):
        draw("random_active", neurons, {"en": statistics_of(normal(20, LAYERS, 30), language="en")})


@FEW
@given(seed=st.integers(0, 10), share=st.sampled_from([0.0, 0.05, 0.2, 0.6]))
def test_other_language_takes_as_many_of_the_next_ones_units(seed, share):
    neurons = random_set(seed, share)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = chosen(draw(OtherLanguage(seed=seed), neurons, {}))
    sets = chosen(neurons)
    for language, own in sets.items():
        others = [code for code in sorted(sets) if code != language]
        first, second = (sets[others[(seed + step) % 2]] - own for step in (0, 1))
        assert len(drawn[language]) == min(len(own), len(first | second))
        assert not drawn[language] & own
        assert drawn[language] <= first | second
        assert len(drawn[language] & first) == min(len(own), len(first))


@pytest.mark.parametrize("control", ["random", "random_active", "other_language"])
def test_controls_are_selectors_too(control, tmp_path):
    statistics = MADE[1]
    neurons = select("lape:top_fraction=0.2", statistics)
    neurons.save(tmp_path / "set.json")
    choice = get_host().control_of("lape:top_fraction=0.2", 1, control)
    found = select(choice, statistics)
    of_file = select(get_host().control_of(str(tmp_path / "set.json"), 1, control), statistics)
    assert chosen(of_file) == chosen(found)
    assert chosen(found) == chosen(draw(f"{control}:seed=1", neurons, statistics))
    assert get_host().control_of(choice, 0, control) is None
    with refused("'lape'", "random"):
        get_host().control_of("dln", 0, "lape")
