"""The running account of one layer: exact moments of both sites, and a histogram of the pre-activation.

The post-activation is a fixed function of the pre-activation, so one histogram serves both sites: mapping the edges of
the bins through the non-linearity gives the distribution behind it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from lnbench.statistics.kernels import BINS, add_tokens, bin_edges
from lnbench.statistics.values import LEVELS, SiteValues

CALIBRATION = 1024
"""Tokens kept as they are before the bins are fixed. Up to here, quantiles are those of the sample itself."""

_SCALED_ON = 256
_FINISHED_AT_ONCE = 256
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
        places = [int(level * (ordered.shape[1] - 1)) for level in (0.02, 0.25, 0.5, 0.75, 0.98)]
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
            activation: The non-linearity, applied to the edges of the bins.
        """
        if self.counts is None:
            pre, post = (torch.cat(parts) for parts in zip(*self.sample, strict=True))
            quantiles = [sample_quantiles(pre, LEVELS), sample_quantiles(post, LEVELS)]
        else:
            parts = [self._binned_quantiles(activation, start) for start in range(0, self.width, _FINISHED_AT_ONCE)]
            quantiles = [torch.cat(site, dim=1) for site in zip(*parts, strict=True)]
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

    def _binned_quantiles(self, activation: Callable[[Tensor], Tensor], start: int) -> tuple[Tensor, Tensor]:
        """Quantiles of the pre and the post site, ``[levels, neurons]``, of some neurons from ``start`` on."""
        assert self.centre is not None and self.scale is not None and self.counts is not None
        part = slice(start, start + _FINISHED_AT_ONCE)
        low, high = self.min[0, part].double().unsqueeze(1), self.max[0, part].double().unsqueeze(1)
        inner = bin_edges()[1:-1].to(low.device) / self.scale[part].double().unsqueeze(1)
        inner += self.centre[part].double().unsqueeze(1)
        # The open bins reach to the extremes seen.
        edges = torch.cat([low, inner, high], dim=1).clamp_(low, high)
        weights = self.counts[part].double()
        pre = binned_quantiles(edges, weights)
        post = mapped_quantiles(activation(edges.float()).double(), weights)
        # Where all below maps below and all above maps above, quantiles pass through the non-linearity as they are.
        passed = activation(pre.float()).double()
        alone = (passed >= passed.cummax(0).values) & (passed <= passed.flip(0).cummin(0).values.flip(0))
        return pre, torch.where(alone, passed, post)

    def _pin(self, quantiles: Tensor, site: int) -> Tensor:
        """Quantiles within the exact extremes, which are the outermost levels."""
        low, high = self.min[site], self.max[site]
        pinned = quantiles.float().clamp(low, high)
        pinned[0], pinned[-1] = low, high
        return pinned.cummax(0).values.contiguous()


def sample_quantiles(sample: Tensor, levels: Tensor) -> Tensor:
    """Quantiles of whole samples ``[tokens, width]``: ``[levels, width]`` (float64), linearly interpolated."""
    ordered = sample.T.contiguous().sort(dim=1).values.double()
    place = levels.to(ordered.device, torch.float64) * (ordered.shape[1] - 1)
    below, above = place.floor().long(), place.ceil().long()
    return torch.lerp(ordered[:, below], ordered[:, above], place - below).T


def binned_quantiles(edges: Tensor, weights: Tensor) -> Tensor:
    """Quantiles at :data:`LEVELS` of values spread evenly within bins: ``[levels, width]``.

    Args:
        edges: ``[width, bins + 1]`` (float64), ascending.
        weights: ``[width, bins]`` (float64), counts.
    """
    rank = pad(weights.cumsum(1), (1, 0))
    return _inverted(edges, rank, rank)


def mapped_quantiles(edges: Tensor, weights: Tensor) -> Tensor:
    """As :func:`binned_quantiles`, of bins that a function may have folded over each other or squeezed to a point.

    Args:
        edges: ``[width, bins + 1]`` (float64), the function's values at the edges of the bins, in any order.
        weights: ``[width, bins]`` (float64), counts.
    """
    spread = edges.diff(dim=1)
    reach = edges.amax(1, keepdim=True) - edges.amin(1, keepdim=True)
    # Narrower than this, a bin is a point: as a slope it would drown the others' last digits.
    point = spread.abs() <= 1e-9 * reach
    slope = torch.where(point, 0, weights / spread)
    # Where a bin begins the density rises, where it ends it falls; a falling function swaps its ends and the sign.
    change = pad(slope, (0, 1)) - pad(slope, (1, 0))
    jump = pad(torch.where(point, weights, 0), (0, 1))
    edges, order = edges.sort(dim=1)
    density = change.gather(1, order).cumsum(1)[:, :-1].clamp_min_(0)
    jump = jump.gather(1, order)
    rank = pad((density * edges.diff(dim=1)).cumsum(1), (1, 0)) + jump.cumsum(1)
    return _inverted(edges, rank - jump, rank)


def _inverted(values: Tensor, below: Tensor, upto: Tensor) -> Tensor:
    """Where a distribution function reaches :data:`LEVELS`.

    Args:
        values: ``[width, points]``, ascending.
        below: The function just below each of them, in any unit.
        upto: The function at each of them.
    """
    levels = LEVELS.to(values.device) * upto[:, -1:]
    right = torch.searchsorted(upto, levels).clamp_(1, upto.shape[1] - 1)
    r0, r1 = upto.gather(1, right - 1), below.gather(1, right)
    share = ((levels - r0) / (r1 - r0).clamp_min(1e-300)).clamp_(0, 1)
    return torch.lerp(values.gather(1, right - 1), values.gather(1, right), share).T
