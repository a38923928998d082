"""Neurons' own weights trained directly: what changes, what stays, and that PEFT alone loads and merges it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn

from lnbench import NeuronSet
from lnbench.finetuning.lora import count_parameters, save_adapter
from lnbench.finetuning.rows import build_rows
from lnbench.host import get_host
from tests.support.adapters import logits
from tests.support.messages import refused
from tests.support.tiny import HIDDEN, LAYERS, WIDTH, build

CHOSEN = {0: [1, 7], 2: [0, 5, 23]}
PLACES = {
    "llama": {"gate_proj": 0, "up_proj": 0, "down_proj": 1},
    "phi3": {"gate_up_proj": 0, "down_proj": 1},
    "gpt2": {"mlp.c_fc": 1, "mlp.c_proj": 0},
    "opt": {"fc1": 0, "fc2": 1},
}
"""Model type → projection → the dimension of its weight along which neurons lie; GPT-2's weights are transposed."""


def neurons_of(model: nn.Module) -> NeuronSet:
    return NeuronSet(
        type(model).__name__, LAYERS, WIDTH, {"hi": {layer: own[:1] for layer, own in CHOSEN.items()}, "zh": CHOSEN}
    )


def trained(model: nn.Module, steps: int = 3, lr: float = 0.05) -> nn.Module:
    """The adapter, and by the same plain gradient steps on the weights themselves where no adapter is."""
    ids = torch.randint(3, 250, (2, 9), generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= lr * parameter.grad
    return model


def of_neurons(model_type: str, name: str, shape: torch.Size) -> torch.Tensor | None:
    """Which entries of a weight are the chosen neurons', by hand."""
    match = [dim for place, dim in PLACES[model_type].items() if name.endswith(f".{place}.weight")]
    layer = next((int(part) for part in name.split(".") if part.isdigit()), None)
    if not match or layer not in CHOSEN:
        return None
    indices = torch.tensor(CHOSEN[layer])
    if "gate_up" in name:
        indices = torch.cat([indices, indices + WIDTH])
    return torch.zeros(shape, dtype=torch.bool).index_fill(match[0], indices, value=True)


@pytest.mark.parametrize("model_type", PLACES)
def test_the_chosen_weights_train_as_themselves_and_all_others_stay(model_type: str, tmp_path: Path) -> None:
    before = {name: parameter.detach().clone() for name, parameter in build(model_type).named_parameters()}
    adapted = trained(build_rows(model := build(model_type), neurons_of(model)))
    merged = PeftModel.from_pretrained(build(model_type), save_adapter(adapted, tmp_path)).merge_and_unload()
    by_hand = build(model_type)
    for name, parameter in by_hand.named_parameters():
        mask = of_neurons(model_type, name, parameter.shape)
        parameter.requires_grad_(mask is not None)
        if mask is not None:
            parameter.register_hook(mask.mul)
    trained(by_hand)
    changed = 0
    for name, parameter in merged.named_parameters():
        mask = of_neurons(model_type, name, parameter.shape)
        same = parameter == before[name]
        if mask is None:
            assert same.all(), name
        else:
            assert same[~mask].all() and not same[mask].all(), name
            changed += int(mask.sum())
            torch.testing.assert_close(parameter, by_hand.get_parameter(name), rtol=1e-4, atol=1e-6)
    assert changed == (2 if model_type in ("gpt2", "opt") else 3) * HIDDEN * 5
    torch.testing.assert_close(logits(merged), logits(adapted), rtol=1e-4, atol=1e-5)
    assert (
        NeuronSet.load(tmp_path / "neurons.json") == neurons_of(model) if (tmp_path / "neurons.json").exists() else True
    )


COUNTS = [("llama", (), 3), ("llama", ("gate",), 1), ("opt", (), 2)]


@pytest.mark.parametrize(("model_type", "projections", "each"), COUNTS)
def test_as_many_parameters_as_the_neurons_have(model_type, projections, each) -> None:
    counts = count_parameters(build_rows(model := build(model_type), neurons_of(model), projections=projections))
    assert counts.trainable == counts.of_neurons == each * HIDDEN * 5


def test_what_cannot_be_trained_is_refused() -> None:
    model = build("llama")
    with refused("neurons"):
        build_rows(model, NeuronSet(type(model).__name__, LAYERS, WIDTH, {"hi": {}}))
    with refused("up"):
        build_rows(build("opt"), neurons_of(build("opt")), projections=("up",))
    finetuner = get_host().resolve("finetuner", "rows:languages=none")
    with refused("none"):
        finetuner.check(model, neurons_of(model))
    with refused("fr", "hi, zh"):
        get_host().resolve("finetuner", "rows:languages=fr").check(model, neurons_of(model))
