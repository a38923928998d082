"""What the kernels count into: the moments of one site or two, and a histogram of the pre-activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lnbench.statistics.bins import BINS, Bins


class Moments(NamedTuple):
    """Exact moments of one layer, each ``[sites, width]``: counts as integers, sums in float64.

    Sites are pre and post, or one by itself.
    """

    positive: Tensor
    sums: Tensor
    squares: Tensor
    min: Tensor
    max: Tensor

    @classmethod
    def empty(cls, width: int, device: torch.device, sites: int = 2) -> Moments:
        """Return the moments of no token."""
        shape = (sites, width)
        return cls(
            positive=torch.zeros(shape, dtype=torch.int64, device=device),
            sums=torch.zeros(shape, dtype=torch.float64, device=device),
            squares=torch.zeros(shape, dtype=torch.float64, device=device),
            min=torch.full(shape, torch.inf, dtype=torch.float32, device=device),
            max=torch.full(shape, -torch.inf, dtype=torch.float32, device=device),
        )

    def merged(self, other: Moments) -> Moments:
        """Return the moments of the tokens of both."""
        positive, sums, squares, low, high = (tensor.to(self.sums.device) for tensor in other)
        return Moments(
            self.positive + positive,
            self.sums + sums,
            self.squares + squares,
            torch.minimum(self.min, low),
            torch.maximum(self.max, high),
        )


@dataclass
class Histogram:
    """Counts ``[width, bins]`` (int32 while they fit) in bins of their own."""

    bins: Bins
    counts: Tensor

    @classmethod
    def empty(cls, bins: Bins, count: int = BINS) -> Histogram:
        """Return a histogram of no token, of ``count`` bins (an even number)."""
        shape = (len(bins.centre), count)
        return cls(bins, torch.zeros(shape, dtype=torch.int32, device=bins.centre.device))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, as they are stored."""
        return {**self.bins._asdict(), "counts": self.counts}
