"""``act_prob``: Activation Probability."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError
from lnbench.hookspecs import Needs, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics


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
    def needs(self) -> Needs:
        """The published estimate of the percentile, for the preset ``paper``."""
        return Needs(batch_levels=(self.level,) if self.preset == "paper" else ())

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        import torch

        from lnbench.neurons import NeuronSet
        from lnbench.statistics.language_statistics import check_same_model

        model, layers, width = check_same_model(statistics)
        count = round(self.fraction * int(next(iter(statistics.values())).exists.sum()))
        masks = {}
        for language, own in statistics.items():
            relevance = own.exceedance(self._threshold(own)).masked_fill(~own.exists, -1).flatten()
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


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("act_prob", ActProb)
