"""The neurons of a live model: unwrap it, find its row, and locate its blocks and their non-linearities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lnbench.errors import LnbenchError, unknown
from lnbench.host import get_host
from lnbench.model.architectures import Architecture

_HOW_TO_ADD = (
    "A plugin can add it: lnbench_register_architectures(register) with register(model_type, "
    "lnbench.model.architectures.Architecture(blocks=…, activation=…, before=…, after=…)); see docs/howto/plugins.md"
)

Tap = Callable[[Tensor], Tensor | None]
"""A function of a site's values ``[..., width]``; it may return new ones."""

_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok")


@dataclass(frozen=True)
class Sites:
    """The neurons of one live model: its blocks and their non-linearities, in order."""

    architecture: Architecture
    model: nn.Module
    """The causal LM itself, out of any PEFT or parallel wrapper."""
    blocks: tuple[nn.Module, ...]
    activations: tuple[nn.Module, ...]
    """The non-linearities, one per block."""
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

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of units per layer."""
        return (self.width,) * self.layers

    def at(self, site: str, layer: int) -> nn.Module:
        """Return the module of ``site`` in one block.

        Raises:
            LnbenchError: the architecture has no such site.
        """
        module: nn.Module = attrgetter(self.architecture.site(site).module)(self.blocks[layer])
        return module

    def tap(self, site: str, layer: int, function: Tap) -> RemovableHandle:
        """Call ``function`` with the values of one layer in every forward pass.

        Args:
            site: Name of the site.
            layer: Number of the layer.
            function: It returns new values, ``[..., width]``, or None to leave them as they are.

        Returns:
            A handle; its ``remove()`` ends this.

        Raises:
            LnbenchError: the architecture has no such site.
        """
        module = self.at(site, layer)
        if self.architecture.site(site).side == "input":

            def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
                new = function(args[0])
                return None if new is None else (new, *args[1:])

            return module.register_forward_pre_hook(before)
        return module.register_forward_hook(lambda _module, _args, output: function(output))


def unwrap(model: Any) -> Any:
    """Return the Hugging Face model inside PEFT, data-parallel and compiled wrappers."""
    if hasattr(model, "get_base_model"):
        inner = model.get_base_model()
    else:
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
    return unwrap(inner) if isinstance(inner, nn.Module) else model


def architecture_of(config: Any) -> Architecture:
    """Return the row for a Hugging Face configuration.

    Raises:
        LnbenchError: the model type has no row, or is a mixture of experts.
    """
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
    kind = type(base).__name__
    try:
        blocks = tuple(attrgetter(row.blocks)(base))
        activations = tuple(attrgetter(row.activation)(block) for block in blocks)
        widths = {_inputs(attrgetter(row.after)(block)) for block in blocks}
    except AttributeError as error:
        raise LnbenchError(
            f"this {kind} does not have the parts that the row for {getattr(config, 'model_type', None)!r} names "
            f"({error}); pass the causal language model itself. {_HOW_TO_ADD}"
        ) from error
    if not all(isinstance(module, nn.Module) for module in activations):
        raise LnbenchError(
            f"{row.activation!r} of this {kind} is not a module of its own, so nothing can be hooked to it"
        )
    if len(widths) != 1:
        raise LnbenchError(
            f"this {kind} has feed-forward blocks of different widths {sorted(widths)} or none; lnbench needs one "
            "width for all layers"
        )
    if len(set(map(id, activations))) != len(activations):
        raise LnbenchError(
            f"this {kind} shares one non-linearity between layers, so its layers cannot be distinguished"
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
    """Return the number of inputs of a linear layer, also of GPT-2's transposed ``Conv1D`` and PEFT's wrappers."""
    while hasattr(projection, "base_layer"):
        projection = projection.base_layer  # type: ignore[assignment]
    size = getattr(projection, "in_features", None)
    return int(size if size is not None else projection.nx)  # type: ignore[arg-type]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout and the like off, and back on where it was on."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def transformer_body(model: Any) -> nn.Module:
    """Return the model without its output head."""
    body = getattr(model, "base_model", None)
    return body if isinstance(body, nn.Module) else model


def input_device(model: Any) -> torch.device:
    """Return the device that token ids go to, also where the weights are offloaded."""
    hook = getattr(model.get_input_embeddings(), "_hf_hook", None)
    if (device := getattr(hook, "execution_device", None)) is not None:
        return torch.device(device)
    here = (parameter.device for parameter in model.parameters() if not parameter.is_meta)
    return next(here, torch.device("cpu"))
