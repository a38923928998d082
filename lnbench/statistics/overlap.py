"""How far two languages' values of a unit have the same distribution, from the quantiles that Statistics keep."""

from __future__ import annotations

import math
from typing import Any

import numba
import torch
from torch import Tensor

from lnbench.statistics.language_statistics import Statistics
from lnbench.statistics.site_values import LEVELS
from lnbench.threads import run_threaded


def distribution_overlap(first: Statistics, second: Statistics) -> Tensor:
    """Return 1 − total variation distance of two languages' distributions of every unit, ``[layers, width]`` float64.

    Each distribution is that of the kept quantile function: even between two levels, and a point mass where several
    levels have one value. Both are cut at the quantiles of both, a common grid on which the overlap, the sum of the
    smaller mass of every cell, is exact: 1 for equal distributions, 0 for those that share no value. NaN where there is
    no unit.
    """
    shape = first.mean.shape
    overlap = torch.empty(first.mean.numel(), dtype=torch.float64)
    # A running maximum, as the last digits of neighbouring levels may be out of order.
    grids = [own.values.quantiles.flatten(1).T.double().cummax(1).values.contiguous() for own in (first, second)]
    arrays = [each.numpy() for each in (*grids, LEVELS, overlap)]
    run_threaded(_overlap, arrays, len(overlap), at_once=256)
    return overlap.view(shape).masked_fill(~first.exists, torch.nan)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _overlap(first: Any, second: Any, levels: Any, overlap: Any, begin: int, end: int) -> None:  # pragma: no cover
    last = len(levels)
    for unit in range(begin, end):
        a, b = first[unit], second[unit]
        if math.isnan(a[0]) or math.isnan(b[0]):
            overlap[unit] = math.nan
            continue
        shared, i, j = 0.0, 0, 0
        before = min(a[0], b[0])
        while i < last and j < last:
            here = min(a[i], b[j])
            # Between two knots: only where both have begun, as before the first level there is no mass.
            if i > 0 and j > 0:
                own = (levels[i] - levels[i - 1]) * (here - before) / (a[i] - a[i - 1])
                other = (levels[j] - levels[j - 1]) * (here - before) / (b[j] - b[j - 1])
                shared += min(own, other)
            # At a knot: the mass of all levels that have this value.
            i0, j0 = i, j
            while i < last and a[i] == here:
                i += 1
            while j < last and b[j] == here:
                j += 1
            if i > i0 and j > j0:
                shared += min(levels[i - 1] - levels[i0], levels[j - 1] - levels[j0])
            before = here
        overlap[unit] = shared
