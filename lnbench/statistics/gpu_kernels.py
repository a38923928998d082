"""The inner loop of the Statistics on a GPU, in Triton: what :mod:`lnbench.statistics.kernels` says, step by step.

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

from lnbench.statistics.bins import BINS, FAR, HALF, Bins
from lnbench.statistics.counts import Histogram, Moments

_NEURONS, _TOKENS = 32, 128


def add_moments(values: Tensor, rows: Tensor, layer: Moments, site: int) -> None:
    """Add tokens to one site's moments; see :func:`lnbench.statistics.kernels.add_tokens`."""
    values = values.contiguous()
    grid = (triton.cdiv(layer.width, _NEURONS),)
    _moments[grid](
        values,
        rows,
        *(each[site] for each in layer.moments()),
        len(rows),
        layer.width,
        TOKENS=_TOKENS,
        NEURONS=_NEURONS,
    )


def add_histogram(values: Tensor, rows: Tensor, histogram: Histogram) -> None:
    """Count values in their bins; see :func:`lnbench.statistics.kernels.add_histogram`."""
    values, bins = values.contiguous(), histogram.bins
    width = values.shape[1]
    grid = (triton.cdiv(width, _NEURONS), triton.cdiv(len(rows), _TOKENS))
    accounts = (bins.centre, bins.below, bins.above, histogram.counts)
    sizes = {"BINS": BINS, "HALF": float(HALF), "FAR": FAR, "TOKENS": _TOKENS, "NEURONS": _NEURONS}
    with _on(values):
        _histogram[grid](values, rows, *accounts, len(rows), width, **sizes)


def compile_all() -> None:
    """Compile the kernels on the GPU, or raise what Triton raises."""
    layer = Moments(1, torch.device("cuda"))
    values, rows = torch.zeros(1, 1, device="cuda"), torch.zeros(1, dtype=torch.long, device="cuda")
    add_moments(values, rows, layer, 0)
    bins = Bins(*(torch.ones(1, device="cuda") for _ in range(3)))
    add_histogram(values, rows, Histogram(bins, torch.zeros(1, BINS, dtype=torch.int32, device="cuda")))


def _on(values: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, whatever device its tensors are on."""
    return torch.cuda.device(values.device) if values.is_cuda else nullcontext()


@triton.jit  # type: ignore[untyped-decorator]
def _moments(
    values: Any,
    rows: Any,
    positive: Any,
    sums: Any,
    squares: Any,
    low: Any,
    high: Any,
    tokens: Any,
    width: Any,
    TOKENS: tl.constexpr,  # noqa: N803
    NEURONS: tl.constexpr,  # noqa: N803
) -> None:  # pragma: no cover
    neuron = tl.program_id(0) * NEURONS + tl.arange(0, NEURONS)
    inside = neuron < width
    above = tl.zeros((NEURONS,), tl.int64)
    total = tl.zeros((NEURONS,), tl.float64)
    square = tl.zeros((NEURONS,), tl.float64)
    least = tl.full((NEURONS,), float("inf"), tl.float32)
    most = tl.full((NEURONS,), float("-inf"), tl.float32)
    for first in range(0, tokens, TOKENS):
        token = first + tl.arange(0, TOKENS)
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
def _histogram(
    values: Any,
    rows: Any,
    centre: Any,
    below: Any,
    above: Any,
    counts: Any,
    tokens: Any,
    width: Any,
    BINS: tl.constexpr,  # noqa: N803
    HALF: tl.constexpr,  # noqa: N803
    FAR: tl.constexpr,  # noqa: N803
    TOKENS: tl.constexpr,  # noqa: N803
    NEURONS: tl.constexpr,  # noqa: N803
) -> None:  # pragma: no cover
    neuron = tl.program_id(0) * NEURONS + tl.arange(0, NEURONS)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = neuron < width
    real = (token < tokens)[:, None] & inside[None, :]
    row = tl.load(rows + token, mask=token < tokens, other=0)
    value = tl.load(values + row[:, None] * width + neuron[None, :], mask=real, other=0.0).to(tl.float32)
    offset = value - tl.load(centre + neuron, mask=inside, other=0.0)[None, :]
    lower = tl.load(below + neuron, mask=inside, other=0.0)[None, :]
    upper = tl.load(above + neuron, mask=inside, other=0.0)[None, :]
    x = offset * tl.where(offset < 0, lower, upper)
    x = tl.minimum(tl.maximum(x, -FAR), FAR)
    # A plain division is approximate here, and would put some values into the next bin.
    place = (tl.div_rn(x, tl.abs(x) + 1.0) + 1.0) * HALF
    # The first comparison also takes what is no number.
    place = tl.where(place > 0, place, 0.0)
    place = tl.minimum(place, BINS - 1.0).to(tl.int32)
    tl.atomic_add(counts + neuron[None, :].to(tl.int64) * BINS + place, 1, mask=real)
