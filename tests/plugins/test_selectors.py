"""The built-in selectors, against the formulas written out in plain Python."""

from __future__ import annotations

import math
import random
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lnbench import NeuronSet
from lnbench.hookspecs import Needs
from lnbench.plugins.selectors.act_prob import ActProb
from lnbench.plugins.selectors.lape import Lape, activation_entropy
from lnbench.plugins.selectors.random import Random
from lnbench.statistics import LEVELS, Statistics, collect_statistics
from tests.support.messages import refused
from tests.support.samples import normal, statistics_of, with_rates
from tests.support.tiny import VOCABULARY, build

LANGUAGES = ("en", "fr", "es", "vi", "id", "ja", "zh")
Rates = dict[str, list[list[float]]]
Chosen = dict[str, set[tuple[int, int]]]


def chosen(neurons: NeuronSet) -> Chosen:
    return {
        language: {(layer, index) for layer, found in neurons[language].items() for index in found.tolist()}
        for language in neurons
    }


def lape(rates: Rates, top_fraction: float, bar: float) -> Chosen:
    """LAPE as its authors write it, neuron by neuron."""
    layers, width = len(next(iter(rates.values()))), len(next(iter(rates.values()))[0])
    everything = sorted(p for rows in rates.values() for row in rows for p in row)
    limit = everything[max(1, round(bar * len(everything))) - 1]
    entropies = []
    for layer in range(layers):
        for index in range(width):
            p = [rates[language][layer][index] for language in rates]
            if not any(value > limit for value in p):
                continue
            shares = [value / math.fsum(p) for value in p]
            entropy = -math.fsum(share * math.log(share) for share in shares if share > 0)
            entropies.append((round(entropy, 11), layer, index))
    selected = [place[1:] for place in sorted(entropies)[: round(top_fraction * layers * width)]]
    return {
        language: {(layer, index) for layer, index in selected if rows[layer][index] > limit}
        for language, rows in rates.items()
    }


def statistics_with(rates: Rates) -> dict[str, Statistics]:
    return {language: with_rates(rows, language=language) for language, rows in rates.items()}


def random_rates(seed: int, languages: int, layers: int, width: int, steps: int) -> Rates:
    """Rates of few different values, so that many tie; some neurons are dead, some the same in every language."""
    source = random.Random(seed)
    rates: Rates = {language: [[0.0] * width for _ in range(layers)] for language in LANGUAGES[:languages]}
    for layer in range(layers):
        for index in range(width):
            kind = source.random()
            same = source.randint(0, steps) / steps
            for rows in rates.values():
                value = source.randint(0, steps) / steps if kind > 0.3 else same if kind > 0.15 else 0.0
                rows[layer][index] = value
    return rates


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    languages=st.integers(2, 7),
    layers=st.integers(1, 3),
    width=st.integers(1, 20),
    steps=st.sampled_from([1, 2, 3, 7, 50, 1000]),
    top_fraction=st.sampled_from([0.01, 0.05, 0.25, 1.0]),
    bar=st.sampled_from([0.5, 0.8, 0.95, 1.0]),
)
def test_lape_equals_its_formula(seed, languages, layers, width, steps, top_fraction, bar):
    rates = random_rates(seed, languages, layers, width, steps)
    found = Lape(top_fraction=top_fraction, bar=bar).select(statistics_with(rates))
    assert chosen(found) == lape(rates, top_fraction, bar)
    assert (found.layers, found.width, found.model) == (layers, width, "tiny")


