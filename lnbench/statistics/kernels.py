"""The inner loop of the Statistics: every activation of every token passes here once.

On the CPU a compiled loop walks a block of neurons at a time, so that their accounts stay in registers and their
histograms in the cache; elsewhere torch does the same in whole-tensor steps. Counts are equal to the last one; sums may
differ in the last bits.

Bins are even near a neuron's centre and grow with the distance from it, 64 to every doubling: narrow where most values
are, and wide enough at the ends for outliers hundreds of times the spread. A value's bin is read off the bits of a
float32, whose exponent and leading digits are just that scale.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from lnbench.statistics.accumulate import LayerAccumulator

BINS = 1024
_SIDE = BINS // 2
_SHIFT = 17
"""Bits of a float32 that do not tell bins apart: all but the exponent and 6 digits."""
_ONE = 0x3F800000
"""The bits of 1.0."""
_BLOCK = 64
_SHARE = 256
"""Neurons that a thread takes at a time."""
_CHUNK = 1 << 24


def bin_edges() -> Tensor:
    """The edges of the bins around centre 0 in units of 1, ``[BINS + 1]`` (float64); values beyond go to the last."""
    bits = _ONE + (torch.arange(_SIDE + 1, dtype=torch.int32) << _SHIFT)
    side = bits.view(torch.float32).double() - 1
    return torch.cat([-side.flip(0), side[1:]])


def add_tokens(pre: Tensor, post: Tensor | None, layer: LayerAccumulator, *, compiled: bool | None = None) -> None:
    """Add tokens to a layer's moments (unless ``post`` is None) and, once its bins are fixed, to its histogram.

    Args:
        pre: ``FloatTensor[tokens, width]``, contiguous float32.
        post: The same shape; None where the moments have these tokens already.
        layer: The account to add to.
        compiled: Force (or forbid) the compiled loop; None chooses it on the CPU.
    """
    if compiled if compiled is not None else pre.device.type == "cpu":
        _add_compiled(pre, post, layer)
    else:
        # Whole-tensor steps take several times the memory of what they are given.
        rows = max(1, _CHUNK // layer.width)
        for start in range(0, len(pre), rows):
            part = slice(start, start + rows)
            _add_torch(pre[part], None if post is None else post[part], layer)


def _add_torch(pre: Tensor, post: Tensor | None, layer: LayerAccumulator) -> None:
    if post is not None:
        for site, values in enumerate((pre, post)):
            exact = values.double()
            layer.positive[site] += (values > 0).sum(0)
            layer.sums[site] += exact.sum(0)
            layer.squares[site] += exact.square().sum(0)
            layer.min[site] = torch.minimum(layer.min[site], values.amin(0))
            layer.max[site] = torch.maximum(layer.max[site], values.amax(0))
    if layer.counts is not None:
        assert layer.centre is not None and layer.scale is not None
        offset = (pre - layer.centre) * layer.scale
        step = (((offset.abs() + 1).view(torch.int32) - _ONE) >> _SHIFT).clamp_(0, _SIDE - 1)
        place = torch.where(offset >= 0, _SIDE + step, _SIDE - 1 - step).long()
        place += torch.arange(layer.width, device=pre.device) * BINS
        ones = torch.ones((), dtype=layer.counts.dtype, device=pre.device).expand(place.numel())
        layer.counts.view(-1).scatter_add_(0, place.view(-1), ones)


def _add_compiled(pre: Tensor, post: Tensor | None, layer: LayerAccumulator) -> None:
    width = layer.width
    moments = (layer.positive, layer.sums, layer.squares, layer.min, layer.max)
    tasks: list[tuple[Any, ...]] = []
    for start in range(0, width, _SHARE):
        stop = min(width, start + _SHARE)
        if post is not None:
            for site, values in enumerate((pre, post)):
                accounts = (tensor[site].numpy() for tensor in moments)
                tasks.append((_moments, values.numpy(), *accounts, start, stop))
        if layer.counts is not None:
            assert layer.centre is not None and layer.scale is not None
            bins = (layer.centre.numpy(), layer.scale.numpy(), layer.counts.numpy())
            tasks.append((_histogram, pre.numpy(), *bins, start, stop))
    threads = torch.get_num_threads()
    if threads == 1 or pre.numel() < 1 << 16:
        for kernel, *arguments in tasks:
            kernel(*arguments)
    else:
        list(_pool(os.getpid(), threads).map(lambda task: task[0](*task[1:]), tasks))


@cache
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process: those of a parent do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="lnbench-statistics")


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _moments(
    values: Any, positive: Any, sums: Any, squares: Any, low: Any, high: Any, begin: int, end: int
) -> None:  # pragma: no cover
    for start in range(begin, end, _BLOCK):
        size = min(_BLOCK, end - start)
        # Arrays of this loop alone: the compiler need not fear that they overlap with what is read.
        above = np.zeros(_BLOCK, np.int32)
        total = np.zeros(_BLOCK, np.float64)
        square = np.zeros(_BLOCK, np.float64)
        least = np.full(_BLOCK, np.inf, np.float32)
        most = np.full(_BLOCK, -np.inf, np.float32)
        for token in range(len(values)):
            row = values[token, start : start + size]
            for neuron in range(size):
                value = row[neuron]
                exact = np.float64(value)
                above[neuron] += np.int32(value > 0)
                total[neuron] += exact
                square[neuron] += exact * exact
                least[neuron] = value if value < least[neuron] else least[neuron]
                most[neuron] = value if value > most[neuron] else most[neuron]
        for neuron in range(size):
            positive[start + neuron] += above[neuron]
            sums[start + neuron] += total[neuron]
            squares[start + neuron] += square[neuron]
            low[start + neuron] = min(low[start + neuron], least[neuron])
            high[start + neuron] = max(high[start + neuron], most[neuron])


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _histogram(values: Any, centre: Any, scale: Any, counts: Any, begin: int, end: int) -> None:  # pragma: no cover
    none, one, last = np.int32(0), np.float32(1), np.int32(_SIDE - 1)
    middle, bits_of_one, shift = np.int32(_SIDE), np.int32(_ONE), np.int32(_SHIFT)
    place = np.empty(_BLOCK, np.int32)
    for start in range(begin, end, _BLOCK):
        size = min(_BLOCK, end - start)
        centres, scales = centre[start : start + size], scale[start : start + size]
        for token in range(len(values)):
            row = values[token, start : start + size]
            for neuron in range(size):
                offset = (row[neuron] - centres[neuron]) * scales[neuron]
                step = (np.float32(abs(offset) + one).view(np.int32) - bits_of_one) >> shift
                step = min(max(step, none), last)
                place[neuron] = middle + step if offset >= 0 else last - step
            for neuron in range(size):
                counts[start + neuron, place[neuron]] += 1
