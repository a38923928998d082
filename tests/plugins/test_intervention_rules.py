"""Interventions on neurons against loops over neurons: each rule is written once more, for one number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lnbench import NeuronSet, Statistics, override
from lnbench.choices import plan
from lnbench.host import get_host
from lnbench.model.locate import locate
from lnbench.parameters import format_choice, layer_numbers, parse_choice
from lnbench.testing import LANGUAGES, tiny_model, tiny_statistics
from tests.support.messages import refused
from tests.support.overrides import LEFT, generate, greedy_without_cache

LAYERS, WIDTH = 3, 24


@cache
def model() -> Any:
    return tiny_model()


@cache
def statistics() -> dict[str, Statistics]:
    return tiny_statistics(model())


def neuron_set(seed: int, share: float = 0.3) -> NeuronSet:
    """Random sets, which overlap; no neuron is every language's."""
    drawn = torch.rand(len(LANGUAGES), LAYERS, WIDTH, generator=torch.Generator().manual_seed(seed)) < share
    drawn[0] &= ~drawn.all(0)
    return NeuronSet.from_masks("tiny", dict(zip(LANGUAGES, drawn, strict=True)))


@dataclass
class World:
    neurons: NeuronSet
    source: str
    target: str

    def has(self, language: str, layer: int, index: int) -> bool:
        return index in self.neurons[language].get(layer, torch.empty(0)).tolist()

    def mean(self, language: str, layer: int, index: int) -> float:
        return float(statistics()[language].mean[layer, index])

    def level(self, language: str, level: float, layer: int, index: int) -> float:
        return float(statistics()[language].quantile(level)[layer, index])


Rule = Callable[[World, int, int, Tensor], Tensor | float]
"""``(world, layer, index, activations of one neuron) -> new activations``."""


def own(rule: Rule) -> Rule:
    """A rule for the target's neurons only."""
    return lambda w, layer, j, a: rule(w, layer, j, a) if w.has(w.target, layer, j) else a


