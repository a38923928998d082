"""How large a model is by its configuration, how it is loaded, and what a piece of work takes of memory and disk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lnbench.model.packaged import PACKAGED, is_unpacked, resolve
from lnbench.model.sites import unwrap
from lnbench.statistics.batching import KEPT_PER_NEURON, bytes_per_block

BACKWARD = 3
"""Forward passes' time that a step of training takes; one more with gradient checkpointing."""
_STORED_PER_NEURON = 1024
"""Bytes per neuron of a language's Statistics: two sites' moments, and quantiles at 107 levels."""
_COPIES = 10
"""Times the trained parameters, in 4 bytes, that a training writes: the adapter, and two checkpoints with AdamW's two
moments and the one that is being written."""
_TRAINED = 16
"""Bytes per trained parameter in memory: itself, its gradient and two moments."""
_KEPT_FOR_BACKWARD = 12
"""Numbers per hidden feature that a layer keeps of each token for the backward pass; and 4 per neuron."""
_SAMPLE = 2_000
"""Bytes of one document's sample on disk."""
BYTES_PER_TOKEN = 40
"""Bytes of a token that is kept in memory: ids, marks, and what is made of them."""
_WIDTHS = ("moe_intermediate_size", "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_DTYPES = {"float32": 4.0, "float": 4.0, "float64": 8.0, "bfloat16": 2.0, "float16": 2.0, "half": 2.0}
_FOUR_BITS, _EIGHT_BITS = 0.5625, 1.0
"""Bytes per quantised weight, with the scales of its blocks."""


@dataclass(frozen=True)
class ModelSize:
    """What a model's configuration says of its size.

    Args:
        parameters: All of them.
        embedded: Those of the input embedding and the output head, which quantisation leaves as they are.
        layers: Blocks.
        neurons: In all layers.
        hidden: Hidden features.
        heads: Attention heads.
        vocabulary: Words that the output head scores.
        dtype: What the weights are loaded as, unless something else is asked for.
    """

    parameters: int
    embedded: int
    layers: int
    neurons: int
    hidden: int
    heads: int
    vocabulary: int
    dtype: str = "float32"

    @property
    def body(self) -> int:
        """Parameters that every token is multiplied by, the output head excepted."""
        return self.parameters - self.embedded

    @property
    def width(self) -> int:
        """Neurons per layer."""
        return math.ceil(self.neurons / self.layers)

    @classmethod
    def of(cls, model: Any) -> ModelSize:
        """Return the size of a model, which may be on the device ``meta``."""
        model = unwrap(model)
        config = model.config.get_text_config()
        embeddings = {id(part.weight): part.weight for part in _embeddings(model)}
        layers = int(config.num_hidden_layers)
        width = next((value for name in _WIDTHS if (value := getattr(config, name, None))), 4 * config.hidden_size)
        widths = list(width) if isinstance(width, list | tuple) else [width] * layers
        experts = next((value for name in _EXPERTS if (value := getattr(config, name, None))), 1)
        return cls(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            embedded=sum(weight.numel() for weight in embeddings.values()),
            layers=layers,
            neurons=sum(map(int, widths)) * int(experts),
            hidden=int(config.hidden_size),
            heads=int(config.num_attention_heads),
            vocabulary=int(config.vocab_size),
            dtype=str(getattr(config, "dtype", None) or model.dtype).removeprefix("torch."),
        )


def _embeddings(model: Any) -> list[Any]:
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    return [part for part in parts if part is not None and hasattr(part, "weight")]


def size_of(pretrained: Any, arguments: Mapping[str, Any] | None = None) -> ModelSize | None:
    """Return a model's size by its configuration alone; None where that cannot be had.

    Args:
        pretrained: Packaged model, hub name or folder.
        arguments: Further arguments of lm-eval's ``hf``.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    given = dict(arguments or {})
    if (
        not isinstance(pretrained, str)
        or given.get("gguf_file")
        or (pretrained in PACKAGED and not is_unpacked(pretrained))
    ):
        return None
    options = {name: given[name] for name in ("revision", "subfolder", "trust_remote_code") if given.get(name)}
    try:
        config = AutoConfig.from_pretrained(resolve(pretrained), **options)
        trusted = {"trust_remote_code": True} if given.get("trust_remote_code") else {}
        with torch.device("meta"):
            return ModelSize.of(AutoModelForCausalLM.from_config(config, **trusted))
    except Exception:  # Whatever is wrong with the model, loading it says so in full.
        return None


@dataclass(frozen=True)
class LoadedAs:
    """How a model is loaded, as far as it decides the memory that its weights take."""

    dtype: str = "auto"
    four_bit: bool = False
    eight_bit: bool = False
    parallelize: bool = False
    device: str | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any], device: str | None = None) -> LoadedAs:
        """Return it from the arguments of lm-eval's ``hf``."""
        return cls(
            dtype=str(arguments.get("dtype") or "auto").removeprefix("torch."),
            four_bit=bool(arguments.get("load_in_4bit")),
            eight_bit=bool(arguments.get("load_in_8bit")),
            parallelize=bool(arguments.get("parallelize")),
            device=str(given) if (given := device or arguments.get("device")) is not None else None,
        )

    def weights(self, size: ModelSize) -> float:
        """Return the bytes of the weights."""
        plain = _DTYPES.get(size.dtype if self.dtype == "auto" else self.dtype, 4.0)
        if self.four_bit or self.eight_bit:
            return size.body * (_FOUR_BITS if self.four_bit else _EIGHT_BITS) + size.embedded * min(plain, 2.0)
        return size.parameters * plain


@dataclass(frozen=True)
class Work:
    """What is about to be done, in tokens; all numbers are of the whole command unless they say otherwise."""

    doing: str
    """For a sentence: ``collecting Statistics``."""
    read: int = 0
    """Tokens that go through the body."""
    scored: int = 0
    """Positions at which logits are computed."""
    trained: int = 0
    """Tokens that go forward and backward."""
    length: int = 512
    """Tokens in a row."""
    rows: int = 1
    """Rows in a forward pass, at least."""
    counted: int = 0
    """Languages whose Statistics are collected."""
    stored: int | None = None
    """Of these, whose files are written to the folder; all by default."""
    parameters: int = 0
    """That are trained."""
    checkpointing: bool = False
    """Whether activations are computed again in the backward pass."""
    states: int = 0
    """Positions whose hidden states are kept."""
    text: int = 0
    """Tokens that are in memory at a time."""
    samples: int = 0
    """Documents whose samples are written."""

    def operations(self, size: ModelSize) -> float:
        """Return the multiplications and additions that it takes."""
        through = self.read + BACKWARD * self.trained
        return 2.0 * size.body * through + 2.0 * size.hidden * size.vocabulary * self.scored

    def memory(self, size: ModelSize, loading: LoadedAs) -> dict[str, float]:
        """Return the bytes that are needed at least, by what they are for."""
        tokens = self.length * self.rows
        logits = 8.0 * size.vocabulary * min(self.scored, 32)
        kept = _KEPT_FOR_BACKWARD * size.hidden + 4 * size.width
        of_layers = tokens * 2.0 * (size.layers * size.hidden + kept if self.checkpointing else size.layers * kept)
        parts = {
            "weights": loading.weights(size),
            "a forward pass": self.rows * bytes_per_block(self.length, size.width, size.hidden, size.heads) + logits,
            "counts of every neuron": 2.0 * KEPT_PER_NEURON * size.neurons if self.counted else 0.0,
            "training": of_layers + _TRAINED * self.parameters if self.trained else 0.0,
            "hidden states that are kept": 4.0 * size.hidden * self.states,
            "text": float(BYTES_PER_TOKEN * self.text),
        }
        return {name: value for name, value in parts.items() if value}

    def disk(self, size: ModelSize) -> float:
        """Return the bytes that are written, at most for a moment."""
        stored = self.counted if self.stored is None else self.stored
        counts = (KEPT_PER_NEURON + stored * _STORED_PER_NEURON) * size.neurons if stored else 0
        return float(counts + 4 * _COPIES * self.parameters + _SAMPLE * self.samples)
