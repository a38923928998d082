"""What the kernels count into: the moments of both sites, and a histogram of the pre-activation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lnbench.statistics.bins import Bins

MOMENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "positive": torch.add,
    "sums": torch.add,
    "squares": torch.add,
    "min": torch.minimum,
    "max": torch.maximum,
}
"""Moments, and how those of two accumulators become one."""


class Moments:
    """Exact moments of one layer, each ``[sites, width]``: counts as integers, sums in float64.

    Args:
        width: Neurons of the layer.
        device: Where they are kept.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.width = width
        self.device = device
        self.positive = torch.zeros(2, width, dtype=torch.int64, device=device)
        self.sums = torch.zeros(2, width, dtype=torch.float64, device=device)
        self.squares = torch.zeros(2, width, dtype=torch.float64, device=device)
        self.min = torch.full((2, width), torch.inf, dtype=torch.float32, device=device)
        self.max = torch.full((2, width), -torch.inf, dtype=torch.float32, device=device)

    def moments(self) -> tuple[Tensor, ...]:
        """``positive``, ``sums``, ``squares``, ``min`` and ``max``, each ``[2, width]``: pre and post."""
        return tuple(getattr(self, name) for name in MOMENTS)


@dataclass
class Histogram:
    """Counts ``[width, BINS]`` (int32 while they fit) in bins of their own."""

    bins: Bins
    counts: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """By name, as they are stored."""
        return {
            "centre": self.bins.centre,
            "below": self.bins.below,
            "above": self.bins.above,
            "counts": self.counts,
        }
