"""Neurons and hook points of each Hugging Face architecture: one row per model type, as data.

Every row names the same three things: the list of blocks, the non-linearity inside a block, and the projections on
either side of it. In all of them the non-linearity is a module of its own, so its input is the ``pre`` site and its
output the ``post`` site whatever surrounds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from lnbench.errors import unknown


@dataclass(frozen=True)
class Site:
    """A hook point in every block, where values are read or written.

    Args:
        module: Path from the block to a module.
        side: Whether its ``input`` or its ``output`` holds the values.
        unit_size: Coordinates in one unit: 1 for neurons.
        derived_from: Name of a site that this one is an elementwise, fixed function of: the module's.
    """

    module: str
    side: Literal["input", "output"]
    unit_size: int = 1
    derived_from: str | None = None


PRE: Final = "pre"
POST: Final = "post"
PAPER: Final = "paper"
NeuronSiteOption = Literal["post", "pre"]
"""Sites of neurons, for settings."""
SiteOption = Literal[NeuronSiteOption, "paper"]
"""The keys of :data:`SITE_CHOICES`, for settings."""
NEURON_SITES = (PRE, POST)
"""The sites of neurons, of which one pass counts both: the second is derived from the first."""
SITE_DESCRIPTIONS = {POST: "after the non-linearity", PRE: "before the non-linearity"}


class SiteChoice(NamedTuple):
    """Where values are read (selected, and taken from Statistics) and where they are written."""

    read: str
    write: str


SITE_CHOICES: dict[str, SiteChoice] = {
    POST: SiteChoice(POST, POST),
    PRE: SiteChoice(PRE, PRE),
    PAPER: SiteChoice(PRE, POST),
}
"""What users may choose: after the non-linearity (the default), before it, or as in the paper, read before and written
after it. Any other site of an architecture is read and written at the same place."""


def site_choice(name: str) -> SiteChoice:
    """Return where a user's ``site`` is read and written."""
    return SITE_CHOICES.get(name, SiteChoice(name, name))


@dataclass(frozen=True)
class Architecture:
    """One model type's module paths. ``blocks`` is a path from the causal LM, the others are paths from a block."""

    blocks: str
    """The ``ModuleList`` of transformer blocks."""
    activation: str
    """The feed-forward non-linearity, whose output coordinates are the neurons; a module of its own in each block."""
    before: str
    """The projection whose output enters the non-linearity: the gate projection of a gated MLP."""
    after: str
    """The down projection, which reads the neurons; its number of inputs is the width (``d_mlp``)."""
    up: str | None = None
    """The up projection of a gated MLP, which the neurons are multiplied with; None otherwise."""
    fused: bool = False
    """``before`` computes gate and up in one matrix, the gate in its first ``width`` rows."""
    attention: tuple[str, ...] = ()
    """The attention's query, key, value and output projections, one path each, which the fine-tuners adapt."""
    sites: Mapping[str, Site] = field(default_factory=dict, hash=False)
    """Hook points by name, beside ``pre`` and ``post``, which every row has: the non-linearity's input and output."""

    def __post_init__(self) -> None:
        shared = {PRE: Site(self.activation, "input"), POST: Site(self.activation, "output", derived_from=PRE)}
        object.__setattr__(self, "sites", shared | dict(self.sites))

    def site(self, name: str) -> Site:
        """Return a site by its name.

        Raises:
            LnbenchError: there is no such site.
        """
        if name not in self.sites:
            raise unknown("site", name, self.sites)
        return self.sites[name]


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
