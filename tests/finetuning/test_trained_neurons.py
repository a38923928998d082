"""The neurons to train are those asked for, and carry where they come from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lnbench import NeuronSet
from lnbench.finetuning.trained_neurons import chosen_neurons, no_neurons
from tests.support.messages import refused
from tests.support.tiny import LAYERS, WIDTH, build

SET = NeuronSet(
    "tiny",
    3,
    20,
    {"en": {0: [1, 2], 1: [4]}, "hi": {0: [2, 3, 9], 2: [7]}, "ur": {}},
    selector={"name": "lape", "parameters": {}},
    statistics="abc",
)


def ids(neurons: NeuronSet) -> dict[int, list[int]]:
    return {layer: found.tolist() for layer, found in neurons.union(neurons.languages).items()}


def test_one_language_and_several_keep_their_provenance() -> None:
    one, both = chosen_neurons(SET, "hi"), chosen_neurons(SET, "en+hi")
    assert ids(one) == {0: [2, 3, 9], 2: [7]}
    assert ids(both) == {0: [1, 2, 3, 9], 1: [4], 2: [7]}
    assert (one.languages, both.languages) == (["hi"], ["en", "hi"])
    for found in (one, both):
        assert (found.model, found.layers, found.width) == ("tiny", 3, 20)
        assert (found.selector, found.statistics) == (SET.selector, "abc")


def test_all_and_none() -> None:
    everything = chosen_neurons(SET, "all")
    assert everything.mask("all").all()
    assert everything.count("all") == 60
    assert chosen_neurons(SET, "none").languages == []


@given(seed=st.integers(0, 1000), like=st.sampled_from(["en", "hi", "en+hi", "hi+en"]))
def test_random_neurons_match_every_layer_and_avoid_the_languages_own(seed: int, like: str) -> None:
    own = chosen_neurons(SET, like)
    drawn = chosen_neurons(SET, f"random-like-{like}", seed=seed)
    assert drawn == chosen_neurons(SET, f"random-like-{like}", seed=seed)
    taken = own.union(own.languages)
    for layer in range(3):
        indices = drawn["random"].get(layer, torch.empty(0))
        assert len(indices) == len(taken.get(layer, ()))
        assert not set(indices.tolist()) & set(taken.get(layer, torch.empty(0)).tolist())
    assert drawn.selector is not None
    assert drawn.selector["name"] == "random"
    assert SET.fingerprint in drawn.selector["parameters"]["like"]


def test_random_is_like_all_languages_and_its_seed_matters() -> None:
    with pytest.warns(UserWarning, match=r"\bur\b"):
        drawn = [chosen_neurons(SET, "random", seed=seed) for seed in range(5)]
    with pytest.warns(UserWarning, match=r"\bur\b"):
        whole = chosen_neurons(SET, "en+hi+ur")
    assert {tuple(one.per_layer("random").tolist()) for one in drawn} == {(4, 1, 1)}
    assert sum(map(len, ids(whole).values())) == 6
    assert len({one.fingerprint for one in drawn}) == 5


def test_a_full_layer_leaves_only_its_own_to_draw() -> None:
    full = NeuronSet("tiny", 1, 4, {"hi": {0: [0, 1, 2]}})
    drawn = chosen_neurons(full, "random-like-hi")["random"][0].tolist()
    assert len(drawn) == 3
    assert 3 in drawn


@pytest.mark.parametrize(
    ("languages", "named"),
    [
        ("ur", ["ur", "languages=none"]),
        ("random-like-ur", ["ur", "languages=none"]),
        ("xx", ["xx", "en, hi, ur"]),
        ("en+xx", ["xx", "en, hi, ur"]),
        ("random-like-xx", ["xx", "en, hi, ur"]),
        ("", ["''", "en, hi, ur"]),
    ],
)
def test_refuses_languages_without_neurons(languages: str, named: list[str]) -> None:
    with refused(*named):
        chosen_neurons(SET, languages)


def test_without_a_set_only_all_and_none_can_be_chosen() -> None:
    empty = no_neurons(build("llama"))
    assert (empty.layers, empty.width, empty.languages) == (LAYERS, WIDTH, [])
    assert chosen_neurons(empty, "all").count("all") == LAYERS * WIDTH
    assert chosen_neurons(empty, "none").languages == []
    for languages in ("hi", "random"):
        with refused("--neurons"):
            chosen_neurons(empty, languages)


@pytest.mark.parametrize("languages", ["hi", "en+hi", "random", "random-like-en", "all", "none"])
def test_what_is_trained_keeps_its_site(languages: str) -> None:
    of_pre = NeuronSet("tiny", 3, 20, {"en": {0: [1]}, "hi": {1: [2]}}, site="pre")
    assert chosen_neurons(of_pre, languages).site == "pre"
