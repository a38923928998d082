"""Banks of neurons: the feed-forwards of a model's layers, and the modules around each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lnbench.errors import LnbenchError

Tap = Callable[[Tensor], Tensor | None]
"""A function of a site's values ``[..., width]``; it may return new ones."""
Observer = Callable[[Tensor, Tensor], None]
"""A function of a bank's values before and after the non-linearity, ``[batch, length, width]`` (or ``[tokens, width]``)
each."""

HOW_TO_ADD = (
    "A plugin can say where its neurons are: lnbench_register_architectures(register) with register(model_type, "
    "lnbench.model.architectures.Architecture(blocks=…, activation=…, before=…, after=…)); see docs/howto/plugins.md"
)


@dataclass(frozen=True)
class Slice:
    """Some output coordinates of a linear map: as many as a bank has neurons."""

    module: str
    """Its name, from the causal LM."""
    start: int = 0
    step: int = 1

    def of(self, output: Tensor, width: int) -> Tensor:
        """Return these coordinates of the map's output, as a view."""
        return output[..., self.start : self.start + self.step * width : self.step]


@dataclass(frozen=True)
class Bank:
    """The neurons of one feed-forward in one layer, and the modules around them, named from the causal LM."""

    layer: int
    path: str
    """The module that holds all of it."""
    width: int
    before: Slice
    """What enters the non-linearity."""
    after: str
    """The down projection, which reads the neurons."""
    up: Slice | None = None
    """What the neurons are multiplied with, if anything."""
    activation: str | None = None
    """The non-linearity's module, if it is this bank's own; else values are written at the down projection's input."""
    function: Callable[[Tensor], Tensor] | None = field(default=None, compare=False)
    """The non-linearity, where it is no module of the bank's own."""
    shared: bool = False
    """Other layers run these very modules too."""
    length_first: bool = False
    """Activations are ``[length, batch, width]``."""
    normed: bool = False
    """A norm lies between the neurons and the down projection."""
    summed: bool = False
    """What enters the non-linearity, or ``up``, is a sum: of these maps' outputs and of an adapter's."""
    start: int = 0
    """Number of its first neuron in the layer; the banks of a layer follow each other in the order that they run in."""

    @property
    def style(self) -> str:
        """Say how the neurons meet the down projection."""
        if self.up is None:
            return "plain"
        return "gated, gate and up in one matrix" if self.up.module == self.before.module else "gated"

    @property
    def hook(self) -> str:
        """The module that values are read and written at."""
        return self.activation or f"{self.after} (input)"

    def own(self, neurons: Tensor) -> Tensor:
        """Return those of a layer's neurons that are this bank's, numbered from its first."""
        return neurons[(neurons >= self.start) & (neurons < self.start + self.width)] - self.start


@dataclass(frozen=True)
class PerBank:
    """The non-linearities of a layer with several banks, each for its own neurons."""

    banks: tuple[Bank, ...]
    functions: tuple[Callable[[Tensor], Tensor], ...]

    def of(self, values: Tensor, start: int, dim: int = -1) -> Tensor:
        """Return values after the non-linearities; along ``dim`` they are of the layer's neurons from ``start`` on."""
        pieces, stop = [], start + values.shape[dim]
        for bank, function in zip(self.banks, self.functions, strict=True):
            first, last = max(start, bank.start), min(stop, bank.start + bank.width)
            if first < last:
                pieces.append(function(values.narrow(dim, first - start, last - first)))
        return torch.cat(pieces, dim=dim)

    def __call__(self, values: Tensor) -> Tensor:
        """Return the values ``[..., width]`` of the whole layer after the non-linearities."""
        return self.of(values, 0)


class Joined:
    """An observer of a whole layer, called once each of its banks has run."""

    def __init__(self, banks: Sequence[Bank], function: Observer) -> None:
        self.banks, self.function = banks, function
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    def observe(self, bank: Bank, pre: Tensor, post: Tensor) -> None:
        """Take in one bank's values.

        Raises:
            LnbenchError: the bank ran twice before another of the layer did.
        """
        if bank.start in self._seen:
            raise LnbenchError(
                f"layer {bank.layer} has {len(self.banks)} feed-forwards, and {bank.path} ran twice before each of the "
                "others had run: how often a neuron of that layer is active per token cannot be counted"
            )
        # The block may reuse the memory before its last feed-forward has run.
        self._seen[bank.start] = (pre.clone(), post.clone())
        if len(self._seen) == len(self.banks):
            parts = [[values.to(pre.device) for values in self._seen[one.start]] for one in self.banks]
            self._seen.clear()
            self.function(*(torch.cat(values, dim=-1) for values in zip(*parts, strict=True)))
