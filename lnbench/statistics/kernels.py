"""The inner loop of the Statistics: every activation of every token passes here once.

On the CPU a compiled loop walks a block of neurons at a time, so that their moments stay in registers and their
histograms in the cache; on a GPU a Triton kernel does; elsewhere torch does the same in whole-tensor steps. Counts are
equal to the last one; sums may differ in the last bits. Where the bins lie is defined in
:mod:`lnbench.statistics.bins`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

import numba
import numpy as np
import torch
from torch import Tensor

from lnbench.statistics.bins import BINS, FAR, Bins
from lnbench.statistics.counts import Histogram, Moments
from lnbench.threads import run_threaded

Way = Literal["compiled", "triton", "torch"]
log = logging.getLogger(__name__)

_BLOCK = 64
_TOKENS = 128
"""A block's bins for so many tokens fit into the fastest cache beside the counts of one neuron."""
_SHARE = 256
"""Neurons that a thread takes at a time."""
_CHUNK = 1 << 24


def add_tokens(
    pre: Tensor,
    post: Tensor,
    rows: Tensor,
    moments: Moments,
    histogram: Histogram | None = None,
    *,
    way: Way | None = None,
) -> None:
    """Add tokens to a layer's moments and, if there is one, to its histogram.

    Args:
        pre: ``[positions, width]``.
        post: The same shape; not looked at where the moments are of one site.
        rows: ``LongTensor[tokens]``, the positions that count.
        moments: What to add to.
        histogram: Where to count ``pre`` in its bins.
        way: How; None chooses by device.
    """
    chosen = way or _way(pre.device.type)
    if chosen == "compiled":
        own = Moments(*(tensor.numpy() for tensor in moments))  # type: ignore[arg-type]
        _run_compiled(_tokens, pre, (_array(pre), _array(post), rows.numpy(), own, *_bins_of(histogram)))
        return
    for site, values in enumerate((pre, post)[: len(moments.sums)]):
        if chosen == "triton":
            from lnbench.statistics import gpu_kernels

            gpu_kernels.add_moments(values, rows, moments, site)
            continue
        for part in _chunks(values, rows):
            exact = part.double()
            moments.positive[site] += (part > 0).sum(0)
            moments.sums[site] += exact.sum(0)
            moments.squares[site] += exact.square().sum(0)
            moments.min[site] = torch.minimum(moments.min[site], part.amin(0))
            moments.max[site] = torch.maximum(moments.max[site], part.amax(0))
    if histogram is not None:
        add_histogram(pre, rows, histogram, way=chosen)


def add_histogram(pre: Tensor, rows: Tensor, histogram: Histogram, *, way: Way | None = None) -> None:
    """Count values in their bins, and not in any moments; arguments as in :func:`add_tokens`."""
    counts = histogram.counts
    chosen = way or _way(pre.device.type)
    if chosen == "triton":
        from lnbench.statistics import gpu_kernels

        gpu_kernels.add_histogram(pre, rows, histogram)
        return
    if chosen == "compiled":
        _run_compiled(_histogram, pre, (_array(pre), rows.numpy(), *_bins_of(histogram)))
        return
    for part in _chunks(pre, rows):
        place = histogram.bins.places(part, counts.shape[1])
        place += torch.arange(part.shape[1], device=part.device) * counts.shape[1]
        ones = torch.ones((), dtype=counts.dtype, device=part.device).expand(place.numel())
        counts.view(-1).scatter_add_(0, place.view(-1), ones)


def _array(values: Tensor) -> Any:
    return values.float().contiguous().numpy()


def _bins_of(histogram: Histogram | None) -> tuple[Bins, Any]:
    """Return bins and counts as arrays; empty ones where nothing is to be binned."""
    if histogram is None:
        return Bins(*(np.empty(0, np.float32) for _ in range(3))), np.empty((0, BINS), np.int32)  # type: ignore[arg-type]
    return Bins(*(tensor.numpy() for tensor in histogram.bins)), histogram.counts.numpy()  # type: ignore[arg-type]


