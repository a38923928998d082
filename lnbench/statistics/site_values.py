"""The values of one site, per neuron: moments and quantiles, and the names under which they are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LEVELS: Tensor = torch.cat(
    [
        torch.tensor([0.0, 0.001, 0.0025, 0.005], dtype=torch.float64),
        torch.arange(1, 100, dtype=torch.float64) / 100,
        torch.tensor([0.995, 0.9975, 0.999, 1.0], dtype=torch.float64),
    ]
)
"""The levels at which quantiles are kept; between them the quantile function is linear."""

ASKED = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""The levels that interventions and tables use, at which the error in ranks is recorded."""

RANKED: Tensor = torch.tensor([int((LEVELS - level).abs().argmin()) for level in ASKED])
"""Their positions in :data:`LEVELS`."""

PLACES = ("model", "corpus_pattern")
"""Entries of the provenance that name where something is and not what it is."""

MOMENTS = ("positive_rate", "mean", "std", "min", "max")
TENSORS = (*MOMENTS, "rank_error", "quantiles")

COORDINATES = "coordinates"


def digest(*tensors: Tensor) -> str:
    """Return the SHA-256 of all numbers, in hexadecimal."""
    sha256 = hashlib.sha256()
    for tensor in tensors:
        sha256.update(tensor.contiguous().numpy().tobytes())
    return sha256.hexdigest()


@dataclass(frozen=True)
class SiteValues:
    """One site's values, each ``[layers, width]`` in the activation's own unit.

    ``positive_rate`` is the share of tokens with a value above 0 (float64, from integer counts); ``mean`` and ``std``
    (population) are float64 sums rounded to float32; ``quantiles`` is ``[levels, layers, width]`` at :data:`LEVELS`,
    and ``rank_error`` bounds |F(quantile(q)) − q| for the levels in :data:`ASKED`, F being the text's own distribution:
    it is what the bins over that place hold. The error itself is far smaller wherever values spread smoothly.
    """

    positive_rate: Tensor
    mean: Tensor
    std: Tensor
    min: Tensor
    max: Tensor
    quantiles: Tensor
    rank_error: Tensor
    coordinates: SiteValues | None = None
    """Of units with several coordinates: the values of each coordinate, ``[layers, width, unit_size]``; the others are
    then those of the units' norms."""

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all numbers, in hexadecimal."""
        return digest(*self.tensors().values())

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], coordinates: SiteValues | None = None) -> SiteValues:
        """Return the values whose :meth:`tensors` these are."""
        own = {name: tensors[name] for name in TENSORS}
        return cls(**own, coordinates=coordinates)  # type: ignore[arg-type]

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, as they are stored."""
        own = {name: getattr(self, name) for name in TENSORS}
        if self.coordinates is not None:
            own |= {f"{COORDINATES}.{name}": tensor for name, tensor in self.coordinates.tensors().items()}
        return own


def never_run(width: int) -> SiteValues:
    """Return the values of ``width`` neurons of an expert that no token was routed to: an activation rate of 0."""
    nothing = torch.full((width,), torch.nan)
    return SiteValues.of(
        {
            "positive_rate": torch.zeros(width, dtype=torch.float64),
            **dict.fromkeys(("mean", "std", "min", "max", "rank_error"), nothing),
            "quantiles": torch.full((len(LEVELS), width), torch.nan),
        }
    )


def side_by_side(parts: Sequence[SiteValues]) -> SiteValues:
    """Return the values of one layer from those of its neurons in order, ``[width of the part]`` each."""
    return SiteValues.of({name: torch.cat([getattr(part, name) for part in parts], dim=-1) for name in TENSORS})


def joined(layers: Sequence[SiteValues | None], width: int) -> SiteValues:
    """Return the values of all layers, from those of each, ``[width of the layer]``; NaN where a layer has no neuron.

    Args:
        layers: None for a layer without neurons.
        width: Neurons of the widest layer.
    """
    first = next(layer for layer in layers if layer is not None)

    def filled(name: str, layer: SiteValues | None) -> Tensor:
        values = getattr(first if layer is None else layer, name)
        own = 0 if layer is None else values.shape[-1]
        missing = values.new_full((*values.shape[:-1], width - own), torch.nan)
        return torch.cat([values[..., :own], missing], dim=-1) if own < width else values

    return SiteValues.of({name: torch.stack([filled(name, layer) for layer in layers], dim=-2) for name in TENSORS})