def average(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def foreign(w: World, layer: int, j: int, _: Tensor) -> float:
    return average([w.mean(k, layer, j) for k in LANGUAGES if not w.has(k, layer, j)])


def shifted(w: World, layer: int, j: int, a: Tensor) -> Tensor:
    return a + w.mean(w.target, layer, j) - average([w.mean(k, layer, j) for k in LANGUAGES if k != w.target])


def swapped(silenced: Rule, raised: Rule) -> Rule:
    def rule(w: World, layer: int, j: int, a: Tensor) -> Tensor | float:
        if w.has(w.target, layer, j):
            return raised(w, layer, j, a)
        return silenced(w, layer, j, a) if w.has(w.source, layer, j) else a

    return rule


def in_layers(layers: set[int], rule: Rule) -> Rule:
    return lambda w, layer, j, a: rule(w, layer, j, a) if layer in layers else a


def zero(*_: Any) -> float:
    return 0.0


RULES: dict[str, Rule] = {
    "zero": own(zero),
    "zero:layers=1-2": in_layers({1, 2}, own(zero)),
    "constant:value=2:layers=0+2": in_layers({0, 2}, own(lambda *_: 2.0)),
    "mean:layers=1": in_layers({1}, own(lambda w, layer, j, _: w.mean(w.target, layer, j))),
    "p10:layers=0-1": in_layers({0, 1}, own(lambda w, layer, j, _: w.level(w.target, 0.1, layer, j))),
    "median": own(lambda w, layer, j, _: w.level(w.target, 0.5, layer, j)),
    "max": own(lambda w, layer, j, _: float(statistics()[w.target].max[layer, j])),
    "add": own(lambda w, layer, j, a: a + w.mean(w.target, layer, j)),
    "add:quantile=mean:strength=-0.5": own(lambda w, layer, j, a: a - w.mean(w.target, layer, j) / 2),
    "add:quantile=0.9": own(lambda w, layer, j, a: a + w.level(w.target, 0.9, layer, j)),
    "scale:factor=-2": own(lambda _w, _layer, _j, a: -2 * a),
    "language_mean:of=zh": own(lambda w, layer, j, _: w.mean("zh", layer, j)),
    "complement_mean": own(foreign),
    "mean_shift": own(shifted),
    "clamp": own(lambda w, layer, j, a: a.clip(*(w.level(w.target, q, layer, j) for q in (0.05, 0.95)))),
    "clamp:low=-5:high=max:layers=2": in_layers(
        {2}, own(lambda w, layer, j, a: a.clip(-5, float(statistics()[w.target].max[layer, j])))
    ),
    "swap": swapped(zero, lambda w, layer, j, a: a + w.mean(w.target, layer, j)),
    "swap:source=p5:target=p90": swapped(
        lambda w, layer, j, _: w.level(w.source, 0.05, layer, j),
        lambda w, layer, j, _: w.level(w.target, 0.9, layer, j),
    ),
    "swap:source=constant:value=-2.5:target=mean": swapped(
        lambda *_: -2.5, lambda w, layer, j, _: w.mean(w.target, layer, j)
    ),
    "fallback:languages=en+zh": lambda w, layer, j, a: 0.0 if w.has("en", layer, j) or w.has("zh", layer, j) else a,
    "all_of:[zero:layers=0]:[swap:layers=1]:[scale:factor=3:layers=2]": lambda w, layer, j, a: (
        own(zero),
        swapped(zero, lambda w, layer, j, a: a + w.mean(w.target, layer, j)),
        own(lambda _w, _layer, _j, a: 3 * a),
    )[layer](w, layer, j, a),
}


@contextmanager
def by_hand(rule: Rule, world: World, real: Tensor | None = None) -> Iterator[None]:
    """Replace the non-linearities by ones that go through their neurons one by one, at the tokens of ``real``."""
    activations = locate(model()).activations
    for layer, module in enumerate(activations):

        def forward(x: Tensor, *, layer: int = layer, inner: Any = module.forward) -> Tensor:
            columns = list(inner(x).unbind(-1))
            for index, old in enumerate(columns):
                new = torch.as_tensor(rule(world, layer, index, old)).expand_as(old)
                columns[index] = new if real is None else torch.where(real.reshape(old.shape), new, old)
            return torch.stack(columns, -1)

        module.forward = forward
    try:
        yield
    finally:
        for module in activations:
            del module.forward


def overridden(choice: str, world: World) -> Any:
    return override(model(), world.neurons, choice, statistics=statistics(), source=world.source, target=world.target)


@pytest.mark.parametrize("choice", RULES)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 10_000), pair=st.permutations(LANGUAGES))
def test_a_padded_batch_is_changed_neuron_by_neuron(choice, seed, pair):
    world = World(neuron_set(seed), *pair[:2])
    ids, mask = LEFT
    with torch.no_grad():
        with by_hand(RULES[choice], world, mask.bool()):
            expected = model()(input_ids=ids, attention_mask=mask).logits
        with overridden(choice, world) as applied:
            changed = model()(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(changed[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-4)
    assert applied.tokens == int(mask.sum())


@pytest.mark.parametrize("choice", ["swap", "mean_shift", "clamp", "complement_mean", "p10:layers=0-1"])
def test_generation_with_a_cache_is_that_of_the_loop_without_one(choice):
    world, ids = World(neuron_set(5), "en", "hi"), LEFT[0][1:]
    with torch.no_grad(), by_hand(RULES[choice], world):
        expected = greedy_without_cache(model(), ids, 4)
    with torch.no_grad(), overridden(choice, world):
        assert generate(model(), ids, torch.ones_like(ids), 4)[0, -4:].tolist() == expected


@pytest.mark.parametrize("choice", RULES)
def test_a_choice_is_written_as_it_is_read(choice):
    written = get_host().format("intervention", choice)
    assert get_host().canonical("intervention", written) == get_host().canonical("intervention", choice)


CHOICES = st.recursive(
    st.sampled_from(["zero", "p10", "scale:factor=2", "random:like=[lape:top_fraction=0.02]", "a:b"]),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: format_choice("all_of", {"parts": parts})),
    max_leaves=4,
)


@given(st.lists(CHOICES, min_size=1, max_size=3), st.sampled_from(["0-3", "[", "x]", "lape:top=1"]))
@example(["a"], "zero:layers=1")
def test_choices_within_choices_are_read_back(parts, value):
    name, values = parse_choice(format_choice("name", {"parts": parts, "key": value}))
    inner = values["key"].removeprefix("[").removesuffix("]") if values["key"] != "[" and value != "x]" else value
    assert (name, values["parts"], inner) == ("name", parts, value)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), min_size=1, max_size=4))