@cache
def _way(device: str) -> Way:
    if device == "cpu":
        return "compiled"
    why = f"there is none for {device}"
    if device == "cuda":
        try:
            from lnbench.statistics import gpu_kernels

            gpu_kernels.compile_all()
            return "triton"
        except Exception as error:  # Triton is missing, or finds no compiler, or fails in one of its many layers.
            why = str(error).strip().partition("\n")[0] or type(error).__name__
    log.warning("no compiled loop (%s): counting in whole-tensor steps, at about half the model's own speed", why)
    return "torch"


def _chunks(values: Tensor, rows: Tensor) -> Iterator[Tensor]:
    """Yield the rows that count in float32, a part at a time: whole-tensor steps take several times its memory."""
    for part in torch.split(rows, max(1, _CHUNK // values.shape[1])):
        yield values[part].float()


def _run_compiled(kernel: Any, values: Tensor, arguments: tuple[Any, ...]) -> None:
    """Run a kernel over all neurons; handing a small batch to threads would take longer than counting it."""
    width = values.shape[1]
    run_threaded(kernel, arguments, width, at_once=_SHARE if values.numel() >= 1 << 16 else width)


@numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _tokens(
    pre: Any, post: Any, rows: Any, moments: Any, bins: Any, counts: Any, begin: int, end: int
) -> None:  # pragma: no cover
    place = np.empty((_TOKENS, _BLOCK), np.uint16)
    for site in range(len(moments.sums)):
        values = pre if site == 0 else post
        binned = site == 0 and len(counts) > 0
        for start in range(begin, end, _BLOCK):
            size = min(_BLOCK, end - start)
            # Arrays of this loop alone: the compiler need not fear that they overlap with what is read.
            over = np.zeros(_BLOCK, np.int32)
            total = np.zeros(_BLOCK, np.float64)
            square = np.zeros(_BLOCK, np.float64)
            least = np.full(_BLOCK, np.inf, np.float32)
            most = np.full(_BLOCK, -np.inf, np.float32)
            for first in range(0, len(rows), _TOKENS):
                tokens = rows[first : first + _TOKENS]
                for token in tokens:
                    row = values[token, start : start + size]
                    for neuron in range(size):
                        value = row[neuron]
                        exact = np.float64(value)
                        over[neuron] += np.int32(value > 0)
                        total[neuron] += exact
                        square[neuron] += exact * exact
                        least[neuron] = value if value < least[neuron] else least[neuron]
                        most[neuron] = value if value > most[neuron] else most[neuron]
                if binned:
                    _bin(values, tokens, bins, counts, place, start, size)
            for neuron in range(size):
                at = start + neuron
                moments.positive[site, at] += over[neuron]
                moments.sums[site, at] += total[neuron]
                moments.squares[site, at] += square[neuron]
                moments.min[site, at] = min(moments.min[site, at], least[neuron])
                moments.max[site, at] = max(moments.max[site, at], most[neuron])


@numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _histogram(values: Any, rows: Any, bins: Any, counts: Any, begin: int, end: int) -> None:  # pragma: no cover
    place = np.empty((_TOKENS, _BLOCK), np.uint16)
    for start in range(begin, end, _BLOCK):
        size = min(_BLOCK, end - start)
        for first in range(0, len(rows), _TOKENS):
            _bin(values, rows[first : first + _TOKENS], bins, counts, place, start, size)


@numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _bin(values: Any, rows: Any, bins: Any, counts: Any, place: Any, start: int, size: int) -> None:  # pragma: no cover
    zero, one, half = np.float32(0), np.float32(1), np.float32(counts.shape[1] // 2)
    last, far = np.float32(counts.shape[1] - 1), np.float32(FAR)
    centres = bins.centre[start : start + size]
    belows, aboves = bins.below[start : start + size], bins.above[start : start + size]
    for token in range(len(rows)):
        row, here = values[rows[token], start : start + size], place[token]
        for neuron in range(size):
            offset = row[neuron] - centres[neuron]
            x = offset * (belows[neuron] if offset < zero else aboves[neuron])
            x = min(max(x, -far), far)
            bin_ = (x / (abs(x) + one) + one) * half
            # The first comparison also takes what is no number.
            bin_ = bin_ if bin_ > zero else zero
            here[neuron] = np.uint16(np.int32(min(bin_, last)))
    for neuron in range(size):
        own = counts[start + neuron]
        for token in range(len(rows)):
            # An unsigned place needs no look at whether it counts from the end.
            own[np.uint64(place[token, neuron])] += 1
