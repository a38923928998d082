"""Quantiles of histograms whose bins a function may have folded over each other."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from lnbench.statistics.threads import share_out

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
    found = torch.empty(len(edges), len(levels), dtype=torch.float64)
    error = torch.empty_like(found)
    arrays = [each.contiguous().numpy() for each in (edges, weights, levels, found, error)]
    share_out(_invert, arrays, len(edges), at_once=64)
    return found.T, error.T


@numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _invert(
    edges: Any, weights: Any, levels: Any, found: Any, error: Any, begin: int, end: int
) -> None:  # pragma: no cover
    points = edges.shape[1]
    rise, over, jump, blur = np.empty(points), np.empty(points), np.empty(points), np.empty(points)
    order = np.empty(points, np.int64)
    for neuron in range(begin, end):
        edge, weight = edges[neuron], weights[neuron]
        total = weight.sum()
        low = edge.min()
        narrow = _POINT * (edge.max() - low)
        folded = _order(edge, order)
        rise[:], over[:], jump[:], blur[:] = 0, 0, 0, 0
        # Where a bin begins the density rises, where it ends it falls; a falling function swaps its ends and the sign.
        for bin_ in range(points - 1):
            spread = edge[bin_ + 1] - edge[bin_]
            held = weight[bin_]
            if spread == 0 or (folded and abs(spread) <= narrow):
                jump[bin_] += held
            elif folded:
                rise[bin_] += held / spread
                rise[bin_ + 1] -= held / spread
            if spread != 0:
                if folded and abs(spread) <= narrow:
                    blur[bin_] += held
                signed = held if spread > 0 else -held
                over[bin_] += signed
                over[bin_ + 1] -= signed

        level, density, cover, upto = 0, 0.0, 0.0, 0.0
        for place in range(points):
            here = order[place]
            value = edge[here]
            before = edge[order[place - 1]] if place else value
            if folded:
                below = upto + max(density, 0.0) * (value - before)
            else:
                below = upto + (weight[here - 1] if place and value > before else 0.0)
            after = cover + over[here]
            doubt = min(max(cover, 0.0), max(after, 0.0)) + blur[here]
            last = place == points - 1
            while level < len(levels):
                wanted = levels[level] * total
                if wanted > below + jump[here] and not last:
                    break
                if wanted > below or below == upto:
                    found[neuron, level] = value
                    error[neuron, level] = doubt / total
                else:
                    share = max((wanted - upto) / (below - upto), 0.0)
                    found[neuron, level] = before + share * (value - before)
                    # Where one bin alone makes up the stretch, its two ends are nearer than the whole of it.
                    alone = cover <= (below - upto) * (1 + 1e-12)
                    error[neuron, level] = (max(wanted - upto, below - wanted) if alone else cover) / total
                level += 1
            upto = below + jump[here]
            density += rise[here]
            cover = after


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