def test_ranges_of_layers(ranges):
    text = "+".join(f"{first}-{first + more}" if more else str(first) for first, more in ranges)
    assert layer_numbers(text) == {first + step for first, more in ranges for step in range(more + 1)}


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        ("scale", ["factor"]),
        ("scale:factor=inf", ["inf"]),
        ("add:quantile=1.5", ["1.5", "mean"]),
        ("add:quantile=most", ["most", "mean"]),
        ("add:strength=nan", ["nan"]),
        ("language_mean", ["of"]),
        ("clamp:low=p101", ["p101"]),
        ("clamp:low=p95:high=p5", ["p95", "p5"]),
        ("swap:source=middle", ["middle", "zero", "mean"]),
        ("swap:target=add_add_mean", ["add_mean"]),
        ("swap:source=constant", ["constant", "value="]),
        ("swap:value=2", ["value=2.0", "zero"]),
        ("swap:source=inf", ["inf"]),
        ("fallback", ["languages"]),
        ("fallback:languages=en+en", ["en+en"]),
        ("fallback:languages=xx", ["xx", "en, hi, zh"]),
        ("language_mean:of=xx", ["xx", "en, hi, zh"]),
        ("all_of", ["parts"]),
        ("all_of:[zero]:[median]", ["zero", "median", "(0,"]),
        ("all_of:[zero]:[nothing]", ["nothing"]),
        ("zero:layers=3", ["layers=3", "2"]),
        ("zero:layers=2-1", ["2-1"]),
        ("zero:layers=a", ["layers=a"]),
        ("zero:layers=-1", ["-1"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(choice, named):
    with refused(*named) as caught, overridden(choice, World(neuron_set(1), "en", "hi")):
        pass
    assert "\n" not in str(caught.value)


CONTEXT: dict[str, Any] = {
    "target": "hi",
    "source": "en",
    "languages": LANGUAGES,
    "neurons_of": lambda language: neuron_set(1)[language],
    "statistics_of": lambda language: statistics()[language],
}


@pytest.mark.parametrize(
    ("choice", "without", "named"),
    [
        ("swap", {"source": None}, ["swap", "source="]),
        ("swap", {"target": None}, ["swap", "target="]),
        ("swap", {"source": "hi"}, ["swap", "hi"]),
        ("mean_shift", {"languages": ("hi",)}, ["mean_shift", "hi"]),
        ("complement_mean", {"languages": ("hi",)}, ["complement_mean", "hi"]),
        ("complement_mean", {"neurons_of": lambda _: neuron_set(1)["hi"]}, ["complement_mean", "en, hi, zh"]),
    ],
)
def test_a_pair_and_other_languages_are_asked_for(choice, without, named):
    with refused(*named):
        plan(neuron_set(1)["hi"], choice, statistics()["hi"], **(CONTEXT | without))


@pytest.mark.parametrize("choice", ["add", "median", "max", "clamp", "mean_shift", "swap"])
def test_missing_statistics_are_asked_for(choice):
    with refused(choice, "statistics="):
        plan(neuron_set(1)["hi"], choice, None, **CONTEXT)


@pytest.mark.parametrize("choice", ["scale:factor=2", "fallback:languages=en", "swap:target=add_1"])
def test_others_do_without(choice):
    assert plan(neuron_set(1)["hi"], choice, None, **CONTEXT).neurons > 0


def test_layers_without_any_of_the_units_are_refused():
    with refused("layers=1", "0, 2"):
        plan({0: torch.tensor([1]), 2: torch.tensor([1])}, "zero:layers=1", None)
