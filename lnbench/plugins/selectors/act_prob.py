"""``act_prob``: Activation Probability."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError
from lnbench.hookspecs import Needs, hookimpl
from lnbench.parameters import floor_field, rate_field

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics


@dataclass
class ActProb:
    """Activation Probability: neurons that exceed a percentile of activations more often than in other languages.

    The percentile is taken over a language's activations pooled in ``scope``, and a neuron's relevance is the share of
    tokens above it. Neurons are ranked by their relevance less its mean over the other languages. With
    ``against=none`` each language is ranked by its relevance alone, which finds the neurons that are always active,
    whatever the language. The preset ``paper`` is the published code: scope ``neuron``, the percentile estimated as the
    mean of the batches' own, and no other languages. It is degenerate: every neuron exceeds its own percentile equally
    often, so that it ranks by the error of the estimate.

    Experts: relevance is the share of all tokens, of which those that are not routed to an expert exceed nothing there;
    ``rate=routed`` takes the share of routed tokens, where every language routes ``floor`` tokens there.
    """

    plain_name: ClassVar[str] = "Activation Probability, top {fraction:share}"

    level: float = Field(default=0.9, gt=0, lt=1, description="level of the percentile")
    scope: Literal["layer", "model", "neuron"] = Field(default="layer", description="where activations are pooled")
    fraction: float = Field(default=0.00125, gt=0, le=1, description="share of all neurons to select per language")
    against: Literal["others", "none"] = Field(
        default="others", description="what is taken off a language's relevance: the other languages' mean, or nothing"
    )
    preset: Literal["none", "paper"] = Field(
        default="none", description="paper: as in the published code, which is degenerate: it hardly ranks"
    )
    rate: Literal["all", "routed"] = rate_field()
    floor: int = floor_field()

    @property
    def needs(self) -> Needs:
        """The published estimate of the percentile, for the preset ``paper``."""
        return Needs(batch_levels=(self.level,) if self.preset == "paper" else ())

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        from lnbench.files import warn_once
        from lnbench.neurons import NeuronSet
        from lnbench.statistics.language_statistics import check_same_model
        from lnbench.statistics.ranking import best_of_each, existing, shares_of_routed

        model, _, _ = check_same_model(statistics)
        if self.preset == "paper":
            warn_once(
                "act_prob:preset=paper is degenerate: every neuron exceeds its own percentile on the same share of "
                "tokens, so it ranks by the error of the estimated percentile, not by language; it is there to compare "
                "with the paper"
            )
        relevance = {language: own.exceedance(self._threshold(own)) for language, own in statistics.items()}
        if self.rate == "routed":
            relevance = shares_of_routed(statistics, relevance, self.floor)
        scores = relevance if self.preset == "paper" or self.against == "none" else self._contrast(relevance)
        masks, scores = best_of_each(scores, self.fraction, existing(statistics))
        return NeuronSet.from_masks(model, masks, scores=scores)

    def _contrast(self, relevance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each language's relevance less its mean over the other languages."""
        from lnbench.statistics.ranking import contrasts

        if len(relevance) < 2:
            raise LnbenchError(
                "act_prob compares a language with others, so it needs Statistics of at least two; "
                "act_prob:against=none ranks one by itself, and finds neurons that are active whatever the language"
            )
        return contrasts(relevance)

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


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("act_prob", ActProb)
