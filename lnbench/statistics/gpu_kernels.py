"""The inner loop of the Statistics on a GPU, in Triton: that of :mod:`lnbench.statistics.kernels`, step by step.

A program walks all tokens of a few neurons, so that sums are added up in the same order each time, and only counts,
whose order does not matter, are added atomically.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lnbench.statistics.bins import FAR, Bins
from lnbench.statistics.counts import Histogram, Moments

_FAR = tl.constexpr(FAR)
_NEURONS, _TOKENS = tl.constexpr(32), tl.constexpr(128)


def add_moments(values: Tensor, rows: Tensor, moments: Moments, site: int) -> None:
    """Add tokens to one site's moments; see :func:`lnbench.statistics.kernels.add_tokens`."""
    values = values.contiguous()
    width = values.shape[1]
    with _on(values):
        grid = (triton.cdiv(width, _NEURONS.value),)
        _moments[grid](values, rows, *(tensor[site] for tensor in moments), len(rows), width)


def add_histogram(values: Tensor, rows: Tensor, histogram: Histogram) -> None:
    """Count values in their bins; see :func:`lnbench.statistics.kernels.add_histogram`."""
    values = values.contiguous()
    width = values.shape[1]
    with _on(values):
        grid = (triton.cdiv(width, _NEURONS.value), triton.cdiv(len(rows), _TOKENS.value))
        bins = histogram.counts.shape[1]
        _histogram[grid](values, rows, *histogram.bins, histogram.counts, len(rows), width, bins, float(bins // 2))


def compile_all() -> None:
    """Compile the kernels on the GPU, or raise what Triton raises."""
    device = torch.device("cuda")
    values, rows = torch.zeros(1, 1, device=device), torch.zeros(1, dtype=torch.long, device=device)
    add_moments(values, rows, Moments.empty(1, device), 0)
    add_histogram(values, rows, Histogram.empty(Bins(*torch.ones(3, 1, device=device))))


def _on(values: Tensor) -> AbstractContextManager[Any]:
    """Make a device the current one, on which Triton launches, whatever device its tensors are on."""
    return torch.cuda.device(values.device) if values.is_cuda else nullcontext()


# Triton looks up the names in annotations and takes none but its own, so these functions have no types.
@triton.jit  # type: ignore[untyped-decorator]
def _moments(  # type: ignore[no-untyped-def]
    values, rows, positive, sums, squares, low, high, tokens, width
):  # pragma: no cover
    neuron = tl.program_id(0) * _NEURONS + tl.arange(0, _NEURONS)
    inside = neuron < width
    above = tl.zeros((_NEURONS,), tl.int64)
    total = tl.zeros((_NEURONS,), tl.float64)
    square = tl.zeros((_NEURONS,), tl.float64)
    least = tl.full((_NEURONS,), float("inf"), tl.float32)
    most = tl.full((_NEURONS,), float("-inf"), tl.float32)
    for first in range(0, tokens, _TOKENS):
        token = first + tl.arange(0, _TOKENS)
        row = tl.load(rows + token, mask=token < tokens, other=0)
        real = (token < tokens)[:, None] & inside[None, :]
        value = tl.load(values + row[:, None] * width + neuron[None, :], mask=real, other=0.0).to(tl.float32)
        exact = value.to(tl.float64)
        above += tl.sum((value > 0).to(tl.int64), axis=0)
        total += tl.sum(exact, axis=0)
        square += tl.sum(exact * exact, axis=0)
        least = tl.minimum(least, tl.min(tl.where(real, value, float("inf")), axis=0))
        most = tl.maximum(most, tl.max(tl.where(real, value, float("-inf")), axis=0))
    tl.store(positive + neuron, tl.load(positive + neuron, mask=inside) + above, mask=inside)
    tl.store(sums + neuron, tl.load(sums + neuron, mask=inside) + total, mask=inside)
    tl.store(squares + neuron, tl.load(squares + neuron, mask=inside) + square, mask=inside)
    tl.store(low + neuron, tl.minimum(tl.load(low + neuron, mask=inside), least), mask=inside)
    tl.store(high + neuron, tl.maximum(tl.load(high + neuron, mask=inside), most), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _histogram(  # type: ignore[no-untyped-def]
    values, rows, centre, below, above, counts, tokens, width, bins: tl.constexpr, half: tl.constexpr
):  # pragma: no cover
    neuron = tl.program_id(0) * _NEURONS + tl.arange(0, _NEURONS)
    token = tl.program_id(1) * _TOKENS + tl.arange(0, _TOKENS)
    inside = neuron < width
    real = (token < tokens)[:, None] & inside[None, :]
    row = tl.load(rows + token, mask=token < tokens, other=0)
    value = tl.load(values + row[:, None] * width + neuron[None, :], mask=real, other=0.0).to(tl.float32)
    offset = value - tl.load(centre + neuron, mask=inside, other=0.0)[None, :]
    lower = tl.load(below + neuron, mask=inside, other=0.0)[None, :]
    upper = tl.load(above + neuron, mask=inside, other=0.0)[None, :]
    x = offset * tl.where(offset < 0, lower, upper)
    x = tl.minimum(tl.maximum(x, -_FAR), _FAR)
    # A plain division is approximate here, and would put some values into the next bin.
    place = (tl.div_rn(x, tl.abs(x) + 1.0) + 1.0) * half
    # The first comparison also takes NaN.
    place = tl.where(place > 0, place, 0.0)
    place = tl.minimum(place, bins - 1.0).to(tl.int32)
    tl.atomic_add(counts + neuron[None, :].to(tl.int64) * bins + place, 1, mask=real)
