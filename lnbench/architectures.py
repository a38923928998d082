"""Where neurons sit in each Hugging Face architecture: one row an architecture, and the lookup on a live model.

Every row names the same three things: the list of blocks, the non-linearity inside a block, and the projections on
either side of it. In all of them the non-linearity is a module of its own, so its input is the ``pre`` site and its
output the ``post`` site whatever surrounds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import nn

from lnbench.errors import LnbenchError, unknown

_HOW_TO_ADD = (
    "A plugin can add it: lnbench_register_architectures(register) with register(model_type, "
    "lnbench.architectures.Architecture(blocks=…, activation=…, before=…, after=…)); see docs/plugins.md"
)


@dataclass(frozen=True)
class Architecture:
    """One model type's places. ``blocks`` is a path from the causal LM, the others are paths from a block."""

    blocks: str
    """The ``ModuleList`` of transformer blocks."""
    activation: str
    """The feed-forward non-linearity, whose output coordinates are the neurons; a module of its own in each block."""
    before: str
    """The projection whose output enters the non-linearity."""
    after: str
    """The projection that reads the neurons; its number of inputs is the width."""
    up: str | None = None
    """In a gated block, the projection that the neurons are multiplied with; None otherwise."""
    fused: bool = False
    """``before`` computes gate and up in one matrix, the gate in its first ``width`` rows."""
    attention: tuple[str, ...] = ()
    """The attention's query, key, value and output projections, one path each, which the fine-tuners adapt."""


_QKVO = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_QKV_OUT = (*_QKVO[:3], "self_attn.out_proj")


def _gated(blocks: str = "model.layers") -> Architecture:
    return Architecture(blocks, "mlp.act_fn", "mlp.gate_proj", "mlp.down_proj", up="mlp.up_proj", attention=_QKVO)


def _fused(*attention: str) -> Architecture:
    return Architecture(
        "model.layers", "mlp.activation_fn", "mlp.gate_up_proj", "mlp.down_proj", fused=True, attention=attention
    )


def _plain(blocks: str, activation: str, before: str, after: str, *attention: str) -> Architecture:
    return Architecture(blocks, activation, before, after, attention=attention)


