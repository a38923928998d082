"""The check at every load: it passes what is right, and refuses, with numbers, what is located wrongly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lnbench.model.banks import Bank, Slice
from lnbench.model.locate import locate
from lnbench.model.self_check import self_check
from lnbench.model.structure import probe
from lnbench.testing import tiny_model
from tests.support.adapters import quantised
from tests.support.every_type import build_type
from tests.support.messages import refused
from tests.support.tiny import CONFIGS, LAYERS, WIDTH, build


def checked(model: Any, change: Callable[[Bank], Bank]) -> Any:
    """Check the model with every bank changed."""
    sites = locate(model)
    inputs = probe(model)
    with torch.no_grad():
        return self_check(replace(sites, banks=tuple(map(change, sites.banks))), inputs, model(**inputs).logits)


@settings(max_examples=20, deadline=None)
@given(
    model_type=st.sampled_from(sorted(CONFIGS)),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_every_layer_is_checked_and_has_the_effect_that_its_weights_predict(
    model_type: str, seed: int, dtype: torch.dtype
) -> None:
    sites = locate(build(model_type, seed=seed).to(dtype))
    assert [bank.layer for bank in sites.check.banks] == list(range(LAYERS))
    for bank in sites.check.banks:
        assert max(bank.error, bank.elsewhere) <= bank.tolerance <= bank.effect / 4
    assert sites.check.logits > 0
    assert sites.check.earlier == 0
    assert sites.check.summary()["banks"] == LAYERS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_neurons_behind_a_norm_are_checked_in_any_type(dtype: torch.dtype) -> None:
    for seed in range(4):
        model = build_type("bitnet")
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        for bank in locate(model.to(dtype)).check.banks:
            assert bank.error <= bank.tolerance <= bank.effect / 4


WRONG: dict[str, tuple[str, Callable[[Bank], Bank]]] = {
    "gate and up exchanged": (
        "llama",
        lambda bank: replace(bank, up=bank.before, before=bank.up),  # type: ignore[arg-type]
    ),
    "halves exchanged": (
        "phi3",
        lambda bank: replace(bank, up=bank.before, before=replace(bank.before, start=WIDTH)),
    ),
    "half of another": ("phi3", lambda bank: replace(bank, up=replace(bank.up, start=1))),  # type: ignore[type-var]
    "no up": ("llama", lambda bank: replace(bank, up=None)),
    "an up where there is none": ("gpt2", lambda bank: replace(bank, up=bank.before)),
    "the layer above's": (
        "llama",
        lambda bank: replace(bank, after=bank.after.replace(f".{bank.layer}.", f".{(bank.layer + 1) % LAYERS}.")),
    ),
    "another non-linearity": (
        "llama",
        lambda bank: replace(bank, activation=bank.activation.replace("0", "1")),  # type: ignore[union-attr]
    ),
    "another projection": ("llama", lambda bank: replace(bank, up=Slice(bank.up.module.replace("0", "1")))),  # type: ignore[union-attr]
    "another function": ("llama", lambda bank: replace(bank, activation=None, function=torch.tanh)),
    "axes exchanged": ("llama", lambda bank: replace(bank, length_first=True)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_refuses_what_is_located_wrongly(wrong: str) -> None:
    model_type, change = WRONG[wrong]
    with refused("writing") as error:
        checked(build(model_type), change)
    assert "effect" in str(error.value) or "texts" in str(error.value)


def test_names_the_layer_and_the_numbers() -> None:
    with refused("layer 2", "model.layers.2.mlp", "neuron", "predicted effect", "tolerance"):
        checked(build("llama"), lambda bank: replace(bank, up=None) if bank.layer == 2 else bank)


def test_a_functional_bank_passes_where_a_module_does() -> None:
    model = build("llama")
    for bank in checked(model, lambda bank: replace(bank, activation=None, function=nn.SiLU())).banks:
        assert bank.passed


def test_refuses_a_model_that_is_not_deterministic() -> None:
    model = build("llama")
    model.model.norm.register_forward_hook(lambda _module, _args, output: output + torch.rand(()))
    with refused("deterministic"):
        locate(model)


def test_refuses_a_model_whose_texts_are_mixed() -> None:
    model = build("llama")
    model.model.norm.register_forward_hook(lambda _module, _args, output: output + output.mean(0, keepdim=True))
    with refused("texts"):
        locate(model)


def test_refuses_neurons_that_the_logits_do_not_read() -> None:
    model = build("llama")
    model.lm_head.forward = MethodType(lambda self, states: torch.zeros(*states.shape[:-1], 262), model.lm_head)
    with refused("does not change its logits"):
        locate(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_numbers_that_are_not_finite(value: float) -> None:
    model = build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight[3, 2] = value
    with refused("layer 1", "finite", "float32"):
        locate(model)


@pytest.mark.parametrize("model_type", ["bert", "xlnet"])
def test_warns_of_a_model_that_reads_ahead(model_type: str, caplog: pytest.LogCaptureFixture) -> None:
    bert = {"hidden_size": 16, "intermediate_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    xlnet = {"d_model": 16, "d_inner": WIDTH, "n_layer": 2, "n_head": 2}
    assert locate(tiny_model(model_type, **{"bert": bert, "xlnet": xlnet}[model_type])).check.earlier > 0
    assert "not causal" in caplog.text


def test_4_bit_layers_that_bitsandbytes_cannot_pack_run_unpacked(tmp_path: Path) -> None:
    build("llama", hidden_size=64, intermediate_size=80, head_dim=16).save_pretrained(tmp_path)
    model = quantised(tmp_path, "cpu")
    assert locate(model).check.banks
    with torch.no_grad():
        assert torch.isfinite(model(torch.ones(1, 4, dtype=torch.long)).logits).all()


def test_leaves_no_hook_and_no_state() -> None:
    model = build("llama").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    locate(model)
    assert model.training and all(module.training for module in model.modules())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
