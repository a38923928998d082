"""``attribution``: units whose values matter to the loss in few languages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError
from lnbench.hookspecs import Needs, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics


@dataclass
class Attribution:
    """Units by |activation · gradient|, against the other languages or by LAPE over it (kinit-sk 2026).

    Code: https://github.com/kinit-sk/language-neuron-detection, its value ``grad_act``. With L the negative
    log-likelihood of the text, of token t of T_k::

        q_jk = 1 / T_k Σ_t |a_j(t) · ∂L/∂a_j(t)|                 statistic=mean
        q_jk = 1 / T_k Σ_t [|a_j(t) · ∂L/∂a_j(t)| > threshold]   statistic=share

    ``rank=contrast`` takes for each language the ``fraction`` of the units of highest q_jk − mean over l ≠ k of q_jl.
    ``rank=lape`` is LAPE with q in place of the activation probability: of the units over the ``bar`` in some language,
    the ``top_fraction`` of lowest entropy over languages. Equal ones are taken in order of layer and index.
    """

    plain_name: ClassVar[str] = "gradient attribution"

    rank: Literal["contrast", "lape"] = Field(default="contrast", description="less the other languages' mean, or LAPE")
    statistic: Literal["mean", "share"] = Field(default="mean", description="mean over tokens, or share over threshold")
    threshold: float = Field(default=0.001, ge=0, description="of statistic=share, in nats")
    fraction: float = Field(
        default=0.00125, gt=0, le=1, description="of rank=contrast: share of all units to select per language"
    )
    top_fraction: float = Field(default=0.01, gt=0, le=1, description="of rank=lape: share of all units to select")
    bar: float = Field(default=0.95, gt=0, le=1, description="of rank=lape: quantile of all q that is the bar")
    site: str = Field(default="post", description="site of the units")

    @property
    def needs(self) -> Needs:
        """The attributions, which take a backward pass."""
        return Needs(measures=(self._measure,))

    @property
    def _measure(self) -> str:
        return f"attribution:site={self.site}:threshold={self.threshold}"

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        import torch

        from lnbench.neurons import NeuronSet
        from lnbench.plugins.selectors.lape import activation_entropy
        from lnbench.statistics.ranking import (
            best,
            best_of_each,
            check_several,
            check_site,
            contrasts,
            existing,
            of_languages,
            scores_above,
            upper_bar,
        )

        model, _, _ = check_several(statistics, "attribution")
        check_site(statistics, "attribution", self.site)
        exists = existing(statistics)
        attributed = {language: self._of(own) for language, own in statistics.items()}
        if self.rank == "contrast":
            masks, scores = best_of_each(contrasts(attributed), self.fraction, exists)
            return NeuronSet.from_masks(model, masks, scores=scores)
        shares = torch.stack(list(attributed.values()), dim=-1)
        if bool((shares[exists] == shares[exists][0, 0]).all()):
            raise LnbenchError(
                f"attribution:statistic={self.statistic} is {float(shares[exists][0, 0]):g} for every unit in every "
                "language, so it tells nothing apart; pass another threshold, or statistic=mean"
            )
        above = (shares > upper_bar(shares, exists, self.bar)) & exists.unsqueeze(-1)
        low_entropy = -activation_entropy(shares).mul(1e12).round()
        chosen = best(torch.where(above.any(-1), low_entropy, -torch.inf), round(self.top_fraction * int(exists.sum())))
        masks, scores = of_languages(statistics, chosen, above), scores_above(statistics, low_entropy, above)
        return NeuronSet.from_masks(model, masks, scores=scores)

    def _of(self, statistics: Statistics) -> Tensor:
        measured = statistics.measure(self._measure)
        counted = measured["sums" if self.statistic == "mean" else "above"]
        return counted.double() / measured["tokens"].clamp_min(1).unsqueeze(-1)


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("attribution", Attribution)
