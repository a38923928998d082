"""The overlap that two random sets of units would have, as many in each layer as two given ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lnbench.errors import LnbenchError


class ExpectedJaccard(NamedTuple):
    """The Jaccard index of two random sets: its mean, and what 97.5 % of pairs do not exceed."""

    mean: float
    high: float


def expected_jaccard(own: Sequence[int], other: Sequence[int], widths: Sequence[int]) -> ExpectedJaccard:
    """Return the Jaccard index of two sets drawn at random, exactly: units in both / units in either, 0 of nothing.

    In each layer the number of units in both is hypergeometric, and layers are independent.

    Args:
        own: Units of the first set, per layer.
        other: Those of the second.
        widths: Units that there are, per layer.

    Raises:
        LnbenchError: a layer is to have more units than it has.
    """
    from scipy.stats import hypergeom

    shared = np.ones(1)
    for layer, (first, second, width) in enumerate(zip(own, other, widths, strict=True)):
        if max(first, second) > width:
            raise LnbenchError(f"layer {layer} has {width} units, not {max(first, second)}")
        if first and second:
            shared = np.convolve(shared, hypergeom.pmf(np.arange(min(first, second) + 1), width, first, second))
    total = sum(own) + sum(other)
    if not total:
        return ExpectedJaccard(0.0, 0.0)
    counts = np.arange(len(shared))
    jaccard = counts / (total - counts)
    return ExpectedJaccard(
        float(shared @ jaccard), float(jaccard[np.searchsorted(shared.cumsum(), 0.975).clip(max=len(shared) - 1)])
    )
