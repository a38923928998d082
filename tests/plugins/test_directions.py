"""Directions in the residual stream, and positions, against loops over tokens with plain hooks on the blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from lnbench import NeuronSet, Statistics, collect_statistics, override
from lnbench.choices import select
from lnbench.lm.experiment import Experiment
from lnbench.lm.scoring import TokenRow
from lnbench.model.forward_passes import both
from lnbench.testing import LANGUAGES, tiny_model
from tests.support.messages import refused
from tests.support.overrides import LEFT, PROMPTS, RIGHT, generate, greedy_without_cache

LAYERS = 3
Rule = Callable[[int, list[float]], list[float]]
"""``(layer, one token's residual stream) -> its new values``."""


@cache
def model() -> Any:
    return tiny_model()


@cache
def statistics() -> dict[str, Statistics]:
    collected = {}
    for number, language in enumerate(LANGUAGES):
        generator = torch.Generator().manual_seed(number)
        blocks = [torch.randint(3 + 80 * number, 83 + 80 * number, (4, 24), generator=generator)]
        collected[language] = collect_statistics(model(), blocks, language=language, sites=("residual", "post"))
    return collected


@cache
def every_unit() -> NeuronSet:
    return select("all", statistics())


@cache
def mean(language: str, layer: int) -> list[float]:
    return statistics()[language].mean[layer].double().tolist()


def norm(vector: list[float]) -> float:
    return math.sqrt(sum(number**2 for number in vector))


def plus(one: list[float], other: list[float], factor: float = 1.0) -> list[float]:
    return [a + factor * b for a, b in zip(one, other, strict=True)]


@cache
def vector(language: str, layer: int) -> list[float]:
    own = mean(language, layer)
    for other in LANGUAGES:
        own = plus(own, mean(other, layer), -1 / len(LANGUAGES))
    return own


def diffmean(layer: int, h: list[float], strength: float = 2.0) -> list[float]:
    direction = plus(mean("hi", layer), mean("en", layer), -1)
    return plus(h, direction, strength / norm(direction))


def recover(layer: int, h: list[float], strength: float = 1.0, source: float = 1.0) -> list[float]:
    direction = plus(vector("hi", layer), vector("en", layer), -source)
    new = plus(h, direction, strength / norm(direction))
    return [number * norm(h) / norm(new) for number in new]


def project_out(layer: int, h: list[float], language: str = "hi") -> list[float]:
    direction = vector(language, layer)
    share = sum(a * b for a, b in zip(h, direction, strict=True)) / norm(direction) ** 2
    return plus(h, direction, -share)


def in_layers(layers: set[int], rule: Rule) -> Rule:
    return lambda layer, h: rule(layer, h) if layer in layers else h


CASES: dict[str, tuple[Rule, bool]] = {
    "diffmean:layer=1:strength=2": (in_layers({1}, diffmean), False),
    "diffmean:layers=0+2:strength=2": (in_layers({0, 2}, diffmean), False),
    "recover": (recover, True),
    "recover:strength=3:source_strength=0.5:layers=1-2": (
        in_layers({1, 2}, lambda layer, h: recover(layer, h, 3.0, 0.5)),
        True,
    ),
    "project_out": (project_out, False),
    "project_out:of=zh:layers=0": (in_layers({0}, lambda layer, h: project_out(layer, h, "zh")), False),
}
"""Choice → its rule for one token, and whether a text's first token is left as it is."""


@contextmanager
def by_hand(rule: Rule, changed: Callable[[tuple[int, int]], Tensor]) -> Iterator[None]:
    """Change the output of every block, token by token; ``changed(shape)`` says which tokens."""
    statistics()  # not while the model runs with the hooks

    def hook(layer: int) -> Callable[..., Any]:
        def change(_module: Any, _args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            new, tokens = hidden.clone(), changed(tuple(hidden.shape[:2]))
            for row, place in tokens.nonzero().tolist():
                new[row, place] = torch.tensor(rule(layer, hidden[row, place].double().tolist()))
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return change

    handles = [block.register_forward_hook(hook(layer)) for layer, block in enumerate(model().model.layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def overridden(choice: str, **options: Any) -> Any:
    return override(
        model(), every_unit(), choice, statistics=statistics(), **{"source": "en", "target": "hi", **options}
    )


def without_first(real: Tensor) -> Tensor:
    kept = real.clone()
    for row in kept:
        row[int(row.nonzero()[0])] = False
    return kept


@pytest.mark.parametrize("padded", [LEFT, RIGHT], ids=["left", "right"])
@pytest.mark.parametrize("choice", CASES)
def test_a_padded_batch_is_changed_token_by_token(choice, padded):
    ids, mask = padded
    rule, leaves_first = CASES[choice]
    tokens = without_first(mask.bool()) if leaves_first else mask.bool()
    with torch.no_grad():
        with by_hand(rule, lambda _: tokens):
            expected = model()(input_ids=ids, attention_mask=mask).logits
        with overridden(choice) as applied:
            changed = model()(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(changed[mask.bool()], expected[mask.bool()], rtol=1e-3, atol=1e-3)
    assert applied.tokens == int(tokens.sum())


@pytest.mark.parametrize("choice", ["diffmean:layer=1:strength=2", "recover", "project_out"])
def test_generation_with_a_cache_is_that_of_the_loop_without_one(choice):
    rule, leaves_first = CASES[choice]
    ids = PROMPTS[1:]

    def changed(shape: tuple[int, int]) -> Tensor:
        return torch.arange(shape[1]).expand(shape) >= int(leaves_first)

    with torch.no_grad(), by_hand(rule, changed):
        expected = greedy_without_cache(model(), ids, 3)
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.long), ids], 1)
    with torch.no_grad(), overridden(choice):
        assert generate(model(), padded, (padded != 0).long(), 3)[0, -3:].tolist() == expected


def test_recover_keeps_every_norm():
    norms: dict[str, list[Tensor]] = {"before": [], "after": []}
    with torch.no_grad(), overridden("recover:layers=1:strength=4"):
        block = model().model.layers[1]
        handle = block.register_forward_hook(lambda _m, _a, out: norms["after"].append(_hidden(out).norm(dim=-1)))
        first = block.register_forward_hook(
            lambda _m, _a, out: norms["before"].append(_hidden(out).norm(dim=-1)), prepend=True
        )
        model()(PROMPTS[1:])
        handle.remove()
        first.remove()
    torch.testing.assert_close(norms["after"], norms["before"])


def _hidden(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize(
    ("choice", "options", "named"),
    [
        ("diffmean", {}, ["layer=", "layers="]),
        ("diffmean:layer=1:layers=2", {}, ["layer=", "layers="]),
        ("diffmean:layer=3", {}, ["3", "2"]),
        ("diffmean:layer=1", {"source": None}, ["diffmean", "source="]),
        ("recover", {"source": "hi"}, ["recover", "hi"]),
        ("recover:strength=nan", {}, ["nan"]),
        ("recover:source_strength=inf", {}, ["inf"]),
        ("project_out:of=xx", {}, ["xx", "en, hi, zh"]),
        ("diffmean:layer=1", {"source": "xx"}, ["xx", "en, hi, zh"]),
        ("all_of:[recover]:[diffmean:layer=1]", {}, ["recover", "diffmean", "residual"]),
        ("all_of:[recover:layers=0]:[diffmean:layer=1]", {}, ["not_first"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(choice, options, named):
    with refused(*named) as caught, overridden(choice, **options):
        pass
    assert "\n" not in str(caught.value)


def test_statistics_without_the_site_say_how_to_get_it():
    at_neurons = {
        language: Statistics(language, own.tokens, "post", {"post": own.sites["post"]})
        for language, own in statistics().items()
    }
    neurons = select("random:fraction=0.2", at_neurons)
    with refused("diffmean", "residual", "sites="):
        override(model(), neurons, "diffmean:layer=1", statistics=at_neurons, source="en", target="hi").__enter__()


def test_beside_neurons_the_whole_site_is_written():
    shown = {language: own.at("post") for language, own in statistics().items()}
    neurons = select("random:fraction=0.2", shown)
    pair = {"statistics": shown, "source": "en", "target": "hi"}
    with torch.no_grad():
        with override(model(), neurons, "all_of:[zero]:[diffmean:layer=1:strength=2]", **pair) as applied:
            together = model()(PROMPTS).logits
        change = applied.neurons
        with override(model(), neurons, "zero", **pair), overridden("diffmean:layer=1:strength=2"):
            one_in_the_other = model()(PROMPTS).logits
    torch.testing.assert_close(together, one_in_the_other)
    assert change == neurons.count("hi") + 16


@pytest.mark.parametrize("choice", ["diffmean:layer=1", "recover", "project_out"])
def test_a_control_has_another_direction_of_the_same_length(choice):
    with torch.no_grad():
        logits = []
        for tried in (choice, *(f"random_direction:like=[{choice}]:seed={seed}" for seed in range(2))):
            with overridden(tried) as applied:
                logits.append(model()(PROMPTS[1:]).logits)
            tokens = PROMPTS.shape[1] - (choice == "recover")
            assert applied.tokens == tokens
    assert not torch.allclose(logits[1], logits[2])
    assert not torch.allclose(logits[0], logits[1])


def test_the_site_and_all_its_units_are_chosen_for_it():
    pair = {"source": "en", "language": "hi"}
    experiment = Experiment(intervention="diffmean:layer=1", **pair)
    assert (experiment.site, experiment.selector) == ("residual", "all")
    assert "residual" in experiment.reading.sites
    assert Experiment(intervention="recover", selector="language_dimensions", **pair).selector == "language_dimensions"
    assert Experiment(intervention="random_direction:like=[recover]", **pair).site == "residual"
    assert "residual" in Experiment(intervention="all_of:[swap]:[recover]", **pair).reading.sites
    with refused("residual", "pre"):
        Experiment(intervention="recover", site="pre", **pair)


# Positions

_POSITIONS: dict[str, Callable[[int, int, int], bool]] = {
    "all": lambda _place, _prompt, _first: True,
    "prompt": lambda place, prompt, _first: place < prompt,
    "generated": lambda place, prompt, _first: place >= prompt,
    "not_first": lambda place, _prompt, first: place > first,
    "last": lambda place, prompt, _first: place == prompt - 1,
}
"""Whether the token at a place is meant, by the prompt's end and its first real token."""


@pytest.mark.parametrize("cached", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("positions", _POSITIONS)
def test_positions_in_generation(positions, cached):
    ids, steps = PROMPTS[1:], 3
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.long), ids], 1)
    prompt = ids.shape[1]

    def changed(shape: tuple[int, int]) -> Tensor:
        return torch.tensor([[_POSITIONS[positions](place, prompt, 0) for place in range(shape[1])]])

    with torch.no_grad(), by_hand(in_layers({1}, diffmean), changed):
        expected = greedy_without_cache(model(), ids, steps)
    with torch.no_grad(), overridden("diffmean:layer=1:strength=2", positions=positions) as applied:
        model().generation_config.use_cache = cached
        try:
            made = generate(model(), padded, (padded != 0).long(), steps)
        finally:
            model().generation_config.use_cache = True
    assert made[0, -steps:].tolist() == expected
    assert applied.tokens == sum(_POSITIONS[positions](place, prompt, 0) for place in range(prompt + steps - 1))


@pytest.mark.parametrize("padded", [LEFT, RIGHT], ids=["left", "right"])
@pytest.mark.parametrize("positions", ["not_first", "last"])
def test_positions_of_a_padded_batch(positions, padded):
    ids, mask = padded
    tokens = torch.zeros_like(mask, dtype=torch.bool)
    for row, real in enumerate(mask.tolist()):
        places = [place for place, one in enumerate(real) if one]
        for place in places[1:] if positions == "not_first" else places[-1:]:
            tokens[row, place] = True
    with torch.no_grad():
        with by_hand(in_layers({1}, diffmean), lambda _: tokens):
            expected = model()(input_ids=ids, attention_mask=mask).logits
        with overridden("diffmean:layer=1:strength=2", positions=positions) as applied:
            changed = model()(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(changed[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-4)
    assert applied.tokens == int(tokens.sum())


@pytest.mark.parametrize("positions", [*_POSITIONS, "prompt+not_first", "generated+not_first", "last+not_first"])
@pytest.mark.parametrize(("length", "scored"), [(6, 1), (6, 3), (6, 6), (1, 1), (2, 2)])
def test_positions_of_a_scored_row(positions, length, scored):
    row = TokenRow(list(range(length)), scored)
    first, end = row.changed(positions)
    prompt = min(length, length - scored + 1)
    meant = [place for place in range(length) if all(_POSITIONS[p](place, prompt, 0) for p in positions.split("+"))]
    assert [place for place in range(length) if first <= place < end] == meant


def test_positions_that_are_both():
    assert both("all", "all") == "all"
    assert both("all", "not_first") == both("not_first", "not_first") == "not_first"
    assert both("prompt", "not_first") == "prompt+not_first"
