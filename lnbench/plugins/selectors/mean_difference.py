"""``mean_difference``: units whose mean differs between languages, as such or in standard deviations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics


@dataclass
class MeanDifference:
    """Units whose mean in a language is farthest from their mean in the others: monolinguality (Deng et al. 2025).

    Paper: https://arxiv.org/abs/2505.05111. With m_jk unit j's mean over the text of language k, of K::

        ν_jk = m_jk − 1 / (K − 1) Σ_{l ≠ k} m_jl

    ``standardised`` divides by the spread within languages, which is Cohen's d of a language against the others (with
    two languages, the usual one of two samples of one size)::

        d_jk = ν_jk / √((s²_jk + 1 / (K − 1) Σ_{l ≠ k} s²_jl) / 2)

    It is 0 where a unit is the same constant in all languages, and infinite where it is another constant in one.
    Means are of tokens, and any site has them. Equal contrasts are taken in order of layer and index.
    """

    plain_name: ClassVar[str] = "mean difference, top {fraction:share}"

    fraction: float = Field(default=0.00125, gt=0, le=1, description="share of all units to select per language")
    standardised: bool = Field(default=False, description="in standard deviations: Cohen's d")
    side: Literal["above", "below", "both"] = Field(
        default="above", description="units above the other languages, below them, or farthest on either side"
    )

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        from lnbench.neurons import NeuronSet
        from lnbench.statistics.ranking import best_of_each, check_several, contrasts, existing, ranked_by

        model, _, _ = check_several(statistics, "mean_difference")
        differences = contrasts({language: own.mean for language, own in statistics.items()})
        if self.standardised:
            differences = standardised(differences, {language: own.std for language, own in statistics.items()})
        ranked = {language: ranked_by(own, self.side) for language, own in differences.items()}
        masks, scores = best_of_each(ranked, self.fraction, existing(statistics))
        return NeuronSet.from_masks(model, masks, scores=scores)


def standardised(differences: Mapping[str, Tensor], spreads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return differences to the other languages in pooled standard deviations, see :class:`MeanDifference`.

    Args:
        differences: Language → ``[layers, width]``.
        spreads: Language → standard deviation over tokens, ``[layers, width]``.
    """
    import torch

    from lnbench.statistics.ranking import rounded

    variances = {language: own.double().square() for language, own in spreads.items()}
    total = torch.stack(list(variances.values())).sort(0).values.sum(0)
    effects = {}
    for language, own in variances.items():
        pooled = ((own + (total - own) / (len(variances) - 1)) / 2).sqrt()
        # 0 / 0: a unit that is the same constant in all languages tells nothing apart.
        effects[language] = rounded(torch.where(differences[language] == 0, 0.0, differences[language] / pooled))
    return effects


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("mean_difference", MeanDifference)
