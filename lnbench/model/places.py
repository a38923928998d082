"""Sites that are no neurons': where in each layer their values lie, found in one traced forward pass.

``residual`` is a block's output. ``attention`` is what the output projection of softmax attention reads: the outputs
of all heads, side by side. A linear map is such a projection if its input is a product of attention weights with
values, in which the axes of heads and coordinates were merged; output gates and norms may lie between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lnbench.errors import LnbenchError
from lnbench.model.architectures import ATTENTION, NEURON_SITES, RESIDUAL, Architecture, Site
from lnbench.model.taps import first_of, tap_module
from lnbench.model.trace import block_names, shape_of


@dataclass(frozen=True)
class Place:
    """Where the values of a site lie in one layer: at a module's first input, or its (first) output."""

    site: str
    layer: int
    module: str
    """Its name, from the causal LM."""
    side: Literal["input", "output"]
    width: int
    """Units."""
    unit_size: int = 1
    """Coordinates per unit, which lie side by side."""
    length_first: bool = False
    """Values are ``[length, batch, coordinates]``."""
    shared: bool = False
    """Other layers run this module too."""

    @property
    def coordinates(self) -> int:
        """The number of coordinates of all units."""
        return self.width * self.unit_size


class Layout(NamedTuple):
    """How many units a site has in each layer, and how many coordinates each of them; 0 units where it is not there."""

    widths: tuple[int, ...]
    unit_sizes: tuple[int, ...]

    @property
    def width(self) -> int:
        """Units of the widest layer."""
        return max(self.widths)

    @property
    def unit_size(self) -> int:
        """Coordinates of the largest unit."""
        return max(self.unit_sizes)


@dataclass
class Seen:
    """What one forward pass shows of blocks and of what reads attention's outputs."""

    heads: dict[tuple[str, str], tuple[int, int, torch.Size]] = field(default_factory=dict)
    """Block and linear map → heads, coordinates of each, and the shape of what it read."""
    outputs: dict[str, torch.Size] = field(default_factory=dict)
    """Block → shape of its (first) output."""
    named: dict[tuple[str, str], torch.Size] = field(default_factory=dict)
    """Site of a plugin's row and block → shape of its values."""


_MERGES = ("view", "_unsafe_view", "reshape", "_reshape_alias")
_PRODUCTS = ("bmm", "mm", "matmul", "baddbmm")
_PARTS = ("split", "split_with_sizes", "chunk", "slice", "select", "unbind")
_LINEAR = (*_PRODUCTS, "addmm", "linear", "convolution")
_KERNELS = ("scaled_dot_product", "flash_att", "flex_attention", "efficient_attention")


