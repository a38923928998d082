"""``language_dimensions``: the residual dimensions whose means differ most between languages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError, unknown
from lnbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics


@dataclass
class LanguageDimensions:
    """Dimensions of the residual stream whose means differ most between languages (Zhong et al. 2026).

    Paper: https://arxiv.org/abs/2510.07213. With μ_lk the mean over language k's text of what block l passes on, the
    ``count`` dimensions of largest absolute difference in one layer, the last by default::

        |μ_lk − μ_ls|

    s is the language ``source``; without one, μ_ls is the mean over the other languages, which of two languages is the
    other one. The source itself gets no dimensions. It reads sites of the residual stream, not of neurons. Equal
    differences are taken in order of index.
    """

    plain_name: ClassVar[str] = "language dimensions, {count:,}"

    count: int = Field(default=400, ge=1, description="dimensions per language")
    layer: int = Field(default=-1, description="the layer, from 0; from the last, -1, if negative")
    source: str | None = Field(default=None, description="language that the others are compared with")

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        import torch

        from lnbench.model.architectures import ATTENTION, BANK_SITES
        from lnbench.neurons import NeuronSet
        from lnbench.statistics.ranking import best, check_several, existing

        model, layers, width = check_several(statistics, "language_dimensions")
        if (site := next(iter(statistics.values())).site) in (*BANK_SITES, ATTENTION):
            raise LnbenchError(
                f"language_dimensions compares means of the residual stream, and these Statistics are of the site "
                f"{site!r}; choose site=residual, or the selector mean_difference:side=both"
            )
        if not -layers <= self.layer < layers:
            raise LnbenchError(
                f"language_dimensions:layer={self.layer}: layers are 0 to {layers - 1}, or -1 to -{layers}"
            )
        exists = torch.zeros(layers, width, dtype=torch.bool)
        exists[self.layer] = existing(statistics)[self.layer]
        if self.count > (dimensions := int(exists.sum())):
            raise LnbenchError(
                f"language_dimensions:count={self.count}: layer {self.layer % layers} has {dimensions} dimensions"
            )
        scores = {
            language: torch.where(exists, difference.abs(), -torch.inf)
            for language, difference in self._differences(statistics).items()
        }
        masks = {language: best(own, self.count) for language, own in scores.items()}
        if self.source is not None:
            masks[self.source] = torch.zeros_like(exists)
        return NeuronSet.from_masks(model, masks, scores=scores)

    def _differences(self, statistics: Mapping[str, Statistics]) -> dict[str, Tensor]:
        from lnbench.statistics.ranking import contrasts

        if self.source is None:
            return contrasts({language: own.mean for language, own in statistics.items()})
        if self.source not in statistics:
            raise unknown("language", self.source, statistics, "language_dimensions:source= names one that is compared")
        source = statistics[self.source].mean.double()
        return {language: own.mean.double() - source for language, own in statistics.items() if language != self.source}


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("language_dimensions", LanguageDimensions)
