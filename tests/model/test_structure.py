"""Feed-forwards in hand-written blocks: every form that is one is found, with its gate and up, and no look-alike is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput
from transformers.pytorch_utils import Conv1D

from lnbench import override
from lnbench.model.banks import Bank
from lnbench.model.experts import experts_of
from lnbench.model.locate import locate
from lnbench.model.structure import probe, structure_of
from lnbench.model.trace import trace_model
from lnbench.override_values import LayerOverride, Override
from tests.support.every_type import build_type
from tests.support.messages import refused

HIDDEN, WIDTH, VOCABULARY = 16, 24, 60


class Gated(nn.Module):
    """``σ(gate) · up`` as remote code writes it, with the factors in either order."""

    def __init__(self, function: Any, *, width: int = WIDTH, swapped: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.w1, self.w2, self.c_proj = nn.Linear(HIDDEN, width), nn.Linear(HIDDEN, width), nn.Linear(width, HIDDEN)
        self.function, self.swapped, self.dropout = function, swapped, nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        neurons, up = self.function(self.w2(x)), self.w1(x)
        return self.c_proj(self.dropout(up * neurons if self.swapped else neurons * up))


class Halves(nn.Module):
    """Gate and up in one matrix: halves, or every other row."""

    def __init__(self, function: Any, *, interleaved: bool = False, gate_last: bool = False) -> None:
        super().__init__()
        self.proj_1, self.proj_2 = nn.Linear(HIDDEN, 2 * WIDTH), nn.Linear(WIDTH, HIDDEN)
        self.function, self.interleaved, self.gate_last = function, interleaved, gate_last

    def forward(self, x: Tensor) -> Tensor:
        both = self.proj_1(x)
        parts = (both[..., ::2], both[..., 1::2]) if self.interleaved else both.chunk(2, dim=-1)
        gate, up = parts[::-1] if self.gate_last else parts
        return self.proj_2(self.function(gate) * up)


class Plain(nn.Module):
    def __init__(self, function: Any, *, conv: bool = False) -> None:
        super().__init__()
        self.c_fc = Conv1D(WIDTH, HIDDEN) if conv else nn.Linear(HIDDEN, WIDTH)
        self.c_proj = Conv1D(HIDDEN, WIDTH) if conv else nn.Linear(WIDTH, HIDDEN)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.function(self.c_fc(x)))


class OwnGelu(nn.Module):
    """A non-linearity written out, of a class that transformers does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + torch.tanh(0.79788456 * (x + 0.044715 * torch.pow(x, 3))))


class Tiny(nn.Module):
    """A residual stream with hand-written feed-forwards and a causal mixer between them."""

    def __init__(self, *feed_forwards: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(VOCABULARY, HIDDEN), nn.Linear(HIDDEN, VOCABULARY)
        self.blocks, self.dtype = nn.ModuleList(feed_forwards), torch.float32
        self.config = SimpleNamespace(model_type="novel", to_dict=lambda: {"model_type": "novel"})

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = False) -> Any:
        x = self.embed(input_ids)
        for block in self.blocks:
            x = x + x.cumsum(1) / 7 + block(F.layer_norm(x, (HIDDEN,)))
        return CausalLMOutput(logits=self.head(x))


FORMS: dict[str, tuple[Any, tuple[str, str | None, str, int]]] = {
    "functional": (lambda: Gated(F.silu), ("w2", "w1", "c_proj", 0)),
    "functional, factors exchanged": (lambda: Gated(F.silu, swapped=True), ("w2", "w1", "c_proj", 0)),
    "with dropout": (lambda: Gated(F.gelu, dropout=0.3), ("w2", "w1", "c_proj", 0)),
    "a module": (lambda: Gated(nn.GELU()), ("w2", "w1", "c_proj", 0)),
    "written out": (lambda: Gated(OwnGelu()), ("w2", "w1", "c_proj", 0)),
    "halves": (lambda: Halves(F.silu), ("proj_1", "proj_1", "proj_2", 0)),
    "halves, gate last": (lambda: Halves(F.silu, gate_last=True), ("proj_1", "proj_1", "proj_2", WIDTH)),
    "interleaved": (lambda: Halves(F.silu, interleaved=True), ("proj_1", "proj_1", "proj_2", 0)),
    "interleaved, gate last": (
        lambda: Halves(F.silu, interleaved=True, gate_last=True),
        ("proj_1", "proj_1", "proj_2", 1),
    ),
    "plain": (lambda: Plain(F.relu), ("c_fc", None, "c_proj", 0)),
    "squared": (lambda: Plain(lambda x: F.relu(x).pow(2)), ("c_fc", None, "c_proj", 0)),
    "transposed": (lambda: Plain(nn.GELU(), conv=True), ("c_fc", None, "c_proj", 0)),
    "clamped at zero": (lambda: Plain(lambda x: x.clamp(min=0)), ("c_fc", None, "c_proj", 0)),
}


@pytest.mark.parametrize("form", FORMS)
def test_finds_gate_up_and_down(form: str) -> None:
    make, (before, up, after, start) = FORMS[form]
    sites = locate(Tiny(make(), make()))
    assert sites.widths == (WIDTH, WIDTH)
    for layer, bank in enumerate(sites.banks):
        prefix = f"blocks.{layer}."
        found = (bank.before.module, bank.up and bank.up.module, bank.after)
        names = [part and part.removeprefix(prefix) for part in found]
        assert (*names, bank.before.start) == (before, up, after, start)


