"""Counts, overlaps and what chance would give, against loops over single neurons."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench import analysis
from lnbench.neurons import NeuronSet
from tests.support.messages import refused

LAYERS, WIDTH = 3, 5
NEURONS = st.sets(st.tuples(st.integers(0, LAYERS - 1), st.integers(0, WIDTH - 1)))
LANGUAGES = st.dictionaries(st.sampled_from(["en", "hi", "ur", "zh"]), NEURONS)


def neuron_set(chosen: dict[str, set[tuple[int, int]]]) -> NeuronSet:
    rows = {
        language: {layer: sorted(index for where, index in found if where == layer) for layer in range(LAYERS)}
        for language, found in chosen.items()
    }
    return NeuronSet("tiny", LAYERS, WIDTH, rows)


def by_chance(first: set[tuple[int, int]], second: set[tuple[int, int]]) -> float:
    """Neurons that ``first`` shares with a random set as large as ``second`` in each layer, over all such sets."""
    total = 0.0
    for layer in range(LAYERS):
        own = {index for where, index in first if where == layer}
        size = sum(where == layer for where, _ in second)
        draws = [len(own & set(draw)) for draw in itertools.combinations(range(WIDTH), size)]
        total += sum(draws) / len(draws)
    return total


@settings(max_examples=50)
@given(LANGUAGES)
def test_overlap_between_languages(chosen: dict[str, set[tuple[int, int]]]) -> None:
    found = analysis.language_overlap(neuron_set(chosen))
    assert found.languages == sorted(chosen)
    for i, one in enumerate(found.languages):
        rest = set().union(*(chosen[language] for language in chosen if language != one))
        assert found.alone[i] == len(chosen[one] - rest)
        for j, other in enumerate(found.languages):
            shared = len(chosen[one] & chosen[other])
            either = len(chosen[one] | chosen[other])
            chance = by_chance(chosen[one], chosen[other])
            assert found.counts[i, j] == shared
            assert found.jaccard[i, j].item() == pytest.approx(shared / either if either else 0)
            assert found.expected[i, j].item() == pytest.approx(chance)
            assert found.excess[i, j].item() == pytest.approx(shared - chance)
            if chosen[one]:
                assert found.share[i, j].item() == pytest.approx(shared / len(chosen[one]))
                assert found.expected_share[i, j].item() == pytest.approx(chance / len(chosen[one]))
            else:
                assert math.isnan(found.share[i, j])


@settings(max_examples=50)
@given(NEURONS, NEURONS)
def test_overlap_between_selectors(first: set[tuple[int, int]], second: set[tuple[int, int]]) -> None:
    sets = neuron_set({"hi": first, "en": set()}), neuron_set({"hi": second, "ur": first})
    found, expected = sets[0].compare(sets[1]), analysis.by_chance(*sets, "hi")
    assert list(found) == ["hi"]
    one, shared, chance = found["hi"], len(first & second), by_chance(first, second)
    assert (one.own, one.other, one.intersection) == (len(first), len(second), shared)
    assert expected.shared == pytest.approx(chance)
    assert one.jaccard == pytest.approx(shared / len(first | second) if first | second else 0)
    lowest = len(first) + len(second) - chance
    assert expected.jaccard == pytest.approx(chance / lowest if lowest else 0)


def test_all_neurons_share_what_chance_gives() -> None:
    everything = {"en": torch.ones(LAYERS, WIDTH, dtype=torch.bool), "hi": torch.ones(LAYERS, WIDTH, dtype=torch.bool)}
    neurons = NeuronSet.from_masks("tiny", everything)
    found = analysis.language_overlap(neurons)
    assert found.excess.abs().max() == 0 and found.alone.tolist() == [0, 0]
    assert analysis.by_chance(neurons, neurons, "hi").jaccard == 1


def test_one_language_has_all_its_neurons_alone() -> None:
    found = analysis.language_overlap(neuron_set({"hi": {(0, 1), (2, 3)}}))
    assert found.alone.tolist() == [2] and found.share.tolist() == [[1]]


def test_no_language() -> None:
    empty = neuron_set({})
    assert analysis.language_overlap(empty).counts.shape == (0, 0)
    with refused():
        empty.compare(empty)
