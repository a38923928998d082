"""The running account of one layer: exact moments of both sites, and a histogram of the pre-activation.

The post-activation is a fixed function of the pre-activation, so one histogram serves both sites: mapping the edges of
the bins through the non-linearity gives the distribution behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lnbench.statistics.bins import BINS, Bins, outline, sort_rows
from lnbench.statistics.counts import MOMENTS, Histogram, Moments
from lnbench.statistics.kernels import add_histogram, add_tokens
from lnbench.statistics.quantiles import quantiles
from lnbench.statistics.site_values import LEVELS, RANKED, SiteValues

CALIBRATION = 960
"""Tokens kept as they are before the bins are laid out. Up to here, quantiles are those of the sample itself."""

Activation = Callable[[Tensor], Tensor]
_FINISHED_AT_ONCE = 256
_INT32 = torch.iinfo(torch.int32).max


class LayerAccumulator(Moments):
    """One layer's counts, for any number of tokens in memory that does not grow: under 4 KiB a neuron.

    Args:
        width: Neurons of the layer.
        device: Where the activations are, and the counts are kept.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__(width, device)
        self.dtype = torch.float32
        self.tokens = 0
        self.sample: list[Tensor] = []
        self.histograms: list[Histogram] = []
        """One, unless accounts with different bins were merged; the first is counted into."""

    def add(self, pre: Tensor, post: Tensor, rows: Tensor | None = None) -> None:
        """Count the tokens of one forward pass.

        Args:
            pre: ``[positions, width]``, inputs of the non-linearity.
            post: ``[positions, width]``, its outputs.
            rows: ``LongTensor[tokens]``, the positions that count; all if None.
        """
        rows = _all(pre) if rows is None else rows
        self.dtype = pre.dtype
        self.tokens += len(rows)
        if self.histograms:
            self._widen(self.histograms[0])
            add_tokens(pre, post, rows, self, self.histograms[0])
        else:
            add_tokens(pre, post, rows, self)
            self._spread(pre, rows)

    def take_bins(self, other: LayerAccumulator) -> None:
        """Count into bins like those of ``other``, if it has seen enough to have some; only before the first token."""
        self.dtype = other.dtype
        self.histograms = [self._empty(histogram.bins) for histogram in other.histograms[:1]]

    def merge(self, other: LayerAccumulator) -> None:
        """Count what ``other`` has counted, as if it had been added here. ``other`` is of no use afterwards."""
        self.dtype = other.dtype if other.tokens else self.dtype
        self.tokens += other.tokens
        for name, combine in MOMENTS.items():
            setattr(self, name, combine(getattr(self, name), getattr(other, name).to(self.device)))
        for histogram in other.histograms:
            for own in self.histograms:
                if own.bins.same(histogram.bins):
                    self._widen(own)
                    own.counts += histogram.counts.to(self.device)
                    break
            else:
                self.histograms.append(histogram)
        waiting, self.sample = self.sample, []
        for part in [*waiting, *other.sample]:
            self._spread(part.to(self.device), _all(part))

    def _spread(self, pre: Tensor, rows: Tensor) -> None:
        """Put values into the histogram or, as long as there is none, into the sample that it will be laid out on."""
        if not self.histograms:
            room = CALIBRATION - sum(map(len, self.sample))
            self.sample.append(pre[rows[:room]])
            rows = rows[room:]
            if len(rows) == 0:
                return
            sample = torch.cat(self.sample)
            self.sample.clear()
            self.histograms.append(self._empty(Bins.on(sample.float())))
            self._count(sample, _all(sample))
        self._count(pre, rows)

    def _empty(self, bins: Bins) -> Histogram:
        return Histogram(bins, torch.zeros(self.width, BINS, dtype=torch.int32, device=self.device))

    def _count(self, pre: Tensor, rows: Tensor) -> None:
        histogram = self.histograms[0]
        self._widen(histogram)
        add_histogram(pre, rows, histogram)

    def _widen(self, histogram: Histogram) -> None:
        if self.tokens > _INT32 and histogram.counts.dtype == torch.int32:
            histogram.counts = histogram.counts.long()

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name, as it is stored."""
        kept = {name: getattr(self, name) for name in MOMENTS}
        if self.sample:
            kept["sample"] = torch.cat(self.sample)
        for number, histogram in enumerate(self.histograms):
            kept |= {f"{number}.{name}": tensor for name, tensor in histogram.tensors().items()}
        return kept

    @classmethod
    def of(cls, kept: Mapping[str, Tensor], tokens: int, dtype: torch.dtype, device: torch.device) -> LayerAccumulator:
        """The account that :meth:`tensors` was of."""
        account = cls(kept["positive"].shape[1], device)
        account.tokens, account.dtype = tokens, dtype
        for name in MOMENTS:
            setattr(account, name, kept[name].to(device))
        if "sample" in kept:
            account.sample = [kept["sample"].to(device)]
        while f"{len(account.histograms)}.counts" in kept:
            part = {
                name: kept[f"{len(account.histograms)}.{name}"].to(device)
                for name in ("centre", "below", "above", "counts")
            }
            counts = part.pop("counts")
            account.histograms.append(Histogram(Bins(**part), counts))
        return account

    def finish(self, activation: Activation) -> tuple[SiteValues, SiteValues]:
        """The values of the pre and the post site, tensors ``[width]`` and quantiles ``[levels, width]``.

        Args:
            activation: The non-linearity, applied to the edges of the bins.
        """
        parts = [self._quantiles(activation, start) for start in range(0, self.width, _FINISHED_AT_ONCE)]
        found = [[torch.cat(each, dim=1) for each in zip(*site, strict=True)] for site in zip(*parts, strict=True)]
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
                quantiles=self._pin(found[site][0], site),
                rank_error=found[site][1].index_select(0, RANKED).amax(0).float(),
            )
            for site in (0, 1)
        )

    def _quantiles(self, activation: Activation, start: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Quantiles and bounds on their rank error, ``[levels, neurons]``, of some neurons, at both sites."""
        part = slice(start, start + _FINISHED_AT_ONCE)

        def through(values: Tensor) -> Tensor:
            return activation(values.to(self.device, self.dtype)).cpu().double()

        if not self.histograms:
            sample = torch.cat(self.sample)[:, part].cpu()
            return _sampled(sample), _sampled(through(sample))
        low, high = self.min[0, part], self.max[0, part]
        lines = [outline(one.bins[part], one.counts[part], low, high, self.dtype) for one in self.histograms]
        edges = torch.cat([line for line, _ in lines], dim=1).cpu()
        # Nothing lies between the end of one histogram and the start of the next.
        gap = torch.zeros(len(low), 1, dtype=torch.float64, device=low.device)
        weights = torch.cat([each for _, counts in lines for each in (counts, gap)][:-1], dim=1).cpu()
        pre, error = quantiles(edges, weights, LEVELS)
        post, post_error = quantiles(through(edges), weights, LEVELS)
        # What came in 16 bits has no values in between.
        pre, post = pre.to(self.dtype).double(), post.to(self.dtype).double()
        # Where all below maps below and all above maps above, quantiles pass through the non-linearity as they are.
        passed = through(pre)
        alone = (passed >= passed.cummax(0).values) & (passed <= passed.flip(0).cummin(0).values.flip(0))
        return (pre, error), (torch.where(alone, passed, post), torch.where(alone, error, post_error))

    def _pin(self, found: Tensor, site: int) -> Tensor:
        """Quantiles within the exact extremes, which are the outermost levels."""
        low, high = self.min[site].cpu(), self.max[site].cpu()
        pinned = found.float().clamp(low, high)
        pinned[0], pinned[-1] = low, high
        return pinned.cummax(0).values.contiguous()


def _all(values: Tensor) -> Tensor:
    return torch.arange(len(values), device=values.device)


def sample_quantiles(sample: Tensor, levels: Tensor) -> Tensor:
    """Quantiles of whole samples ``[tokens, width]``: ``[levels, width]`` (float64), linearly interpolated."""
    ordered = sort_rows(sample.T).double()
    place = levels.to(ordered.device, torch.float64) * (ordered.shape[1] - 1)
    below, above = place.floor().long(), place.ceil().long()
    return torch.lerp(ordered[:, below], ordered[:, above], place - below).T


def _sampled(sample: Tensor) -> tuple[Tensor, Tensor]:
    found = sample_quantiles(sample, LEVELS)
    # Between two tokens next to each other in rank, interpolation is at most one off.
    return found, torch.full_like(found, 1 / len(sample))
