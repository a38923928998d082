"""The bins of a neuron's histogram: where they lie, and which values they can hold.

With x a value's distance from the neuron's centre in the unit of its side, x / (1 + |x|) is cut into even parts. Nearly
as many values fall into every bin of a bell-shaped or heavy-tailed distribution; no value is out of reach, and where
the text drifts far from what the bins were laid out for, they widen only with the square of the distance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

BINS = 992
"""With 32-bit counts and the moments, a little under 4 KiB per neuron."""
EXPERT_BINS = 128
"""Of a neuron of an expert, of which a model has tens of times as many: with the moments, 588 bytes per neuron."""
FAR = 1e18
"""Farther than this is as far; it keeps x / (1 + |x|) finite."""

_LAID_OUT_ON = 320
_QUARTILE, _TAIL = 1.6, 1 / 15
_SMALLEST = 1e-30


class Bins(NamedTuple):
    """Where a layer's bins lie, each ``[width]`` float32: their centre, and 1 / unit on either side of it."""

    centre: Tensor
    below: Tensor
    above: Tensor

    @classmethod
    def on(cls, sample: Tensor) -> Bins:
        """Lay bins out for values like ``sample`` ``[tokens, width]``."""
        # A few hundred tokens show a scale; sorting more would take longer than reading them.
        ordered = sort_rows(sample[:: max(1, len(sample) // _LAID_OUT_ON)].T)
        places = [round(level * (ordered.shape[1] - 1)) for level in (0.05, 0.25, 0.5, 0.75, 0.95)]
        lowest, low, centre, high, highest = ordered[:, places].T
        # Below a neuron's own precision bins tell nothing apart; a constant neuron has no scale at all.
        least = (1e-6 * centre.abs()).clamp_min(_SMALLEST)
        below = torch.maximum(_QUARTILE * (centre - low), _TAIL * (centre - lowest))
        above = torch.maximum(_QUARTILE * (high - centre), _TAIL * (highest - centre))
        # A side that has no spread in the sample may have some later.
        below, above = torch.maximum(below, above * _TAIL), torch.maximum(above, below * _TAIL)
        return cls(centre.contiguous(), 1 / torch.maximum(below, least), 1 / torch.maximum(above, least))

    def same(self, other: Bins) -> bool:
        """Return whether counts in these bins can be added to counts in ``other``."""
        return all(torch.equal(own, its.to(own.device)) for own, its in zip(self, other, strict=True))

    def places(self, values: Tensor, count: int = BINS) -> Tensor:
        """Return which of ``count`` bins each value is in, ``[…, width]`` float32 → int64, by the compiled steps."""
        offset = values - self.centre
        x = (offset * torch.where(offset < 0, self.below, self.above)).clamp_(-FAR, FAR)
        place = (x / (x.abs() + 1) + 1) * (count // 2)
        return place.nan_to_num_(0.0).clamp_(0, count - 1).long()

    def edges(self, count: int = BINS) -> Tensor:
        """Return ``[width, count - 1]`` (float64): where one of ``count`` bins ends and the next begins."""
        u = torch.arange(1, count, dtype=torch.float64, device=self.centre.device) / (count // 2) - 1
        x = u / (1 - u.abs())
        unit = torch.where(u < 0, 1 / self.below.double().unsqueeze(1), 1 / self.above.double().unsqueeze(1))
        return self.centre.double().unsqueeze(1) + x * unit


def sort_rows(values: Tensor) -> Tensor:
    """Sort each row; on a CPU by numpy, which is several times as fast at it."""
    if values.device.type == "cpu" and values.dtype != torch.bfloat16:
        return torch.from_numpy(np.sort(values.contiguous().numpy(), axis=1))
    return values.contiguous().sort(dim=1).values


def outline(bins: Bins, counts: Tensor, low: Tensor, high: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return a histogram as a line of points and the counts between them.

    Args:
        bins: Of ``width`` neurons.
        counts: ``[width, bins]``.
        low: ``[width]``, the least value seen; the outermost bins reach just to the extremes.
        high: ``[width]``, the greatest.
        dtype: What the values came in. Those of 16 bits lie so far apart that a bin holds few of them, or one; there
            each bin reaches from the least to the greatest that it can hold, and nothing lies between two bins.

    Returns:
        ``edges [width, points]`` and ``weights [width, points - 1]`` (float64), edges ascending.
    """
    edges, weights = bins.edges(counts.shape[1]), counts.double()
    low, high = low.double().unsqueeze(1), high.double().unsqueeze(1)
    if dtype in (torch.bfloat16, torch.float16):
        starts = _first_in(bins, edges, dtype)
        ends = torch.maximum(_neighbour(starts, -1, dtype), pad(starts, (1, -1), value=-torch.inf))
        edges = torch.stack([ends, starts], dim=2).flatten(1)
        weights = torch.stack([weights, torch.zeros_like(weights)], dim=2).flatten(1)[:, :-1]
    return torch.cat([low, edges, high], dim=1).clamp(low, high), weights


def _first_in(bins: Bins, edges: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the least value of ``dtype`` in the bin above each edge, by the arithmetic that counted it."""
    near = edges.to(dtype).double()
    count = edges.shape[1] + 1
    numbers = torch.arange(1, count, device=edges.device)
    columns = Bins(*(tensor.unsqueeze(1) for tensor in bins))
    first = _neighbour(near, 1, dtype)
    for candidate in (near, _neighbour(near, -1, dtype)):
        first = torch.where(columns.places(candidate.float(), count) >= numbers, candidate, first)
    return first


def _neighbour(values: Tensor, step: int, dtype: torch.dtype) -> Tensor:
    """Return the next greater (``step`` 1) or smaller (-1) number of a 16-bit ``dtype``."""
    bits = values.to(dtype).view(torch.int16).int()
    ordered = torch.where(bits >= 0, bits, -(bits & 0x7FFF)) + step
    bits = torch.where(ordered >= 0, ordered, -ordered | -0x8000)
    return bits.to(torch.int16).view(dtype).double()
