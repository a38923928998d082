"""The inner loop of the Statistics: every activation of every token passes here once.

On the CPU a compiled loop walks a block of neurons at a time, so that their histograms stay in the cache; elsewhere
torch does the same in whole-tensor steps. Counts are equal to the last one; sums may differ in the last bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from lnbench.statistics.accumulate import LayerAccumulator

BINS = 1024
_BLOCK = 32


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
        _add_torch(pre, post, layer)


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
        assert layer.low is not None and layer.scale is not None
        # Truncation after adding one sends everything below the first even bin to bin 0.
        place = ((pre - layer.low) * layer.scale + 1).clamp_(0, BINS - 1).long()
        place += torch.arange(layer.width, device=pre.device) * BINS
        ones = torch.ones((), dtype=torch.int32, device=pre.device).expand(place.numel())
        layer.counts.view(-1).scatter_add_(0, place.view(-1), ones)


def _add_compiled(pre: Tensor, post: Tensor | None, layer: LayerAccumulator) -> None:
    if post is not None:
        for site, values in enumerate((pre, post)):
            _moments(
                values.numpy(),
                layer.positive[site].numpy(),
                layer.sums[site].numpy(),
                layer.squares[site].numpy(),
                layer.min[site].numpy(),
                layer.max[site].numpy(),
            )
    if layer.counts is not None:
        assert layer.low is not None and layer.scale is not None
        _histogram(pre.numpy(), layer.low.numpy(), layer.scale.numpy(), layer.counts.numpy())


@numba.njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _moments(values: Any, positive: Any, sums: Any, squares: Any, low: Any, high: Any) -> None:  # pragma: no cover
    tokens, width = values.shape
    for block in numba.prange((width + _BLOCK - 1) // _BLOCK):
        start, stop = block * _BLOCK, min(width, (block + 1) * _BLOCK)
        for token in range(tokens):
            for neuron in range(start, stop):
                value = values[token, neuron]
                exact = np.float64(value)
                positive[neuron] += value > 0
                sums[neuron] += exact
                squares[neuron] += exact * exact
                low[neuron] = min(low[neuron], value)
                high[neuron] = max(high[neuron], value)


@numba.njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _histogram(values: Any, low: Any, scale: Any, counts: Any) -> None:  # pragma: no cover
    tokens, width = values.shape
    one, last = np.float32(1), np.float32(BINS - 1)
    for block in numba.prange((width + _BLOCK - 1) // _BLOCK):
        start, stop = block * _BLOCK, min(width, (block + 1) * _BLOCK)
        for token in range(tokens):
            for neuron in range(start, stop):
                place = (values[token, neuron] - low[neuron]) * scale[neuron] + one
                counts[neuron, np.int32(min(max(place, np.float32(0)), last))] += 1
