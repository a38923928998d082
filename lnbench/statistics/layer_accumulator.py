"""The counts of one layer: exact moments of both sites, and a histogram of the pre-activation.

Or of one site's values, of which no other site is a function.

The post-activation is a fixed function of the pre-activation, so one histogram serves both sites: mapping the edges of
the bins through the non-linearity gives the distribution behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import torch
from torch import Tensor

from lnbench.model.banks import PerBank
from lnbench.statistics.bins import BINS, EXPERT_BINS, Bins, outline, sort_rows
from lnbench.statistics.counts import Histogram, Moments
from lnbench.statistics.kernels import add_histogram, add_tokens
from lnbench.statistics.quantiles import quantiles
from lnbench.statistics.site_values import LEVELS, RANKED, SiteValues

CALIBRATION = 960
"""Tokens kept as they are before the bins are laid out. Up to here, quantiles are those of the sample itself."""

EXPERT_CALIBRATION = 192
"""The same of an expert: the sample, too, stays under 1 KiB per neuron."""

Activation = Callable[[Tensor], Tensor]
_FINISHED_AT_ONCE = 256
_INT32 = torch.iinfo(torch.int32).max


class LayerAccumulator:
    """One layer's counts, for any number of tokens in memory that does not grow: under 4 KiB per neuron.

    Args:
        width: Neurons of the layer.
        device: Where the activations are, and the counts are kept.
        coarse: Whether to take under 1 KiB per neuron, by fewer bins: for experts.
        sites: 2 for ``pre`` and ``post``; 1 for values that no other site is a function of.
    """

    def __init__(self, width: int, device: torch.device, *, coarse: bool = False, sites: int = 2) -> None:
        self.width = width
        self.coarse = coarse
        self.bins, self.calibration = (EXPERT_BINS, EXPERT_CALIBRATION) if coarse else (BINS, CALIBRATION)
        self.device = device
        self.dtype = torch.float32
        self.tokens = 0
        self.moments = Moments.empty(width, device, sites)
        self.sample: list[Tensor] = []
        self.histograms: list[Histogram] = []
        """One, unless counts with different bins were merged; the first is counted into."""

    def add(self, pre: Tensor, post: Tensor | None = None, rows: Tensor | None = None) -> None:
        """Count the tokens of one forward pass.

        Args:
            pre: ``[positions, width]``, inputs of the non-linearity; or the values of the one site.
            post: ``[positions, width]``, its outputs; None of one site.
            rows: ``LongTensor[tokens]``, the positions that count; all if None.
        """
        rows = _all(pre) if rows is None else rows
        post = pre if post is None else post
        self.dtype = pre.dtype
        self.tokens += len(rows)
        if self.histograms:
            self._widen(self.histograms[0])
            add_tokens(pre, post, rows, self.moments, self.histograms[0])
        else:
            add_tokens(pre, post, rows, self.moments)
            self._spread(pre, rows)

    def take_bins(self, other: LayerAccumulator) -> None:
        """Count into bins like those of ``other``, if it has seen enough to have some; only before the first token."""
        self.dtype = other.dtype
        self.histograms = [Histogram.empty(histogram.bins, self.bins) for histogram in other.histograms[:1]]

    def merge(self, other: LayerAccumulator) -> None:
        """Count what ``other`` has counted, as if it had been added here. ``other`` is of no use afterwards."""
        self.dtype = other.dtype if other.tokens else self.dtype
        self.tokens += other.tokens
        self.moments = self.moments.merged(other.moments)
        for histogram in other.histograms:
            alike = [own for own in self.histograms if own.bins.same(histogram.bins)]
            if alike:
                self._widen(alike[0])
                alike[0].counts += histogram.counts.to(self.device)
            else:
                self.histograms.append(histogram)
        waiting, self.sample = self.sample, []
        for part in [*waiting, *other.sample]:
            self._spread(part.to(self.device), _all(part))

    def _spread(self, pre: Tensor, rows: Tensor) -> None:
        """Put values into the histogram or, as long as there is none, into the sample that it will be laid out on."""
        if not self.histograms:
            room = self.calibration - sum(map(len, self.sample))
            self.sample.append(pre[rows[:room]])
            rows = rows[room:]
            if len(rows) == 0:
                return
            sample = torch.cat(self.sample)
            self.sample.clear()
            self.histograms.append(Histogram.empty(Bins.on(sample.float()), self.bins))
            self._widen(self.histograms[0])
            add_histogram(sample, _all(sample), self.histograms[0])
        self._widen(self.histograms[0])
        add_histogram(pre, rows, self.histograms[0])

    def _widen(self, histogram: Histogram) -> None:
        if self.tokens > _INT32:
            histogram.counts = histogram.counts.long()

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, as it is stored."""
        tensors = self.moments._asdict()
        if self.sample:
            tensors["sample"] = torch.cat(self.sample)
        for number, histogram in enumerate(self.histograms):
            tensors |= {f"{number}.{name}": tensor for name, tensor in histogram.tensors().items()}
        return tensors

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, Tensor],
        tokens: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        coarse: bool = False,
    ) -> Self:
        """Return the counts whose :meth:`tensors` these are."""
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        sites, width = tensors["positive"].shape
        layer = cls(width, device, coarse=coarse, sites=sites)
        layer.tokens, layer.dtype = tokens, dtype
        layer.moments = Moments(*(tensors[name] for name in Moments._fields))
        if "sample" in tensors:
            layer.sample = [tensors["sample"]]
        while f"{(number := len(layer.histograms))}.counts" in tensors:
            bins = Bins(*(tensors[f"{number}.{name}"] for name in Bins._fields))
            layer.histograms.append(Histogram(bins, tensors[f"{number}.counts"]))
        return layer

    def on(self, device: torch.device) -> Self:
        """Return these counts on ``device``."""
        if self.device == device:
            return self
        return self.of(self.tensors(), self.tokens, self.dtype, device, coarse=self.coarse)

    def finish(self, activation: Activation | None = None, among: int | None = None) -> list[SiteValues]:
        """Return the values of each site, tensors ``[width]`` and quantiles ``[levels, width]``.

        Args:
            activation: The non-linearity, applied to the edges of the bins; None where there is one site.
            among: Tokens that the activation rate is a share of; those counted if None.
        """
        parts = [self._quantiles(activation, start) for start in range(0, self.width, _FINISHED_AT_ONCE)]
        mean = self.moments.sums / self.tokens
        std = (self.moments.squares / self.tokens - mean.square()).clamp_min(0).sqrt()
        # Rounding leaves a constant neuron with a little spread.
        std = std.masked_fill(self.moments.min == self.moments.max, 0)
        sites = []
        for site, of_parts in enumerate(zip(*parts, strict=True)):
            values, error = (torch.cat(tensors, dim=1) for tensors in zip(*of_parts, strict=True))
            low, high = self.moments.min[site].cpu(), self.moments.max[site].cpu()
            # Within the exact extremes, which are the outermost levels.
            values = values.float().clamp(low, high)
            values[0], values[-1] = low, high
            sites.append(
                SiteValues(
                    positive_rate=self.moments.positive[site].double().cpu()
                    / (self.tokens if among is None else among),
                    mean=mean[site].float().cpu(),
                    std=std[site].float().cpu(),
                    min=low,
                    max=high,
                    quantiles=values.cummax(0).values.contiguous(),
                    rank_error=error.index_select(0, RANKED).amax(0).float(),
                )
            )
        return sites

    def _quantiles(self, activation: Activation | None, start: int) -> tuple[tuple[Tensor, Tensor], ...]:
        """Return quantiles and bounds on their rank error, ``[levels, neurons]``, of some neurons, at each site."""
        part = slice(start, start + _FINISHED_AT_ONCE)

        def through(values: Tensor, dim: int = -1) -> Tensor:
            assert activation is not None
            moved = values.to(self.device, self.dtype)
            applied = activation.of(moved, start, dim) if isinstance(activation, PerBank) else activation(moved)
            return applied.cpu().double()

        if not self.histograms:
            sample = torch.cat(self.sample)[:, part].cpu()
            return (_sampled(sample),) if activation is None else (_sampled(sample), _sampled(through(sample)))
        low, high = self.moments.min[0, part], self.moments.max[0, part]
        lines = [
            outline(Bins(*(tensor[part] for tensor in histogram.bins)), histogram.counts[part], low, high, self.dtype)
            for histogram in self.histograms
        ]
        edges = torch.cat([points for points, _ in lines], dim=1).cpu()
        # Nothing lies between the end of one histogram and the start of the next.
        gap = torch.zeros(len(low), 1, dtype=torch.float64, device=low.device)
        weights = torch.cat([tensor for _, counts in lines for tensor in (counts, gap)][:-1], dim=1).cpu()
        pre, error = quantiles(edges, weights, LEVELS)
        # What came in 16 bits has no values in between.
        pre = pre.to(self.dtype).double()
        if activation is None:
            return ((pre, error),)
        post, post_error = quantiles(through(edges, 0), weights, LEVELS)
        post = post.to(self.dtype).double()
        # Where all below maps below and all above maps above, quantiles pass through the non-linearity as they are.
        passed = through(pre)
        alone = (passed >= passed.cummax(0).values) & (passed <= passed.flip(0).cummin(0).values.flip(0))
        return (pre, error), (torch.where(alone, passed, post), torch.where(alone, error, post_error))


def _all(values: Tensor) -> Tensor:
    return torch.arange(len(values), device=values.device)


def sample_quantiles(sample: Tensor, levels: Tensor) -> Tensor:
    """Return quantiles of whole samples ``[tokens, width]``: ``[levels, width]`` (float64), linearly interpolated."""
    ordered = sort_rows(sample.T).double()
    place = levels.to(ordered.device, torch.float64) * (ordered.shape[1] - 1)
    below, above = place.floor().long(), place.ceil().long()
    return torch.lerp(ordered[:, below], ordered[:, above], place - below).T


def _sampled(sample: Tensor) -> tuple[Tensor, Tensor]:
    values = sample_quantiles(sample, LEVELS)
    # Between two tokens next to each other in rank, interpolation is at most one off.
    return values, torch.full_like(values, 1 / len(sample))
