"""The built-in selectors: LAPE, Activation Probability, and random neurons as a control."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError, unknown
from lnbench.hookspecs import hookimpl
from lnbench.host import get_host
from lnbench.neurons import NeuronSet, draw_random
from lnbench.statistics.language_statistics import check_same_model

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.statistics import Statistics


@dataclass
class Lape:
    """Language Activation Probability Entropy: neurons active for few languages (Tang et al. 2024).

    A neuron whose activation probability is above a bar for at least one language is a candidate. The candidates of
    lowest entropy over languages are selected, and belong to every language that lifts them over the bar. Equal
    entropies are taken in order of layer and index.
    """

    top_fraction: float = Field(default=0.01, gt=0, le=1, description="share of all neurons to select")
    bar: float = Field(default=0.95, gt=0, le=1, description="quantile of all activation probabilities that is the bar")

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        model, layers, width = check_same_model(statistics)
        if len(statistics) < 2:
            raise LnbenchError(
                "LAPE compares languages, so it needs Statistics of at least two; act_prob works on one at a time"
            )
        rates = torch.stack([one.positive_rate.double() for one in statistics.values()], dim=-1)
        bar = _kth_smallest(rates.flatten(), self.bar)
        entropy = activation_entropy(rates).flatten()
        above = (rates > bar).view(-1, len(statistics))
        candidates = above.any(1).nonzero().squeeze(1)
        # Entropies that are equal by their formula differ in their last bits; rounding makes them equal again.
        order = entropy[candidates].mul(1e12).round().argsort(stable=True)
        chosen = torch.zeros(layers * width, dtype=torch.bool)
        chosen[candidates[order[: round(self.top_fraction * layers * width)]]] = True
        masks = {
            language: (chosen & above[:, number]).view(layers, width) for number, language in enumerate(statistics)
        }
        return NeuronSet.from_masks(model, masks)


def activation_entropy(rates: Tensor) -> Tensor:
    """LAPE of activation probabilities: the entropy in nats of each neuron's share per language.

    Args:
        rates: ``[..., languages]``, share of tokens with a positive activation.

    Returns:
        ``[...]``; 0 for a neuron that no language activates.
    """
    # In order of size, so that the sum does not depend on the order of the languages.
    rates = rates.sort(-1).values
    shares = rates / rates.sum(-1, keepdim=True).clamp_min(torch.finfo(rates.dtype).tiny)
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum(-1)
    return entropy


def _kth_smallest(values: Tensor, quantile: float) -> Tensor:
    smallest: Tensor = values.kthvalue(max(1, round(quantile * values.numel()))).values
    return smallest


@dataclass
class ActProb:
    """Activation Probability: neurons that most often exceed a percentile of the language's own activations.

    One language at a time. The percentile is taken over the activations pooled in ``scope``. Within ``neuron`` it is
    each neuron's own, which every neuron exceeds equally often, so nothing is ranked; ``model`` favours the layers
    with the largest activations; ``layer``, the default, compares neurons with others of the same scale. The preset
    ``paper`` is the published code: scope ``neuron``, the percentile estimated as the mean of the batches' own.
    """

    level: float = Field(default=0.9, gt=0, lt=1, description="level of the percentile")
    scope: Literal["layer", "model", "neuron"] = Field(default="layer", description="where activations are pooled")
    fraction: float = Field(default=0.00125, gt=0, le=1, description="share of all neurons to select per language")
    preset: Literal["none", "paper"] = Field(default="none", description="paper: as in the published code")

    @property
    def batch_levels(self) -> tuple[float, ...]:
        """The levels whose batch means the Statistics must hold."""
        return (self.level,) if self.preset == "paper" else ()

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        model, layers, width = check_same_model(statistics)
        count = round(self.fraction * layers * width)
        masks = {}
        for language, one in statistics.items():
            relevance = one.exceedance(self._threshold(one)).flatten()
            mask = torch.zeros(layers * width, dtype=torch.bool)
            mask[relevance.argsort(descending=True, stable=True)[:count]] = True
            masks[language] = mask.view(layers, width)
        return NeuronSet.from_masks(model, masks)

    def _threshold(self, statistics: Statistics) -> Tensor:
        if self.preset == "none":
            return statistics.pooled_quantile(self.level, self.scope)
        kept = statistics.batch_quantiles.get(statistics.site, {})
        if self.level not in kept:
            raise LnbenchError(
                f"act_prob:preset=paper needs the mean of the batches' {self.level:g}-quantiles, which these "
                f"Statistics of {statistics.language!r} lack; collect them with "
                f"lnbench stats --batch-level {self.level:g}"
            )
        return kept[self.level]


@dataclass
class Random:
    """Random neurons, a control: as many per layer and language as a NeuronSet has, or a fraction of every layer.

    Beside a NeuronSet, a language's own neurons are not drawn, unless they leave too few in a layer. The NeuronSet is a
    file's, or what another selector finds in the same Statistics.
    """

    like: str | None = Field(
        default=None,
        description="NeuronSet file to match by layer and language, or a selector: name or [name:key=value]",
    )
    fraction: float = Field(default=0.01, gt=0, le=1, description="share of each layer, without a file to match")
    seed: int = Field(default=0, ge=0, description="another seed draws other neurons")

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        model, layers, width = check_same_model(statistics)
        if self.like is None:
            none = torch.zeros(layers, width, dtype=torch.bool)
            counts = torch.full((layers,), round(self.fraction * width))
            return NeuronSet.from_masks(
                model, {language: draw_random(language, counts, none, self.seed) for language in statistics}
            )
        matched = self._matched(statistics)
        matched.check(model, layers, width)
        missing = [language for language in statistics if language not in matched.languages]
        if missing:
            raise unknown("language", missing[0], matched.languages, f"{self.like} has no neurons to match for it")
        return NeuronSet.from_masks(
            model,
            {
                language: draw_random(language, matched.per_layer(language), matched.mask(language), self.seed)
                for language in statistics
            },
        )

    @property
    def batch_levels(self) -> tuple[float, ...]:
        """What the selector that is matched needs."""
        inner = self._selector
        return tuple(getattr(get_host().resolve("selector", inner), "batch_levels", ())) if inner else ()

    @property
    def _selector(self) -> str | None:
        """The selector to match, where it is no file."""
        inner = (self.like or "").removeprefix("[").removesuffix("]")
        return inner if inner.partition(":")[0] in get_host().names("selector") and not Path(inner).exists() else None

    def _matched(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        from lnbench.choices import select

        return select(self._selector, statistics) if self._selector else NeuronSet.load(str(self.like))


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("lape", Lape)
    register("act_prob", ActProb)
    register("random", Random)