def test_lape_on_a_real_size():
    rates = random_rates(1, 5, 4, 400, 500)
    found = chosen(Lape().select(statistics_with(rates)))
    assert found == lape(rates, 0.01, 0.95)
    assert len(set.union(*found.values())) == 16


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), order=st.permutations(LANGUAGES[:5]))
def test_lape_does_not_depend_on_the_order_of_languages(seed, order):
    statistics = statistics_with(random_rates(seed, 5, 2, 15, 7))
    straight = Lape(top_fraction=0.2, bar=0.7).select(statistics)
    assert Lape(top_fraction=0.2, bar=0.7).select({language: statistics[language] for language in order}) == straight


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), factor=st.sampled_from([0.5, 0.25, 2**-10]))
def test_lape_does_not_depend_on_the_scale_of_rates(seed, factor):
    rates = random_rates(seed, 4, 2, 15, 16)
    scaled = {language: [[p * factor for p in row] for row in rows] for language, rows in rates.items()}
    wanted = chosen(Lape(top_fraction=0.2, bar=0.7).select(statistics_with(rates)))
    assert chosen(Lape(top_fraction=0.2, bar=0.7).select(statistics_with(scaled))) == wanted


def test_lape_shares_a_neuron_between_languages_and_ignores_dead_ones():
    rates = {"en": [[0.9, 0.9, 0.0, 0.1]], "hi": [[0.0, 0.9, 0.0, 0.1]], "zh": [[0.0, 0.0, 0.0, 0.1]]}
    found = Lape(top_fraction=0.5, bar=0.75).select(statistics_with(rates))
    assert chosen(found) == {"en": {(0, 0), (0, 1)}, "hi": {(0, 1)}, "zh": set()}


def test_lape_compares_languages():
    with refused("LAPE", "act_prob"):
        Lape().select({"en": with_rates([[0.5]])})
    with refused("Statistics"):
        Lape().select({})


