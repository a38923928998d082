"""The running account of one layer: exact moments of both sites, and a histogram of the pre-activation.

The post-activation is a fixed function of the pre-activation, so one histogram serves both sites: mapping the middle
of every bin through the non-linearity gives the distribution behind it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lnbench.statistics.kernels import BINS, add_tokens, bin_edges
from lnbench.statistics.values import LEVELS, SiteValues

CALIBRATION = 1024
"""Tokens kept as they are before the bins are fixed. Up to here, quantiles are those of the sample itself."""

_SCALED_ON = 256
_INT32 = torch.iinfo(torch.int32).max


class LayerAccumulator:
    """One layer's counts, for any number of tokens in memory that does not grow.

    Args:
        width: Neurons of the layer.
        device: Where the activations are, and the counts are kept.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.width = width
        self.tokens = 0
        self.positive = torch.zeros(2, width, dtype=torch.int64, device=device)
        self.sums = torch.zeros(2, width, dtype=torch.float64, device=device)
        self.squares = torch.zeros(2, width, dtype=torch.float64, device=device)
        self.min = torch.full((2, width), torch.inf, dtype=torch.float32, device=device)
        self.max = torch.full((2, width), -torch.inf, dtype=torch.float32, device=device)
        self.sample: list[tuple[Tensor, Tensor]] = []
        self.centre: Tensor | None = None
        self.scale: Tensor | None = None
        self.counts: Tensor | None = None

    def add(self, pre: Tensor, post: Tensor) -> None:
        """Count the tokens of one forward pass.

        Args:
            pre: ``[tokens, width]``, inputs of the non-linearity.
            post: ``[tokens, width]``, its outputs.
        """
        pre, post = pre.float().contiguous(), post.float().contiguous()
        self.tokens += len(pre)
        if self.counts is None:
            self.sample.append((pre.clone(), post.clone()))
        elif self.tokens > _INT32 and self.counts.dtype == torch.int32:
            self.counts = self.counts.long()
        add_tokens(pre, post, self)
        if self.counts is None and self.tokens >= CALIBRATION:
            self._calibrate()

    def _calibrate(self) -> None:
        """Fix the bins on the sample: fine ones over its middle half, coarser ones to far beyond its ends."""
        sample = torch.cat([pre for pre, _ in self.sample])
        # A few hundred tokens tell a scale; sorting more would take longer than reading them.
        some = sample[:: max(1, len(sample) // _SCALED_ON)]
        ordered = some.T.contiguous().sort(dim=1).values
        places = [int(level * (ordered.shape[1] - 1)) for level in (0.01, 0.25, 0.5, 0.75, 0.99)]
        lowest, low, centre, high, highest = ordered[:, places].T
        reach = torch.maximum(highest - centre, centre - lowest)
        unit = torch.maximum((high - low) / 4, reach / 128)
        # Below a neuron's own precision bins tell nothing apart; a constant neuron has no scale at all.
        unit = torch.maximum(unit, 1e-6 * centre.abs()).clamp_min(1e-30)
        self.centre = centre.contiguous()
        self.scale = (1 / unit).contiguous()
        self.counts = torch.zeros(self.width, BINS, dtype=torch.int32, device=sample.device)
        self.sample.clear()
        # The moments hold these tokens already; only the histogram does not.
        add_tokens(sample, None, self)

    def finish(self, activation: Callable[[Tensor], Tensor]) -> tuple[SiteValues, SiteValues]:
        """The values of the pre and the post site, tensors ``[width]`` and quantiles ``[levels, width]``.

        Args:
            activation: The non-linearity, applied to the middles of the bins.
        """
        if self.counts is None:
            pre, post = (torch.cat(parts) for parts in zip(*self.sample, strict=True))
            quantiles = [sample_quantiles(pre, LEVELS), sample_quantiles(post, LEVELS)]
        else:
            middles = self._middles()
            weights = self.counts.double()
            mapped = activation(middles.float()).float()
            order = mapped.argsort(dim=1, stable=True)
            quantiles = [
                weighted_quantiles(middles, weights),
                weighted_quantiles(mapped.gather(1, order), weights.gather(1, order)),
            ]
        mean = self.sums / self.tokens
        std = (self.squares / self.tokens - mean.square()).clamp_min(0).sqrt()
        # Rounding leaves a constant neuron with a little spread.
        std = std.masked_fill(self.min == self.max, 0)
        return tuple(  # type: ignore[return-value]
            SiteValues(
                positive_rate=self.positive[site].double().cpu() / self.tokens,
                mean=mean[site].float().cpu(),
                std=std[site].float().cpu(),
                min=self.min[site].cpu(),
                max=self.max[site].cpu(),
                quantiles=self._pin(quantiles[site], site).cpu(),
            )
            for site in (0, 1)
        )

    def _middles(self) -> Tensor:
        """The middle of each bin, ``[width, bins]`` (float64); the open bins reach to the extremes seen."""
        assert self.centre is not None and self.scale is not None
        inner = bin_edges()[1:-1].to(self.centre.device) / self.scale.double().unsqueeze(1)
        low, high = self.min[0].double().unsqueeze(1), self.max[0].double().unsqueeze(1)
        edges = torch.cat([low, self.centre.double().unsqueeze(1) + inner, high], dim=1).clamp(low, high)
        return (edges[:, 1:] + edges[:, :-1]) / 2

    def _pin(self, quantiles: Tensor, site: int) -> Tensor:
        """Quantiles within the exact extremes, which are the outermost levels."""
        low, high = self.min[site], self.max[site]
        pinned = quantiles.float().clamp(low, high)
        pinned[0], pinned[-1] = low, high
        return pinned.contiguous()


def sample_quantiles(sample: Tensor, levels: Tensor) -> Tensor:
    """Quantiles of whole samples ``[tokens, width]``: ``[levels, width]`` (float64), linearly interpolated."""
    ordered = sample.T.contiguous().sort(dim=1).values.double()
    place = levels.to(ordered.device, torch.float64) * (ordered.shape[1] - 1)
    below, above = place.floor().long(), place.ceil().long()
    return torch.lerp(ordered[:, below], ordered[:, above], place - below).T


def weighted_quantiles(values: Tensor, weights: Tensor) -> Tensor:
    """Quantiles of weighted points at :data:`LEVELS`.

    Every point's weight is taken as spread evenly around it, so the distribution function passes its middle there.

    Args:
        values: ``[width, points]``, ascending along the points.
        weights: ``[width, points]``, counts.

    Returns:
        ``[levels, width]``.
    """
    total = weights.sum(1, keepdim=True)
    rank = (weights.cumsum(1) - weights / 2) / total
    levels = LEVELS.to(rank.device).expand(len(rank), -1).contiguous()
    upper = torch.searchsorted(rank.contiguous(), levels).clamp(1, rank.shape[1] - 1)
    r0, r1 = rank.gather(1, upper - 1), rank.gather(1, upper)
    y0, y1 = values.double().gather(1, upper - 1), values.double().gather(1, upper)
    share = ((levels - r0) / (r1 - r0).clamp_min(1e-300)).clamp(0, 1)
    return torch.lerp(y0, y1, share).T
