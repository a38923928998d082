"""Statistics of one language's text: per neuron, moments and a quantile function, at both sites."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lnbench.errors import LnbenchError, unknown
from lnbench.files import fingerprint
from lnbench.host import get_host
from lnbench.model.architectures import NEURON_SITES, layout_of, units_at
from lnbench.model.layout import ExpertsLayout
from lnbench.model.names import name_in_file
from lnbench.shown import Shown
from lnbench.statistics import store
from lnbench.statistics.site_values import LEVELS, SiteValues, digest

Scope = Literal["neuron", "layer", "model"]


@dataclass(frozen=True)
class Statistics(Shown):
    """Activations of every neuron of a model on one language's text.

    The moments and quantiles are those of ``site``; :meth:`at` returns the same pass seen at another one.

    Args:
        language: Language code.
        tokens: Tokens counted (BOS and padding are not).
        site: ``post`` (output of the non-linearity), ``pre`` (its input), or another that was counted.
        sites: Site → :class:`SiteValues`.
        provenance: What the numbers come from: model, tokenizer, corpus (see :func:`describe_model`).
        batch_quantiles: Site → level → ``[layers, width]``: the mean over batches of each batch's quantile. This is
            the published estimate of a percentile, which is not the percentile; kept only where asked for.
        measures: Choice of a measure (``name:key=value``) → name → tensor, where asked for.
        experts: Where the neurons of experts are, in a mixture of experts. A token that is not routed to an expert
            counts as not active there; moments and quantiles are those of the tokens that are, and NaN if none was.
        routed: ``[experts of all banks]`` (float64), share of the tokens that were routed to each.
    """

    language: str
    tokens: int
    site: str
    sites: Mapping[str, SiteValues]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    batch_quantiles: Mapping[str, Mapping[float, Tensor]] = field(default_factory=dict)
    measures: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    experts: tuple[ExpertsLayout, ...] = ()
    routed: Tensor | None = None

    def __post_init__(self) -> None:
        if self.site not in self.sites:
            site = self.site
            hint = (
                f"Collect Statistics of {self.language!r} with lnbench stats --site {site}, or --also-site {site} "
                f"beside another; in Python with sites=({site!r},)"
            )
            raise unknown("site", self.site, self.sites, hint)

    def __repr__(self) -> str:
        units = f"{layout_of(self.widths)} {units_at(self.site)}"
        return f"Statistics({self.language!r}, {self.model!r}, {units}, {self.tokens:,} tokens, site={self.site!r})"

    def at(self, site: str) -> Statistics:
        """Return the same Statistics, seen at ``site``.

        Raises:
            LnbenchError: that site was not counted.
        """
        return self if site == self.site else replace(self, site=site)

    @property
    def values(self) -> SiteValues:
        """The values of this site."""
        return self.sites[self.site]

    @property
    def per_coordinate(self) -> Statistics:
        """The same of every coordinate of each unit: tensors ``[layers, width, unit_size]`` where units have several.

        These are what an intervention writes by; of units with one coordinate they are the Statistics themselves.
        """
        own = self.values.coordinates
        return self if own is None else replace(self, sites={**self.sites, self.site: own})

    @property
    def unit_size(self) -> int:
        """Coordinates of one unit; of the largest where layers differ."""
        own = self.values.coordinates
        return 1 if own is None else own.mean.shape[-1]

    @property
    def positive_rate(self) -> Tensor:
        """``[layers, width]``, share of tokens with a value above 0: the activation probability of LAPE.

        Of all tokens, also at experts: one that a token is not routed to is not active there.
        """
        return self.values.positive_rate

    @cached_property
    def routed_share(self) -> Tensor:
        """``[layers, width]``, share of tokens at which a neuron was run: below 1 at experts only (float64)."""
        share = torch.where(self.exists, 1.0, torch.nan).double()
        for layout, own, expert in self._each_expert():
            share[layout.layer, own] = float(self.routed[expert])  # type: ignore[index]
        return share

    @cached_property
    def routed_tokens(self) -> Tensor:
        """``LongTensor[layers, width]``, tokens at which a neuron was run."""
        return (self.routed_share.nan_to_num(0) * self.tokens).round().long()

    @property
    def routed_rate(self) -> Tensor:
        """``[layers, width]``, the activation probability over the tokens at which a neuron was run; NaN if none."""
        return self.positive_rate / self.routed_share

    @cached_property
    def of_experts(self) -> Tensor:
        """``BoolTensor[layers, width]``, true at the neurons of experts, of which each token runs some."""
        routed = torch.zeros_like(self.exists)
        for layout in self._layouts:
            routed[layout.layer, layout.start : layout.start + layout.neurons] = True
        return routed

    @property
    def _layouts(self) -> tuple[ExpertsLayout, ...]:
        return self.experts if self.site in NEURON_SITES else ()

    def _each_expert(self) -> Iterator[tuple[ExpertsLayout, slice, int]]:
        """Yield each expert's bank and neurons, and its number among all experts."""
        number = 0
        for layout in self._layouts:
            for _, own in layout.parts():
                yield layout, own, number
                number += 1

    @property
    def mean(self) -> Tensor:
        """``[layers, width]``, mean over tokens."""
        return self.values.mean

    @property
    def std(self) -> Tensor:
        """``[layers, width]``, population standard deviation over tokens."""
        return self.values.std

    @property
    def min(self) -> Tensor:
        """``[layers, width]``, the smallest value seen."""
        return self.values.min

    @property
    def max(self) -> Tensor:
        """``[layers, width]``, the largest value seen."""
        return self.values.max

    @property
    def rank_error(self) -> Tensor:
        """``[layers, width]``, a bound on the error of the quantiles, as a share of the tokens."""
        return self.values.rank_error

    @property
    def model(self) -> str:
        """The model's name."""
        return name_in_file(str(self.provenance.get("model", "")))

    @property
    def chat(self) -> bool | None:
        """Whether the text was in the model's chat template; None where they are not of a corpus, which records it."""
        return bool(self.provenance.get("chat")) if {"corpus", "chat"} & self.provenance.keys() else None

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.mean.shape[0]

    @property
    def width(self) -> int:
        """Units per layer; of the widest, where layers differ."""
        return self.mean.shape[1]

    @cached_property
    def exists(self) -> Tensor:
        """``BoolTensor[layers, width]``: false where a layer has fewer neurons; every number is NaN there."""
        exist = ~self.positive_rate.isnan()
        return exist if exist.ndim == 2 else exist.any(-1)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Units of each layer; 0 in one that has none."""
        return tuple(self.exists.sum(1).tolist())

    @property
    def fingerprint(self) -> str:
        """A hash of these numbers, their language and the site they show, in 16 hexadecimal digits."""
        digests = sorted((site, values.digest) for site, values in self.sites.items())
        measured = [
            [choice, sorted((name, digest(tensor)) for name, tensor in tensors.items())]
            for choice, tensors in sorted(self.measures.items())
        ]
        routed = [] if self.routed is None else [self.experts, self.routed.tolist()]
        return fingerprint([self.language, self.tokens, self.site, digests, *measured, *routed])

    def measure(self, choice: str) -> Mapping[str, Tensor]:
        """Return the tensors of one measure, by name.

        Raises:
            LnbenchError: these Statistics lack it.
        """
        name = get_host().format("measure", choice)
        if name not in self.measures:
            hint = (
                f"Collect Statistics of {self.language!r} with lnbench stats --measure {choice}; in Python with "
                f"measures=({choice!r},)"
            )
            raise unknown("measure", choice, self.measures, hint)
        return self.measures[name]

    def quantile(self, q: float) -> Tensor:
        """Return the ``q``-quantile of every neuron, ``[layers, width]``; linear between the kept levels.

        Raises:
            LnbenchError: ``q`` is not between 0 and 1.
        """
        _check_level(q)
        kept = self.values.quantiles
        upper = int(torch.searchsorted(LEVELS, torch.tensor(q, dtype=torch.float64) - 1e-12))
        upper = min(upper, len(LEVELS) - 1)
        high = float(LEVELS[upper])
        if abs(high - q) < 1e-9 or upper == 0:
            return kept[upper].clone()
        low = float(LEVELS[upper - 1])
        return torch.lerp(kept[upper - 1], kept[upper], (q - low) / (high - low))

    def exceedance(self, threshold: float | Tensor) -> Tensor:
        """Return the share of tokens whose value exceeds ``threshold``, ``[layers, width]``; exact for 0.

        A token that is not routed to an expert has no value there, so none that exceeds anything.

        Args:
            threshold: A number, or a tensor that broadcasts to ``[layers, width]``.
        """
        return self._exceedance(self._grid(), torch.as_tensor(threshold))

    def pooled_quantile(self, q: float, scope: Scope = "model") -> Tensor:
        """Return the ``q``-quantile of values pooled over neurons; broadcasts to ``[layers, width]``.

        Neurons of experts are pooled by themselves: over the values of the tokens routed there.

        Args:
            q: Level, between 0 and 1.
            scope: ``neuron`` (nothing is pooled, ``[layers, width]``), ``layer`` (``[layers, 1]``) or ``model``
                (``[1, 1]``).

        Raises:
            LnbenchError: ``q`` is not between 0 and 1, or an unknown scope.
        """
        if scope not in get_args(Scope):
            raise unknown("scope", scope, get_args(Scope))
        if scope == "neuron":
            return self.quantile(q)
        _check_level(q)
        axes = (1,) if scope == "layer" else (0, 1)
        if not self._layouts:
            return self._pooled(q, axes, self.exists)
        pooled = self._pooled(q, axes, self.exists & ~self.of_experts).expand(self.exists.shape)
        return torch.where(self.of_experts, self._pooled(q, axes, self.of_experts), pooled)

    def _pooled(self, q: float, axes: tuple[int, ...], among: Tensor) -> Tensor:
        grid = self._grid()
        low = self.min.double().where(among, torch.inf).nan_to_num(torch.inf).amin(axes, keepdim=True)
        high = self.max.double().where(among, -torch.inf).nan_to_num(-torch.inf).amax(axes, keepdim=True)
        there = self.routed_share.where(among, torch.nan).nanmean(axes, keepdim=True)
        # The pooled distribution is the mean of the neurons' own, so bisect its exceedance.
        for step in range(50):
            # First the lowest value itself: where most values tie there, it is the quantile.
            middle = (low + high) / 2 if step else low
            exceeding = self._exceedance(grid, middle.float()).where(among, torch.nan)
            too_low = exceeding.nanmean(axes, keepdim=True) > (1 - q) * there
            low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
        return high.float()

    def _grid(self) -> Tensor:
        """Return the quantile function of every neuron, ``[layers, width, levels]``."""
        return self.values.quantiles.permute(1, 2, 0).contiguous()

    def _exceedance(self, grid: Tensor, threshold: Tensor) -> Tensor:
        """Return the share of tokens above ``threshold``, ``[layers, width]``, by quantile functions."""
        point = threshold.to(grid.dtype).broadcast_to(grid.shape[:2]).contiguous().unsqueeze(-1)
        # right=True counts the levels whose quantile does not exceed the threshold, so ties do not exceed it.
        above = torch.searchsorted(grid, point, right=True)
        upper = above.clamp(1, len(LEVELS) - 1)
        y0, y1 = grid.gather(-1, upper - 1), grid.gather(-1, upper)
        share = ((point - y0).double() / (y1 - y0).double().clamp_min(torch.finfo(torch.float32).tiny)).clamp(0, 1)
        below = LEVELS[upper - 1] + share * (LEVELS[upper] - LEVELS[upper - 1])
        below = torch.where(above == 0, 0.0, torch.where(above == len(LEVELS), 1.0, below))
        share = (1 - below).squeeze(-1)
        # At 0, where values of many neurons tie, the share is known exactly, and bounds it on either side.
        point, exact = point.squeeze(-1), self.positive_rate
        share = share.masked_fill(~self.exists, torch.nan)
        if self._layouts:
            share = torch.where(self.routed_share == 0, 0.0, share * self.routed_share)
        share = torch.where(point >= 0, torch.minimum(share, exact), torch.maximum(share, exact))
        return torch.where(point == 0, exact, share)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Add this language to a Statistics folder; see :mod:`lnbench.statistics.store`."""
        return store.save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | os.PathLike[str], language: str) -> Statistics:
        """Read one language of a Statistics folder.

        Raises:
            LnbenchError: no such folder or language, another format, a truncated file, or numbers that are not those
                that were written.
        """
        arguments, written = store.load(Path(folder), language)
        loaded = cls(**arguments)
        # The fingerprint is of all sites; a file from which one was taken out has none of its own.
        if written is not None and len(loaded.sites) > 1 and loaded.fingerprint != written:
            raise LnbenchError(
                f"the Statistics of {language!r} in {folder} are not those that were written (fingerprint "
                f"{loaded.fingerprint}, not {written}): the files are damaged or were changed; collect them again"
            )
        return loaded


def _check_level(q: float) -> None:
    if not 0 <= q <= 1:
        raise LnbenchError(f"a quantile's level lies between 0 and 1, got {q}")


def check_same_model(statistics: Mapping[str, Statistics]) -> tuple[str, int, int]:
    """Return the model, layers and width that several languages' Statistics share.

    Raises:
        LnbenchError: there are none, or they come from different models or show different sites.
    """
    if not statistics:
        raise LnbenchError("no Statistics given: name at least one language")
    first = next(iter(statistics.values()))
    expected = _identity(first)
    for language, other in statistics.items():
        for name, value in _identity(other).items():
            if value != expected[name]:
                raise LnbenchError(
                    f"these Statistics come from different models or sites: {name} is {expected[name]!r} for "
                    f"{first.language!r} and {value!r} for {language!r}; collect them alike"
                )
    return first.model, first.layers, first.width


def _identity(statistics: Statistics) -> dict[str, Any]:
    names = ("layers", "widths", "experts", "site")
    source = {"model": Path(statistics.model).name, "weights": statistics.provenance.get("weights")}
    return source | {name: getattr(statistics, name) for name in names}
