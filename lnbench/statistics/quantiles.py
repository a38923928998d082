"""Quantiles of histograms whose bins a function may have folded over each other."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from lnbench.threads import run_threaded

_POINT = 1e-9
"""Narrower than this share of the whole, a bin is a point: as a slope it would drown the others' last digits."""


def quantiles(edges: Tensor, weights: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Quantiles of values spread evenly within bins.

    Args:
        edges: ``[width, bins + 1]`` (float64, on the CPU), a function's values at the edges of the bins, in any order.
        weights: ``[width, bins]`` (float64), counts; not all 0.
        levels: ``[levels]`` (float64), ascending, between 0 and 1.

    Returns:
        The quantiles and, for each, a bound on its error in ranks (both ``[levels, width]`` float64): a value lies
        somewhere within its bin, so the share of values below a place is off by no more than the bins over that place
        hold.
    """
    quantile = torch.empty(len(edges), len(levels), dtype=torch.float64)
    error = torch.empty_like(quantile)
    arrays = [each.contiguous().numpy() for each in (edges, weights, levels, quantile, error)]
    run_threaded(_invert, arrays, len(edges), at_once=64)
    return quantile.T, error.T


@numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _invert(
    edges: Any, weights: Any, levels: Any, quantile: Any, error: Any, begin: int, end: int
) -> None:  # pragma: no cover
    points = edges.shape[1]
    rise, jump, blur = np.empty(points), np.empty(points), np.empty(points)
    opened, closed = np.empty(points), np.empty(points)
    order = np.empty(points, np.int64)
    for neuron in range(begin, end):
        edge, weight = edges[neuron], weights[neuron]
        total = weight.sum()
        narrow = _POINT * (edge.max() - edge.min())
        folded = _order(edge, order)
        rise[:], opened[:], closed[:], jump[:], blur[:] = 0, 0, 0, 0, 0
        for bin_ in range(points - 1):
            spread, held = edge[bin_ + 1] - edge[bin_], weight[bin_]
            if abs(spread) <= narrow and (folded or spread == 0):
                jump[bin_] += held
                blur[bin_] += held if spread != 0 else 0.0
                continue
            lower, upper = (bin_, bin_ + 1) if spread > 0 else (bin_ + 1, bin_)
            rise[lower] += held / abs(spread)
            rise[upper] -= held / abs(spread)
            opened[lower] += held
            closed[upper] += held

        # Walking up the values: the share below, by even spread; what lies below whole, and what lies around.
        level, density, upto, whole, around = 0, 0.0, 0.0, 0.0, 0.0
        for place in range(points):
            here = order[place]
            value = edge[here]
            before = edge[order[place - 1]] if place else value
            # Unfolded, one bin makes up the stretch; what adding and subtracting slopes would lose is not lost.
            passed = max(density, 0.0) * (value - before) if folded else around
            below = upto + passed
            through = max(around - closed[here], 0.0)
            while level < len(levels):
                wanted = levels[level] * total
                if wanted > below + jump[here] and place < points - 1:
                    break
                if wanted <= below and passed > 0:
                    share = max((wanted - upto) / passed, 0.0)
                    quantile[neuron, level] = before + share * (value - before)
                    doubt = max(wanted - whole, whole + around - wanted)
                else:
                    # On a jump, only bins that reach over it on both sides leave a doubt.
                    quantile[neuron, level] = value
                    doubt = through + blur[here]
                error[neuron, level] = max(doubt, 0.0) / total
                level += 1
            upto = below + jump[here]
            density += rise[here]
            whole += closed[here] + jump[here]
            around = through + opened[here]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _order(edge: Any, order: Any) -> bool:  # pragma: no cover
    """Sort the edges; whether that changed their order. Those of a function that falls and then rises are merged."""
    points = len(edge)
    turn = 0
    while turn + 1 < points and edge[turn + 1] <= edge[turn]:
        turn += 1
    rising = turn
    while rising + 1 < points and edge[rising + 1] >= edge[rising]:
        rising += 1
    if rising < points - 1:
        _shell_sort(edge, order)
        return True
    if edge[turn] == edge[0]:
        turn = 0
    left, right = turn - 1, turn
    for place in range(points):
        if left < 0 or (right < points and edge[right] <= edge[left]):
            order[place] = right
            right += 1
        else:
            order[place] = left
            left -= 1
    return turn > 0


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _shell_sort(edge: Any, order: Any) -> None:  # pragma: no cover
    """Any order at all is rare, and compiling numpy's sort takes seconds."""
    points = len(edge)
    for place in range(points):
        order[place] = place
    gap = points // 2
    while gap > 0:
        for place in range(gap, points):
            moved, to = order[place], place
            while to >= gap and edge[order[to - gap]] > edge[moved]:
                order[to] = order[to - gap]
                to -= gap
            order[to] = moved
        gap //= 2
