"""Where in a layer's numbering the neurons of experts are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

NOT_PUBLISHED = (
    "neurons of experts, (layer, expert, index), are lnbench's own definition: no published method selects them by "
    "language"
)
"""Said wherever a result rests on them."""


class ExpertsLayout(NamedTuple):
    """The neurons of one bank of experts: those of expert ``e`` begin at ``start + e · width`` of their layer."""

    layer: int
    start: int
    experts: int
    width: int
    """Neurons of each expert."""

    @property
    def neurons(self) -> int:
        """Neurons of all its experts."""
        return self.experts * self.width

    def parts(self) -> Iterator[tuple[int, slice]]:
        """Yield each expert and where its neurons are in the layer."""
        for expert in range(self.experts):
            first = self.start + expert * self.width
            yield expert, slice(first, first + self.width)


def expert_of(layouts: Iterable[ExpertsLayout], layer: int, index: int) -> tuple[int | None, int]:
    """Return the expert of a neuron, and its index in it; None and the index of one that every token runs.

    Args:
        layouts: Of the model's banks of experts.
        layer: Number of the layer.
        index: The neuron's number in the layer.
    """
    for own in layouts:
        if own.layer == layer and own.start <= index < own.start + own.neurons:
            return divmod(index - own.start, own.width)
    return None, index
