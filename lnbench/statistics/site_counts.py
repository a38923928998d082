"""The counts of a site that is no neurons': of every coordinate, and of the norm of every unit that has several."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lnbench.model.places import Layout
from lnbench.statistics.layer_accumulator import LayerAccumulator
from lnbench.statistics.site_values import SiteValues, joined


class SiteCounts:
    """One site's counts in all layers.

    Args:
        layout: Units per layer, and their coordinates.

    Attributes:
        layers: Of each layer what was counted; None where nothing was.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.layers: list[LayerAccumulator | None] = [None] * len(layout.widths)

    @property
    def _grouped(self) -> bool:
        return self.layout.unit_size > 1

    def units(self, layer: int, values: Tensor) -> Tensor:
        """Return one number per unit, ``[positions, width]``: its value, or the L2 norm of its coordinates."""
        if not self._grouped:
            return values
        coordinates = values.float().reshape(*values.shape[:-1], -1, self.layout.unit_sizes[layer])
        norms: Tensor = torch.linalg.vector_norm(coordinates, dim=-1)
        return norms

    def add(self, layer: int, values: Tensor, rows: Tensor) -> None:
        """Count one layer's values of one forward pass.

        Args:
            layer: Its number.
            values: ``[positions, coordinates]``.
            rows: ``LongTensor[tokens]``, the positions that count.
        """
        if self._grouped:
            values = torch.cat([values.float(), self.units(layer, values)], dim=-1)
        self.of_layer(layer, values.device).add(values, rows=rows)

    def of_layer(self, layer: int, device: torch.device) -> LayerAccumulator:
        """Return one layer's counts, on ``device``."""
        own = self.layers[layer]
        if own is None:
            width, size = self.layout.widths[layer], self.layout.unit_sizes[layer]
            own = LayerAccumulator(width * (size + self._grouped), device, sites=1)
        self.layers[layer] = own = own.on(device)
        return own

    def finish(self) -> SiteValues:
        """Return the values of all layers."""
        layers = [None if layer is None else layer.finish()[0] for layer in self.layers]
        if not self._grouped:
            return joined(layers, self.layout.width)
        units = joined([*self._parts(layers, units=True)], self.layout.width)
        per_coordinate = [
            None if own is None else _by_unit(own, size, self.layout.unit_size)
            for own, size in zip(self._parts(layers, units=False), self.layout.unit_sizes, strict=True)
        ]
        flat = joined(per_coordinate, self.layout.width * self.layout.unit_size)
        size = self.layout.unit_size
        shaped = {name: tensor.reshape(*tensor.shape[:-1], -1, size) for name, tensor in flat.tensors().items()}
        return SiteValues.of(units.tensors(), SiteValues.of(shaped))

    def _parts(self, layers: list[SiteValues | None], *, units: bool) -> Iterator[SiteValues | None]:
        for own, width, size in zip(layers, *self.layout, strict=True):
            part = slice(width * size, None) if units else slice(width * size)
            yield None if own is None else SiteValues.of({name: of[..., part] for name, of in own.tensors().items()})


def _by_unit(values: SiteValues, size: int, largest: int) -> SiteValues:
    """Return coordinates with room for ``largest`` per unit; NaN where a unit has fewer."""

    def spread(tensor: Tensor) -> Tensor:
        units = tensor.reshape(*tensor.shape[:-1], -1, size)
        missing = units.new_full((*units.shape[:-1], largest - size), torch.nan)
        return torch.cat([units, missing], dim=-1).flatten(-2)

    return SiteValues.of({name: spread(tensor) for name, tensor in values.tensors().items()})
