"""Entering and leaving overrides: nothing stays behind, gradients, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lnbench import LayerOverride, LnbenchError, Override, override
from lnbench.model.locate import locate
from tests.support.messages import refused
from tests.support.overrides import (
    CHANGES,
    LEFT,
    PROMPTS,
    REAL,
    RIGHT,
    change,
    hooks,
    made_up_statistics,
    patched,
    tiny,
)
from tests.support.tiny import LAYERS, WIDTH, build

# Nothing stays behind


def raise_inside(model: Any, _: pytest.MonkeyPatch) -> None:
    with override(model, change()):
        model(PROMPTS)
        raise RuntimeError


def raise_in_forward(model: Any, _: pytest.MonkeyPatch) -> None:
    with override(model, change(), site="pre"):
        model(PROMPTS.float())


def raise_on_entry(model: Any, _: pytest.MonkeyPatch) -> None:
    with override(model, change(layers={0: [1], LAYERS: [1]})):
        pass


def raise_halfway_through_entry(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no hooks here")

    monkeypatch.setattr(locate(model).activations[2], "register_forward_hook", broken)
    with override(model, change()):
        pass


@pytest.mark.parametrize(
    "failing",
    [raise_inside, raise_in_forward, raise_on_entry, raise_halfway_through_entry],
    ids=lambda case: case.__name__,
)
def test_nothing_stays_hooked_after_an_exception(failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    locate(model).activations[0].register_forward_hook(lambda *_: None)
    before = hooks(model)
    with pytest.raises((RuntimeError, LnbenchError)):
        failing(model, monkeypatch)
    assert hooks(model) == before


@pytest.mark.parametrize("site", ["post", "pre"])
def test_nothing_stays_hooked(site: Any) -> None:
    model = build("llama")
    before = hooks(model)
    with override(model, change(), site=site):
        assert hooks(model) != before
    assert hooks(model) == before


def test_a_failed_forward_does_not_spoil_the_next() -> None:
    model = tiny("llama")
    with torch.no_grad(), override(model, change()) as applied:
        model(input_ids=LEFT[0], attention_mask=LEFT[1])
        with pytest.raises(RuntimeError):
            model(input_ids=LEFT[0].float(), attention_mask=LEFT[1])
        model.base_model(PROMPTS)
    assert applied.tokens == REAL + PROMPTS.numel()


def test_nested_overrides_add_up() -> None:
    model = tiny("llama")
    hindi, english = change(layers={0: [1, 2], 1: [3]}), change("add", layers={0: [5], 2: [3]})
    with torch.no_grad():
        before = model(PROMPTS).logits
        with patched(model, hindi, "post"):
            alone = model(PROMPTS).logits
        with override(model, english), patched(model, hindi, "post"):
            both = model(PROMPTS).logits
        with override(model, hindi) as outer:
            with override(model, english) as inner:
                assert torch.equal(model(PROMPTS).logits, both)
            assert torch.equal(model(PROMPTS).logits, alone)
        assert torch.equal(model(PROMPTS).logits, before)
    assert (outer.tokens, inner.tokens) == (2 * PROMPTS.numel(), PROMPTS.numel())


def test_paused() -> None:
    model = tiny("llama")
    with torch.no_grad():
        before = model(PROMPTS).logits
        with override(model, change()) as applied:
            during = model(PROMPTS).logits
            with pytest.raises(KeyError), applied.paused():
                with applied.paused():
                    assert torch.equal(model(PROMPTS).logits, before)
                assert torch.equal(model(PROMPTS).logits, before)
                raise KeyError
            assert torch.equal(model(PROMPTS).logits, during)
    assert applied.tokens == 2 * PROMPTS.numel()


# Gradients


def gradients(model: Any, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    logits[mask.bool()].square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt2", "bloom"])
@pytest.mark.parametrize(("site", "operation"), CHANGES)
def test_gradients_equal_those_of_the_model_written_by_hand(model_type: str, site: Any, operation: str) -> None:
    model = build(model_type)
    ids, mask = RIGHT
    with override(model, change(operation), site=site):
        found = gradients(model, ids, mask)
    with patched(model, change(operation), site, mask.bool()):
        expected = gradients(model, ids, mask)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_overwritten_neurons_get_no_gradient() -> None:
    model = build("llama")
    with override(model, change()):
        gradient = gradients(model, *RIGHT)["model.layers.0.mlp.gate_proj.weight"]
    dead = change().layers[0].indices.tolist()
    assert [row for row in range(WIDTH) if not gradient[row].any()] == sorted(dead)


def test_gradient_checkpointing_recomputes_the_same_change() -> None:
    model = build("llama").train()
    with override(model, change(), statistics=made_up_statistics()) as once:
        expected = gradients(model, *RIGHT)
    model.gradient_checkpointing_enable()
    with override(model, change(), statistics=made_up_statistics()) as twice:
        found = gradients(model, *RIGHT)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
    assert once.tokens == twice.tokens == REAL
    assert once.values == twice.values


# Bad input


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"intervention": "p200"}, ["percent=200"]),
        ({"intervention": "plain"}, ["plain", "zero, constant"]),
        ({"intervention": "p10"}, ["'p10'", "statistics="]),
        ({"intervention": "mean"}, ["'mean'", "statistics="]),
        ({"site": "middle"}, ["middle", "pre, post"]),
        ({"site": "paper"}, ["paper", "pre, post"]),
        ({"positions": "some"}, ["some", "all, prompt, generated"]),
        ({"neurons": {0: torch.tensor([WIDTH])}}, [f"(0, {WIDTH})"]),
        ({"neurons": {LAYERS: torch.tensor([0])}}, [f"({LAYERS}, 0)"]),
        ({"neurons": {-1: torch.tensor([0])}}, ["(-1, 0)"]),
        ({"neurons": {0: torch.tensor([3, 3])}}, ["indices", "repeats"]),
        ({"neurons": {0: torch.tensor([-1])}}, ["indices", "non-negative"]),
        ({"statistics": made_up_statistics(LAYERS + 1)}, ["Statistics", "4", "3", "24"]),
        ({"statistics": made_up_statistics(width=WIDTH - 1)}, ["Statistics", "3", "23", "24"]),
        ({"intervention": "constant:value=nan"}, ["value", "finite"]),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], named: list[str]) -> None:
    model = tiny("llama")
    before = hooks(model)
    arguments = {"neurons": {0: torch.tensor([1])}, "intervention": "zero"} | arguments
    with refused(*named), override(model, **arguments):
        pass
    assert hooks(model) == before


@pytest.mark.parametrize(
    ("indices", "values", "operation", "named"),
    [
        ([1], [1.0], "multiply", ["multiply", "set, scale, add, clamp"]),
        ([1, 2], [1.0], "set", ["'set'", "(2,)", "(1,)"]),
        ([[1]], [[1.0]], "set", ["indices", "(1, 1)"]),
        ([1, 2], [1.0, 2.0], "clamp", ["'clamp'", "(2, 2)", "(2,)"]),
        ([1, 1], [1.0, 2.0], "set", ["indices", "repeats"]),
        ([-2], [1.0], "set", ["indices", "non-negative"]),
        ([1.0], [1.0], "set", ["indices", "torch.float32"]),
        ([True], [1.0], "set", ["indices", "torch.bool"]),
        ([1], [float("nan")], "set", ["values", "finite"]),
        ([1], [float("inf")], "scale", ["values", "finite"]),
    ],
)
def test_bad_layer_overrides(indices: Any, values: Any, operation: Any, named: list[str]) -> None:
    with refused(*named):
        LayerOverride(torch.tensor(indices), torch.tensor(values), operation)


def test_a_value_that_the_models_precision_cannot_hold() -> None:
    model = build("llama").half()
    with refused("float16", "constant:value=1e6"), override(model, {0: torch.tensor([1])}, "constant:value=1e6"):
        pass


class Wrong:
    def override(self, context: Any) -> Any:
        return context.neurons


def test_an_intervention_that_returns_something_else() -> None:
    with refused("Wrong", "dict"), override(tiny("llama"), {}, Wrong()):
        pass


@pytest.mark.parametrize(
    ("neurons", "intervention"),
    [
        ({0: torch.tensor([1])}, "none"),
        ({}, "zero"),
        ({0: torch.empty(0, dtype=torch.long)}, "zero"),
        (Override(), "zero"),
    ],
)
def test_an_empty_override_changes_nothing(neurons: Any, intervention: str) -> None:
    model = tiny("llama")
    before = hooks(model)
    with torch.no_grad():
        logits = model(PROMPTS).logits
        with override(model, neurons, intervention) as applied:
            assert hooks(model) == before
            assert torch.equal(model(PROMPTS).logits, logits)
    assert (applied.neurons, applied.layers, applied.tokens) == (0, 0, 0)
    assert applied.outside_range != applied.outside_range


def test_a_sharded_model_is_refused_before_anything_runs() -> None:
    model = build("llama")
    model._tp_size = 2
    before = hooks(model)
    with refused("tensor parallelism"), override(model, change()):
        pass
    assert hooks(model) == before


def test_the_type_of_integer_does_not_matter() -> None:
    model, outcomes = tiny("llama"), []
    for dtype in (torch.long, torch.int32, torch.uint8):
        part = LayerOverride(torch.tensor([4, 9], dtype=dtype), torch.tensor([8, 9]))
        with torch.no_grad(), override(model, Override({1: part}), statistics=made_up_statistics()) as applied:
            outcomes.append(model(PROMPTS).logits)
        assert applied.outside_range == 1.0
    assert torch.equal(outcomes[0], outcomes[1]) and torch.equal(outcomes[0], outcomes[2])
