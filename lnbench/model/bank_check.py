"""What the self-check measures of one bank, and how exact that has to be."""

from __future__ import annotations

from dataclasses import dataclass

import torch

POSITION = 3
"""Of the first text, where every layer's neuron is written."""
LARGE = 4
"""How many tolerances an effect must be, so that a wrong one cannot pass for a rounding."""
_ROUNDINGS = 2
"""Tolerance in units of the last place of the largest value compared."""


def tolerance_of(rounding: float, width: int) -> float:
    """Return how far apart two ways to compute a sum of ``width`` products may be, as a share of the largest value.

    Args:
        rounding: Of the type that the sum is rounded to.
        width: Products, added up in float32.
    """
    return float(_ROUNDINGS * (rounding + torch.finfo(torch.float32).eps * width**0.5))


@dataclass(frozen=True)
class BankCheck:
    """What writing one neuron of a bank did."""

    layer: int
    path: str
    neuron: int
    error: float
    """Largest difference between the change of the down projection's output (of all experts' output, weighted by the
    router) and what the weights predict, as a share of that output's largest value."""
    effect: float
    """Largest predicted change of that output, as the same share."""
    elsewhere: float
    """Largest difference between the down projection's input (of experts: all their neurons) and what it should be, as
    a share of its largest value."""
    tolerance: float
    """Most that either may be; the effect is at least four times as large."""

    @property
    def passed(self) -> bool:
        """Whether the effect is as predicted."""
        return max(self.error, self.elsewhere) <= self.tolerance <= self.effect / LARGE

    def __str__(self) -> str:
        return (
            f"layer {self.layer} ({self.path}), neuron {self.neuron}: predicted effect {self.effect:.3g}, off by "
            f"{self.error:.3g}; elsewhere {self.elsewhere:.3g}; tolerance {self.tolerance:.1g}"
        )