ARCHITECTURES: dict[str, Architecture] = {
    "llama": _gated(),
    "mistral": _gated(),
    "ministral": _gated(),
    "qwen2": _gated(),
    "qwen3": _gated(),
    "gemma": _gated(),
    "gemma2": _gated(),
    "gemma3_text": _gated(),
    "gemma3": _gated("model.language_model.layers"),
    "cohere": _gated(),
    "cohere2": _gated(),
    "granite": _gated(),
    "olmo": _gated(),
    "olmo2": _gated(),
    "olmo3": _gated(),
    "smollm3": _gated(),
    "stablelm": _gated(),
    "phi3": _fused("self_attn.qkv_proj", "self_attn.o_proj"),
    "glm": _fused(*_QKVO),
    "glm4": _fused(*_QKVO),
    "gpt2": _plain("transformer.h", "mlp.act", "mlp.c_fc", "mlp.c_proj", "attn.c_attn", "attn.c_proj"),
    "gpt_neo": _plain(
        *("transformer.h", "mlp.act", "mlp.c_fc", "mlp.c_proj"),
        *(f"attn.attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
    ),
    "gptj": _plain(
        *("transformer.h", "mlp.act", "mlp.fc_in", "mlp.fc_out"),
        *("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj"),
    ),
    "gpt_neox": _plain(
        *("gpt_neox.layers", "mlp.act", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        *("attention.query_key_value", "attention.dense"),
    ),
    "bloom": _plain(
        *("transformer.h", "mlp.gelu_impl", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        *("self_attention.query_key_value", "self_attention.dense"),
    ),
    "falcon": _plain(
        *("transformer.h", "mlp.act", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        *("self_attention.query_key_value", "self_attention.dense"),
    ),
    "opt": _plain("model.decoder.layers", "activation_fn", "fc1", "fc2", *_QKV_OUT),
    "xglm": _plain("model.layers", "activation_fn", "fc1", "fc2", *_QKV_OUT),
    "phi": _plain("model.layers", "mlp.activation_fn", "mlp.fc1", "mlp.fc2", *_QKVO[:3], "self_attn.dense"),
    "starcoder2": _plain("model.layers", "mlp.act", "mlp.c_fc", "mlp.c_proj", *_QKVO),
}

_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok")


@dataclass(frozen=True)
class Sites:
    """The neurons of one live model: its blocks and their non-linearities, in order."""

    architecture: Architecture
    model: nn.Module
    """The causal LM itself, out of any PEFT or parallel wrapper."""
    blocks: tuple[nn.Module, ...]
    activations: tuple[nn.Module, ...]
    width: int

    @property
    def layers(self) -> int:
        """The number of blocks ``L``; the model has ``L × width`` neurons."""
        return len(self.blocks)

    @property
    def parents(self) -> tuple[nn.Module, ...]:
        """The modules around the list of blocks, from the causal LM inwards: what a forward pass may enter at."""
        modules = [self.model]
        for name in self.architecture.blocks.split(".")[:-1]:
            modules.append(getattr(modules[-1], name))
        return tuple(modules)


def unwrap(model: Any) -> Any:
    """The Hugging Face model inside PEFT, data-parallel and compiled wrappers."""
    while True:
        if hasattr(model, "get_base_model"):
            inner = model.get_base_model()
        else:
            inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def architecture_of(config: Any) -> Architecture:
    """The row for a Hugging Face configuration.

    Raises:
        LnbenchError: the model type has no row, or is a mixture of experts.
    """
    from lnbench.host import get_host

    model_type = getattr(config, "model_type", None)
    host = get_host()
    if model_type in host.names("architecture"):
        row = host.factory("architecture", model_type)
        if not isinstance(row, Architecture):
            raise LnbenchError(f"the row registered for architecture {model_type!r} is not an Architecture: {row!r}")
        return row
    text = getattr(config, "text_config", None) or config
    if any((getattr(text, name, None) or 0) > 1 for name in _EXPERT_COUNTS):
        raise LnbenchError(
            f"model type {model_type!r} is a mixture of experts: each token runs other feed-forward units, so a "
            f"neuron is not a (layer, index) there. Dense architectures are supported. {_HOW_TO_ADD}"
        )
    raise unknown("architecture", model_type, sorted(host.names("architecture")), _HOW_TO_ADD)


def locate(model: nn.Module) -> Sites:
    """Find the neurons of ``model`` (plain, PEFT-wrapped or quantised).

    Raises:
        LnbenchError: unknown or mixture-of-experts architecture, a model whose structure does not fit its row, blocks
            of different widths, or a model split by tensor parallelism (each process would hold a shard of the
            neurons).
    """
    base = unwrap(model)
    config = getattr(base, "config", None)
    row = architecture_of(config)
    refuse_tensor_parallel(base)
    model_type = getattr(config, "model_type", None)
    try:
        blocks = tuple(attrgetter(row.blocks)(base))
        activations = tuple(attrgetter(row.activation)(block) for block in blocks)
        widths = {_inputs(attrgetter(row.after)(block)) for block in blocks}
    except AttributeError as error:
        raise LnbenchError(
            f"this {type(base).__name__} does not have the parts that the row for {model_type!r} names ({error}); "
            f"pass the causal language model itself. {_HOW_TO_ADD}"
        ) from error
    if not all(isinstance(module, nn.Module) for module in activations):
        raise LnbenchError(
            f"{row.activation!r} of this {type(base).__name__} is not a module of its own, so nothing can be "
            "hooked to it"
        )
    if len(widths) != 1:
        raise LnbenchError(
            f"this {type(base).__name__} has feed-forward blocks of different widths {sorted(widths)} or none; "
            "lnbench needs one width for all layers"
        )
    if len(set(map(id, activations))) != len(activations):
        raise LnbenchError(
            f"this {type(base).__name__} shares one non-linearity between layers, so its layers cannot be told apart"
        )
    return Sites(row, base, blocks, activations, widths.pop())


def refuse_tensor_parallel(model: nn.Module) -> None:
    """Raise if ``model``'s weights are sharded over processes by tensor parallelism.

    Raises:
        LnbenchError: always when sharded; says what to use in its place.
    """
    sharded = (getattr(model, "_tp_size", None) or 1) > 1 or any(
        hasattr(parameter, "placements") for parameter in model.parameters()
    )
    if sharded:
        raise LnbenchError(TENSOR_PARALLEL)


TENSOR_PARALLEL = (
    "under tensor parallelism (tp_plan) every process holds only a shard of each layer's neurons, which lnbench does "
    "not override; split the model by layers in its place: parallelize=True, or device_map=auto"
)


def _inputs(projection: nn.Module) -> int:
    """The number of inputs of a linear layer, GPT-2's transposed ``Conv1D`` and PEFT's wrappers included."""
    while hasattr(projection, "base_layer"):
        projection = projection.base_layer  # type: ignore[assignment]
    size = getattr(projection, "in_features", None)
    return int(size if size is not None else projection.nx)  # type: ignore[arg-type]
