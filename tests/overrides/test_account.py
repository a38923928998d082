"""Which tokens overrides change, however the model is called, and the account of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lnbench import LayerOverride, Override, override
from tests.support.messages import refused
from tests.support.overrides import (
    LEFT,
    PROMPTS,
    REAL,
    RIGHT,
    captured,
    change,
    generate,
    made_up_statistics,
    tiny,
    written,
)
from tests.support.tiny import WIDTH

# What runs: the causal LM, its body, or either with positional arguments

CALLS: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "keywords": lambda model, ids, mask: model(input_ids=ids, attention_mask=mask),
    "positions": lambda model, ids, mask: model(ids, mask),
    "mask by keyword": lambda model, ids, mask: model(ids, attention_mask=mask),
    "embeddings": lambda model, ids, mask: model(inputs_embeds=model.get_input_embeddings()(ids), attention_mask=mask),
    "body": lambda model, ids, mask: model.base_model(ids, attention_mask=mask),
    "no hooks on the causal LM": lambda model, ids, mask: model.forward(input_ids=ids, attention_mask=mask),
    "floating mask": lambda model, ids, mask: model(input_ids=ids, attention_mask=mask.float()),
}


@pytest.mark.parametrize("call", CALLS)
def test_padding_is_seen_however_the_model_is_called(call: str) -> None:
    model = tiny("llama")
    with torch.no_grad(), override(model, change()) as applied, captured(model, "llama") as seen:
        CALLS["keywords"](model, *RIGHT)
        expected = dict(seen)
        CALLS[call](model, *LEFT)
        applied_tokens = applied.tokens
        CALLS["keywords"](model, *RIGHT)
    assert applied_tokens == 2 * REAL
    for key, tensor in expected.items():
        assert torch.equal(tensor, seen[key])


@pytest.mark.parametrize("model_type", ["llama", "gemma3", "gpt2", "opt", "gpt_neox"])
def test_the_body_alone_takes_real_tokens_out_of_band(model_type: str) -> None:
    model = tiny(model_type)
    ids, mask = RIGHT
    with torch.no_grad(), override(model, change()) as applied:
        expected = model.base_model(ids, attention_mask=mask).last_hidden_state
        applied.real = mask.bool()
        hidden = model.base_model(ids).last_hidden_state
    assert applied.tokens == 2 * REAL
    torch.testing.assert_close(hidden[mask.bool()], expected[mask.bool()])


def test_every_token_is_real_without_a_mask() -> None:
    with torch.no_grad(), override(tiny("llama"), change()) as applied:
        tiny("llama")(PROMPTS)
    assert applied.tokens == PROMPTS.numel()


# The account


@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize("operation", ["set", "scale", "add"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_outside_range_equals_counting_every_value(operation: str, site: Any, dtype: torch.dtype) -> None:
    model, statistics, changes = tiny("llama", dtype), made_up_statistics(), change(operation)
    ranges = statistics.at(site)
    batches = [LEFT, RIGHT, (PROMPTS[1:], LEFT[1][1:])]
    outside = total = 0
    with torch.no_grad(), override(model, changes, statistics=statistics, site=site) as applied:
        assert applied.outside_range != applied.outside_range, "NaN before anything was written"
        with written(model, site) as seen:
            for ids, mask in batches:
                model(input_ids=ids, attention_mask=mask)
    for layer, part in changes.layers.items():
        for values, (_, mask) in zip(seen[layer], batches, strict=True):
            for index in part.indices.tolist():
                for value in values[mask.bool()][:, index].tolist():
                    total += 1
                    outside += not ranges.min[layer, index] <= value <= ranges.max[layer, index]
    assert 0 < outside < total
    assert applied.outside_range == pytest.approx(outside / total, abs=1e-9)
    assert applied.tokens == 2 * REAL + PROMPTS.shape[1]
    assert (applied.neurons, applied.layers) == (5, 2)


def test_outside_range_is_nan_without_statistics() -> None:
    with torch.no_grad(), override(tiny("llama"), change()) as applied:
        tiny("llama")(PROMPTS)
    assert applied.outside_range != applied.outside_range


@pytest.mark.parametrize(("name", "outside"), [("p10", 0.0), ("mean", 0.0), ("constant:value=99", 1.0)])
def test_interventions_write_their_values(name: str, outside: float) -> None:
    model, statistics = tiny("llama"), made_up_statistics()
    neurons = {1: torch.tensor([4, 2])}
    expected = {"p10": statistics.quantile(0.1)[1], "mean": statistics.mean[1]}.get(name, torch.full((WIDTH,), 99.0))
    overriding = override(model, neurons, name, statistics=statistics)
    with torch.no_grad(), overriding as applied, written(model, "post") as seen:
        model(PROMPTS)
    assert torch.equal(seen[1][0][..., [4, 2]], expected[[4, 2]].expand(*PROMPTS.shape, 2))
    assert applied.outside_range == outside


STEPS = 3
PLACES = {"all": REAL + (STEPS - 1) * 2, "prompt": REAL, "generated": (STEPS - 1) * 2}


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize(("positions", "tokens"), PLACES.items())
def test_positions(model_type: str, positions: Any, tokens: int) -> None:
    model = tiny(model_type)
    changes = Override({1: LayerOverride(torch.tensor([5]), torch.tensor([7.5]))})
    with torch.no_grad(), override(model, changes, positions=positions) as applied, written(model, "post") as seen:
        generate(model, *LEFT, STEPS)
    assert applied.tokens == tokens
    first, *later = (values[..., 5] == 7.5 for values in seen[1])
    assert int(first.sum()) == (0 if positions == "generated" else REAL)
    assert all(bool(one.any()) == (positions != "prompt") == bool(one.all()) for one in later)


def test_real_tokens_given_out_of_band() -> None:
    model = tiny("llama")
    real = torch.zeros_like(PROMPTS, dtype=torch.bool)
    real[0, 2] = real[1, 5] = True
    with torch.no_grad(), written(model, "post") as plain_values:
        model(PROMPTS)
    with torch.no_grad(), override(model, change(), positions="generated") as applied:
        applied.real = real
        with written(model, "post") as seen:
            model(PROMPTS)
        assert applied.tokens == 2
        applied.real = torch.zeros_like(real)
        model(PROMPTS)
        assert applied.tokens == 2
        applied.real = real[:, 1:]
        with refused("Applied.real", "(2, 6)", "(2, 7)"):
            model(PROMPTS)
        applied.real = real
        model(PROMPTS)
    assert applied.tokens == 4
    part = change().layers[0]
    expected = plain_values[0][0].clone()
    for row, column in real.nonzero().tolist():
        expected[row, column, part.indices] = part.values
    assert torch.equal(seen[0][0], expected)


def test_a_set_leaves_padding_unchanged() -> None:
    model = tiny("llama")
    ids, mask = RIGHT
    with torch.no_grad(), written(model, "post") as plain_values:
        model(input_ids=ids, attention_mask=mask)
    with torch.no_grad(), override(model, change()), written(model, "post") as seen:
        model(input_ids=ids, attention_mask=mask)
    assert torch.equal(seen[0][0][mask == 0], plain_values[0][0][mask == 0])
    assert not torch.equal(seen[0][0][mask == 1], plain_values[0][0][mask == 1])
