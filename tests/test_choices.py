"""``select``: what is stamped on a NeuronSet, and what is said when a selector fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

import lnbench
from lnbench import NeuronSet
from lnbench.choices import select
from lnbench.errors import PluginError
from lnbench.host import get_host
from lnbench.plugins.selectors.act_prob import ActProb
from tests.support.messages import refused
from tests.support.samples import normal, statistics_of

STATISTICS = {
    language: statistics_of(normal(60, 2, 30, seed=seed), language=language)
    for seed, language in enumerate(("zh", "en", "hi"))
}


@contextmanager
def registered(answer: Callable[[Any], Any]) -> Iterator[None]:
    """A plugin with one selector, ``thrown``, that returns what ``answer`` makes of the Statistics."""

    class Thrown:
        def select(self, statistics: Any) -> Any:
            return answer(statistics)

    class Plugin:
        @lnbench.hookimpl
        def lnbench_register_selectors(self, register: Any) -> None:
            register("thrown", Thrown)

    plugin = Plugin()
    get_host().register(plugin)
    try:
        yield
    finally:
        get_host().unregister(plugin)


def test_says_where_the_neurons_come_from(tmp_path):
    neurons = select("act_prob:fraction=0.1", STATISTICS)
    assert neurons.selector == {
        "name": "act_prob",
        "parameters": {"level": 0.9, "scope": "layer", "fraction": 0.1, "against": "others", "preset": "none"},
    }
    assert (neurons.model, neurons.layers, neurons.width) == ("tiny", 2, 30)
    assert neurons.languages == ["en", "hi", "zh"]
    assert [neurons.count(language) for language in neurons] == [6, 6, 6]
    neurons.save(tmp_path / "neurons.json")
    assert NeuronSet.load(tmp_path / "neurons.json") == neurons == select(ActProb(fraction=0.1), STATISTICS)


def test_the_fingerprint_of_the_statistics():
    known = select("lape", STATISTICS).statistics
    turned = dict(reversed(STATISTICS.items()))
    assert select("lape", turned).statistics == known == select("act_prob", STATISTICS).statistics
    for changed in (
        {language: STATISTICS[language] for language in ("en", "hi")},
        STATISTICS | {"hi": replace(STATISTICS["hi"], tokens=61)},
        {language: one.at("pre") for language, one in STATISTICS.items()},
    ):
        assert select("lape", changed).statistics != known


def test_statistics_of_different_models():
    other = replace(STATISTICS["hi"], provenance={"model": "another"})
    with refused("model", "'tiny'", "'zh'", "'another'", "'hi'"):
        select("lape", STATISTICS | {"hi": other})
    with refused("Statistics"):
        select("lape", {})


def test_unknown_selector_and_parameter():
    with refused("best", *get_host().names("selector")):
        select("best", STATISTICS)
    with refused("lape", "'top'", "top_fraction"):
        select("lape:top=1", STATISTICS)
    with refused("lape", "top_fraction='2'"):
        select("lape:top_fraction=2", STATISTICS)


def test_a_third_party_selector():
    masks = {"hi": torch.eye(2, 30) > 0}
    with registered(lambda statistics: NeuronSet.from_masks("whatever", masks)):
        neurons = select("thrown", STATISTICS)
    assert neurons.selector == {"name": "thrown", "parameters": {}}
    assert neurons.model == "tiny"
    assert {layer: found.tolist() for layer, found in neurons["hi"].items()} == {0: [0], 1: [1]}
    assert neurons.statistics == select("lape", STATISTICS).statistics
    with refused("thrown", *get_host().names("selector")):
        select("thrown", STATISTICS)


@pytest.mark.parametrize("junk", [None, {"hi": {0: [1]}}, [], "neurons"])
def test_junk_from_a_selector(junk):
    with (
        registered(lambda _: junk),
        refused("thrown", type(junk).__name__, "lnbench.NeuronSet"),
    ):
        select("thrown", STATISTICS)


def test_neurons_of_another_shape():
    wrong = NeuronSet("tiny", 9, 30, {"hi": {8: [1]}})
    with registered(lambda _: wrong), refused("thrown", "9", "2", "30"):
        select("thrown", STATISTICS)


def test_a_selector_that_fails():
    def fail(_: Any) -> None:
        raise ZeroDivisionError("nothing to divide")

    with (
        registered(fail),
        refused("thrown", "ZeroDivisionError: nothing to divide", error=PluginError) as caught,
    ):
        select("thrown", STATISTICS)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_selector_cannot_change_what_is_recorded():
    def greedy(statistics: Any) -> NeuronSet:
        statistics.clear()
        return NeuronSet("tiny", 2, 30, {"hi": {0: [1]}})

    given = dict(STATISTICS)
    with registered(greedy):
        neurons = select("thrown", given)
    assert given == STATISTICS
    assert neurons.statistics == select("lape", STATISTICS).statistics
