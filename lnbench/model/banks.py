"""Banks of neurons: the feed-forwards of a model's layers, and the modules around each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

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
    kind: Literal["mlp"] = "mlp"
    start: int = 0
    """Number of its first neuron in the layer."""

    @property
    def style(self) -> str:
        """Say how the neurons meet the down projection."""
        if self.up is None:
            return "plain"
        return "gated, gate and up in one matrix" if self.up.module == self.before.module else "gated"

    def own(self, neurons: Tensor) -> Tensor:
        """Return those of a layer's neurons that are this bank's, numbered from its first."""
        return neurons[(neurons >= self.start) & (neurons < self.start + self.width)] - self.start