@settings(max_examples=25, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMS)),
    seed=st.integers(0, 99),
    indices=st.lists(st.integers(0, WIDTH - 1), min_size=1, max_size=6, unique=True),
)
def test_an_override_equals_the_block_written_by_hand(form: str, seed: int, indices: list[int]) -> None:
    make, (before, up, after, start) = FORMS[form]
    model = Tiny(make(), make()).eval()
    where = torch.tensor(sorted(indices))
    values = torch.randn(len(where), generator=torch.Generator().manual_seed(seed))
    ids = torch.randint(VOCABULARY, (3, 5), generator=torch.Generator().manual_seed(seed))
    with override(model, Override({1: LayerOverride(where, values)})), torch.no_grad():
        changed = model(input_ids=ids).logits

    def by_hand(block: Any, x: Tensor) -> Tensor:
        projected = getattr(block, before)(x)
        step = 2 if "interleaved" in form else 1
        neurons = block.function(projected[..., start::step][..., :WIDTH]).clone()
        neurons[..., where] = values
        if up == before:
            other = (1 - start) if step == 2 else WIDTH - start
            neurons = neurons * projected[..., other::step][..., :WIDTH]
        elif up is not None:
            neurons = neurons * getattr(block, up)(x)
        return getattr(block, after)(neurons)

    with torch.no_grad():
        x = model.embed(ids)
        for layer, block in enumerate(model.blocks):
            normed = F.layer_norm(x, (HIDDEN,))
            x = x + x.cumsum(1) / 7 + (by_hand(block, normed) if layer == 1 else block(normed))
        torch.testing.assert_close(changed, model.head(x), rtol=1e-5, atol=1e-5)


class Router(nn.Module):
    """Gives fewer numbers than it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(HIDDEN, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.second(F.relu(self.first(x))).softmax(-1).amax(-1, keepdim=True)


class OutputGate(nn.Module):
    """An attention's output gate: its other factor is no linear map's output."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.values, self.out = (
            nn.Linear(HIDDEN, HIDDEN),
            nn.Linear(HIDDEN, HIDDEN),
            nn.Linear(HIDDEN, HIDDEN),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.gate(x)) * self.values(x).cumsum(1))


class OtherInput(nn.Module):
    """Gate and up of different tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.out = nn.Linear(HIDDEN, WIDTH), nn.Linear(HIDDEN, WIDTH), nn.Linear(WIDTH, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.sigmoid(self.gate(x)) * self.up(x.cumsum(1)))


class GatedNorm(nn.Module):
    """Its output scales the stream and is not added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(HIDDEN, WIDTH), nn.Linear(WIDTH, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.second(F.silu(self.first(x))))


class Bilinear(nn.Module):
    """No non-linearity."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.out = nn.Linear(HIDDEN, WIDTH), nn.Linear(HIDDEN, WIDTH), nn.Linear(WIDTH, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gate(x) * self.up(x) * 2.0)


@pytest.mark.parametrize("look_alike", [Router, OutputGate, OtherInput, GatedNorm, Bilinear])
def test_what_only_looks_like_a_feed_forward_is_none(look_alike: type[nn.Module]) -> None:
    model = Tiny(look_alike(), look_alike())
    assert structure_of(model, trace_model(model, probe(model))).banks == ()
    with refused("no feed-forward"):
        locate(model)


@pytest.mark.parametrize(
    ("model_type", "alone"),
    [
        ("gemma3", "vision"),
        ("gemma3n_text", "altup"),
        ("gemma4", "per_layer"),
        ("gemma4", "vision"),
        ("jamba, one expert", "mamba"),
        ("modernbert-decoder", "head"),
        ("phi4_multimodal", "audio"),
        ("falcon_h1", "mamba"),
        ("rwkv", "attention"),
        ("bert", "cls"),
    ],
)
def test_look_alikes_of_real_models_are_left_out(model_type: str, alone: str) -> None:
    model = build_type(model_type)
    structure = structure_of(model, trace_model(model, probe(model)))
    names = [name for bank in structure.banks if isinstance(bank, Bank) for name in (bank.before.module, bank.after)]
    assert names
    assert not [name for name in names if alone in name]


@pytest.mark.parametrize(
    ("names", "is_mixture"),
    [
        (("mixtral", "qwen3_moe", "llama4_text", "dbrx", "jetmoe", "gpt_oss", "longcat_flash"), True),
        (("granitemoehybrid", "jamba", "nemotron_h", "lfm2_moe"), True),
        (("granitemoehybrid, dense", "jamba, one expert", "nemotron_h, dense", "doge"), False),
        (("llama", "mamba", "falcon_h1", "gemma4_text", "lfm2"), False),
    ],
)
def test_a_mixture_is_one_in_the_live_model(names: tuple[str, ...], is_mixture: bool) -> None:
    assert [name for name in names if bool(experts_of(build_type(name))) != is_mixture] == []


@pytest.mark.parametrize("model_type", ["internlm3", "iquestcoder"])
def test_a_type_of_a_known_class_is_located(model_type: str) -> None:
    assert type(build_type(model_type)).__name__ == "LlamaForCausalLM"
    assert locate(build_type(model_type)).architecture.activation == "mlp.act_fn"