class _Mixed(TorchDispatchMode):
    """Follows attention weights, and what they are multiplied with."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights: dict[int, Tensor] = {}
        self.mixed: dict[int, Tensor] = {}
        self.heads: dict[int, tuple[int, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        first = first_of(output)
        if isinstance(first, Tensor):
            self._note(str(func.overloadpacket.__name__), args, output, first)
        return output

    def _note(self, name: str, args: Any, output: Any, first: Tensor) -> None:
        if any(kernel in name for kernel in _KERNELS):
            self.mixed[id(first)] = first
            return
        if "softmax" in name and "backward" not in name:
            self.weights[id(first)] = first
            return
        flat = [part for arg in args for part in (arg if isinstance(arg, list | tuple) else (arg,))]
        tensors = [part for part in flat if isinstance(part, Tensor)]
        if any(id(tensor) in self.weights for tensor in tensors):
            known = self.mixed if name in _PRODUCTS else self.weights
            for part in output if isinstance(output, list | tuple) else (output,):
                if isinstance(part, Tensor):
                    known[id(part)] = part
        source = next((tensor for tensor in tensors if id(tensor) in self.mixed), None)
        if source is not None and name in _PARTS and first.shape[-1] == source.shape[-1]:
            # Heads of which others are taken off (differential attention).
            for part in output if isinstance(output, list | tuple) else (output,):
                self.mixed[id(part)] = part
            return
        if name == "cat" and all(id(tensor) in self.mixed for tensor in tensors):
            self.mixed[id(first)] = first
            return
        if source is None or first.numel() != source.numel() or name in _LINEAR:
            return
        heads = self.heads.get(id(source))
        if name in _MERGES:
            heads = _merged(source, first) or (heads if first.shape[-1] == source.shape[-1] else None)
        elif heads is not None and first.shape != source.shape:
            return
        self.mixed[id(first)] = first
        if heads is not None:
            self.heads[id(first)] = heads


def _merged(source: Tensor, merged: Tensor) -> tuple[int, int] | None:
    """Return heads and coordinates of each, where ``[…, heads, coordinates]`` became ``[…, both]``."""
    size = merged.shape[-1]
    if size == source.shape[-1]:
        return None
    fits = any(prod(source.shape[axis:]) == size for axis in range(1, source.ndim - 1))
    return (size // source.shape[-1], source.shape[-1]) if fits else None


@contextmanager
def watched(model: nn.Module, row: Architecture | None) -> Iterator[Seen]:
    """Watch one forward pass of ``model`` inside the block, with the sites that a plugin's row names."""
    seen, mixed, running = Seen(), _Mixed(), list[str]()

    def leave(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            running.pop()
            if isinstance(first := first_of(output), Tensor):
                seen.outputs[name] = first.shape

        return hook

    def read(name: str, inputs: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            heads = mixed.heads.get(id(args[0])) if args else None
            inside = any(name.startswith(f"{outer}.") for _, outer in seen.heads)
            if heads is not None and running and not inside and prod(heads) == inputs:
                seen.heads[running[-1], name] = (*heads, args[0].shape)

        return hook

    with ExitStack() as hooks:
        for name in block_names(model):
            block = model.get_submodule(name)
            enter = block.register_forward_pre_hook(lambda *_, name=name: running.append(name), prepend=True)
            hooks.callback(enter.remove)
            hooks.callback(block.register_forward_hook(leave(name)).remove)
        for name, module in model.named_modules():
            if (sizes := shape_of(module)) is not None:
                hooks.callback(module.register_forward_pre_hook(read(name, sizes[0])).remove)
        for site, block_name, own in _own_sites(model, row):
            note = partial(_note_shape, seen, (site, block_name))
            hooks.callback(tap_module(model.get_submodule(f"{block_name}.{own.module}"), own.side, note).remove)
        with mixed:
            yield seen


def _note_shape(seen: Seen, where: tuple[str, str], values: Tensor) -> None:
    seen.named[where] = values.shape


def _own_sites(model: nn.Module, row: Architecture | None) -> Iterator[tuple[str, str, Site]]:
    """Yield name, block and site of everything that a row names beside its neurons.

    Raises:
        LnbenchError: there is no such module.
    """
    for name, site in (row.sites if row else {}).items():
        if name in NEURON_SITES:
            continue
        try:
            blocks = len(attrgetter(row.blocks)(model))  # type: ignore[union-attr]
            for number in range(blocks):
                block = f"{row.blocks}.{number}"  # type: ignore[union-attr]
                model.get_submodule(f"{block}.{site.module}")
                yield name, block, site
        except AttributeError as error:
            raise LnbenchError(
                f"this {type(model).__name__} does not have the parts that the site {name!r} of its row names ({error})"
            ) from error


def places_in(
    model: nn.Module, names: Sequence[str], seen: Seen, row: Architecture | None, tokens: tuple[int, int]
) -> tuple[tuple[Place, ...], dict[str, str]]:
    """Return the places of all sites beside the neurons', and site → why it cannot be used.

    Args:
        model: The causal LM.
        names: Of its blocks.
        seen: In one forward pass.
        row: A plugin's row, whose own sites come before those found.
        tokens: Batch and length of that pass.
    """
    found = {RESIDUAL: _residual(names, seen), ATTENTION: _attention(names, seen)}
    own: dict[str, list[_Found]] = {}
    for name, block, site in _own_sites(model, row):
        if (shape := seen.named.get((name, block))) is not None:
            width = shape[-1] // site.unit_size
            place = Place(name, names.index(block), f"{block}.{site.module}", site.side, width, site.unit_size)
            own.setdefault(name, []).append((place, shape))
    places: list[Place] = []
    missing: dict[str, str] = {}
    for site_name, placed in (found | own).items():
        layers = Counter(place.layer for place, _ in placed)
        strange = next((shape for _, shape in placed if not _one_row_per_token(shape, tokens)), None)
        if not placed:
            missing[site_name] = _NONE.get(site_name, "it did not run")
        elif max(layers.values()) > 1:
            missing[site_name] = f"layer {layers.most_common(1)[0][0]} has {max(layers.values())} of them"
        elif strange is not None:
            missing[site_name] = f"its values have shape {tuple(strange)} for {tokens[0]} × {tokens[1]} tokens"
        else:
            turned = tokens[::-1]
            places += [replace(place, length_first=tuple(shape[:2]) == turned) for place, shape in placed]
    modules = [(place.site, id(model.get_submodule(place.module))) for place in places]
    shared = Counter(modules)
    return tuple(
        replace(place, shared=shared[module] > 1) for place, module in zip(places, modules, strict=True)
    ), missing


_Found = tuple[Place, torch.Size]
_NONE = {
    ATTENTION: "no linear map in its blocks reads the merged heads of softmax attention",
    RESIDUAL: "its blocks return no tensor",
}


def _residual(names: Sequence[str], seen: Seen) -> list[_Found]:
    return [
        (Place(RESIDUAL, layer, name, "output", seen.outputs[name][-1]), seen.outputs[name])
        for layer, name in enumerate(names)
        if name in seen.outputs and len(seen.outputs[name])
    ]


def _attention(names: Sequence[str], seen: Seen) -> list[_Found]:
    return [
        (Place(ATTENTION, layer, name, "input", heads, size), shape)
        for (block, name), (heads, size, shape) in seen.heads.items()
        if (layer := _layer_of(block, names)) is not None
    ]


def _layer_of(block: str, names: Sequence[str]) -> int | None:
    """Return a block's layer; attention may lie in a list of its own, beside that of the feed-forwards (XLM)."""
    if block in names:
        return names.index(block)
    (path, _, number), lists = block.rpartition("."), {name.rpartition(".")[0] for name in names}
    beside = len(lists) == 1 and path.rpartition(".")[0] == next(iter(lists)).rpartition(".")[0]
    return int(number) if beside and int(number) < len(names) else None


def _one_row_per_token(shape: torch.Size, tokens: tuple[int, int]) -> bool:
    return tuple(shape[:-1]) in (tokens, tokens[::-1], (prod(tokens),))