def test_entropy():
    rates = torch.tensor([[1.0, 0, 0, 0], [0.3, 0.3, 0.3, 0.3], [0, 0, 0, 0], [0.2, 0.2, 0, 0]], dtype=torch.float64)
    wanted = torch.tensor([0, math.log(4), 0, math.log(2)], dtype=torch.float64)
    torch.testing.assert_close(activation_entropy(rates), wanted)
    generated = torch.rand(200, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(activation_entropy(generated), activation_entropy(generated.flip(1)))


LAYERS, WIDTH = 3, 40
SPREAD = torch.rand(LAYERS, WIDTH, generator=torch.Generator().manual_seed(3)) * 2 + 0.2


def language_statistics(language: str, seed: int) -> tuple[Statistics, torch.Tensor]:
    scale = torch.tensor([0.5, 1.0, 2.0])[:, None]
    pre = (normal(1500, LAYERS, WIDTH, seed=seed) * SPREAD + normal(LAYERS, WIDTH, seed=seed + 50) - 0.5) * scale
    return statistics_of(pre, language=language), torch.nn.functional.silu(pre)


def act_prob(one: Statistics, threshold: Any, count: int) -> set[tuple[int, int]]:
    """The neurons that exceed ``threshold(layer, index)`` most often, by each one's own kept quantiles."""
    relevance = []
    for layer in range(one.layers):
        for index in range(one.width):
            kept = one.values.quantiles[:, layer, index].double().numpy()
            limit = float(threshold(layer, index))
            last = int((kept <= limit).sum())
            if last in (0, len(kept)):
                below = 0.0 if last == 0 else 1.0
            else:
                below = float(np.interp(limit, kept[last - 1 : last + 1], LEVELS[last - 1 : last + 1].numpy()))
            relevance.append((-round(1 - below, 6), layer, index))
    return {place[1:] for place in sorted(relevance)[:count]}


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_act_prob_ranks_by_a_pooled_percentile(scope, level):
    fraction, count = 0.1, 12
    made = {language: language_statistics(language, seed) for seed, language in enumerate(("hi", "zh"))}
    found = chosen(
        ActProb(level=level, scope=scope, fraction=fraction, against="none").select(
            {name: one for name, (one, _) in made.items()}
        )
    )
    for language, (one, post) in made.items():
        assert len(found[language]) == count
        pooled = one.pooled_quantile(level, scope).expand(LAYERS, WIDTH)
        assert found[language] == act_prob(one, lambda layer, index, at=pooled: at[layer, index], count)
        pool = post.transpose(0, 1).flatten(1) if scope == "layer" else post.flatten().unsqueeze(0)
        exact = torch.stack([row.sort().values[int(level * len(row))] for row in pool]).unsqueeze(1)
        share = (post > exact).double().mean(0)
        worst = min(share[place] for place in found[language])
        best = torch.tensor([share[x, y] for x in range(LAYERS) for y in range(WIDTH) if (x, y) not in found[language]])
        assert worst >= best.max() - 0.02


def test_act_prob_against_none_takes_one_language_at_a_time():
    hi, zh = language_statistics("hi", 1)[0], language_statistics("zh", 2)[0]
    both = ActProb(fraction=0.1, against="none").select({"hi": hi, "zh": zh})
    alone = ActProb(fraction=0.1, against="none").select({"hi": hi})
    assert chosen(alone)["hi"] == chosen(both)["hi"]
    with refused("two", "act_prob:against=none"):
        ActProb(fraction=0.1).select({"hi": hi})


@pytest.mark.parametrize("languages", [("hi", "zh"), ("en", "hi", "ur", "zh")])
def test_act_prob_ranks_by_the_relevance_less_that_of_the_others(languages):
    statistics = {code: language_statistics(code, seed)[0] for seed, code in enumerate(languages)}
    found = ActProb(fraction=0.1).select(statistics)
    relevance = {code: own.exceedance(own.pooled_quantile(0.9, "layer")).tolist() for code, own in statistics.items()}
    for code in languages:
        others = [relevance[other] for other in languages if other != code]
        contrast = {
            (layer, index): math.fsum([value, *(-row[layer][index] / len(others) for row in others)])
            for layer, row in enumerate(relevance[code])
            for index, value in enumerate(row)
        }
        wanted = sorted(contrast, key=lambda place: (-round(contrast[place], 11), place))[:12]
        assert chosen(found)[code] == set(wanted)
    turned = ActProb(fraction=0.1).select(dict(reversed(statistics.items())))
    assert chosen(turned) == chosen(found)


def test_neurons_that_are_always_active_are_no_languages():
    """The case that the ranking without other languages gets wrong: it takes the first of many equals."""
    pre = normal(400, 2, 40, seed=1)
    always = pre.clone()
    always[:, :, :10] += 30
    statistics = {}
    for number, code in enumerate(("en", "hi")):
        own = always.clone()
        own[:, 1, 20 + number] += 6
        statistics[code] = statistics_of(own, language=code)
    found = chosen(ActProb(fraction=1 / 80, level=0.5).select(statistics))
    assert found == {"en": {(1, 20)}, "hi": {(1, 21)}}
    alone = chosen(ActProb(fraction=1 / 80, level=0.5, against="none").select(statistics))
    assert alone == {"en": {(0, 0)}, "hi": {(0, 0)}}


def test_act_prob_within_a_neuron_ranks_nothing():
    one = language_statistics("hi", 1)[0]
    assert one.exceedance(one.pooled_quantile(0.9, "neuron")).sub(0.1).abs().max() < 1e-6
    assert ActProb(scope="neuron", fraction=0.1, against="none").select({"hi": one}).count("hi") == 12


def test_act_prob_as_published():
    model = build("llama")
    blocks = [torch.randint(3, VOCABULARY, (2, 30), generator=torch.Generator().manual_seed(n)) for n in range(3)]
    selector = ActProb(preset="paper", fraction=0.1, level=0.75)
    assert selector.needs == Needs(batch_levels=(0.75,))
    assert ActProb().needs == Needs()
    one = collect_statistics(model, blocks, language="hi", batch_levels=selector.needs.batch_levels)
    kept = one.batch_quantiles["post"][0.75]
    wanted = act_prob(one, lambda layer, index: kept[layer, index], 7)
    assert chosen(selector.select({"hi": one}))["hi"] == wanted
    before = chosen(selector.select({"hi": one.at("pre")}))["hi"]
    kept = one.batch_quantiles["pre"][0.75]
    assert before == act_prob(one.at("pre"), lambda layer, index: kept[layer, index], 7)
    with refused("'hi'", "lnbench stats --batch-level 0.9"):
        ActProb(preset="paper").select({"hi": one})
    with refused("'hi'", "lnbench stats --batch-level 0.75"):
        selector.select({"hi": replace(one, batch_quantiles={})})


@pytest.fixture
def matched(tmp_path):
    """A NeuronSet on disk: uneven counts, a full layer, an empty one."""
    generator = torch.Generator().manual_seed(4)
    masks = {language: torch.rand(4, 30, generator=generator) < 0.3 for language in ("en", "hi", "zh")}
    masks["hi"][1] = True
    masks["hi"][2] = False
    masks["zh"][0] = torch.arange(30) < 20
    path = tmp_path / "neurons.json"
    NeuronSet.from_masks("tiny", masks).save(path)
    return path


def shaped(*languages: str) -> dict[str, Statistics]:
    return {language: with_rates(torch.zeros(4, 30), language=language) for language in languages}


def test_random_matches_the_counts_of_a_set_and_avoids_its_neurons(matched):
    like = NeuronSet.load(matched)
    found = Random(like=str(matched)).select(shaped("en", "hi", "zh"))
    for language in ("en", "hi", "zh"):
        assert found.per_layer(language).tolist() == like.per_layer(language).tolist()
        for layer, count in enumerate(like.per_layer(language).tolist()):
            shared = int((found.mask(language) & like.mask(language))[layer].sum())
            assert shared == max(0, 2 * count - 30)


def test_random_takes_a_fraction_of_every_layer():
    found = Random(fraction=0.2).select(shaped("en", "hi"))
    assert found.per_layer("en").tolist() == found.per_layer("hi").tolist() == [6] * 4
    assert chosen(found)["en"] != chosen(found)["hi"]
    assert Random(fraction=1).select(shaped("en")).per_layer("en").tolist() == [30] * 4


@pytest.mark.parametrize("from_file", [True, False])
def test_random_depends_on_the_seed_and_the_language_alone(matched, from_file):
    def draw(seed: int, *languages: str) -> Chosen:
        like = str(matched) if from_file else None
        return chosen(Random(like=like, fraction=0.3, seed=seed).select(shaped(*languages)))

    assert draw(0, "en", "hi") == draw(0, "en", "hi")
    assert draw(0, "hi")["hi"] == draw(0, "zh", "hi", "en")["hi"]
    assert draw(0, "hi")["hi"] != draw(1, "hi")["hi"]
    assert draw(2**64, "hi")["hi"] != draw(0, "hi")["hi"]
    state = torch.get_rng_state()
    draw(3, "hi")
    assert torch.equal(torch.get_rng_state(), state)


def test_random_needs_a_set_that_fits(matched, tmp_path):
    with refused("vi", "en, hi, zh", matched):
        Random(like=str(matched)).select(shaped("en", "vi"))
    with refused("30", "31"):
        Random(like=str(matched)).select({"en": with_rates(torch.zeros(4, 31))})
    with refused(tmp_path / "none.json"):
        Random(like=str(tmp_path / "none.json")).select(shaped("en"))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(fraction=st.floats(0.01, 1), seed=st.integers(0, 2**70), width=st.integers(1, 40))
def test_random_draws_are_uniform_in_size(fraction, seed, width):
    assume(round(fraction * width) > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Random(fraction=fraction, seed=seed).select({"en": with_rates(torch.zeros(2, width))})
    assert found.per_layer("en").tolist() == [round(fraction * width)] * 2
