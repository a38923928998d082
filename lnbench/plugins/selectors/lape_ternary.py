"""``lape_ternary``: entropy less the largest activation probability, and three classes of neurons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.hookspecs import hookimpl
from lnbench.parameters import floor_field, rate_field

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics

TOLERANCE = 1e-3
"""The bisection ends when the penalty is known to this."""


@dataclass
class LapeTernary:
    """Entropy less a penalty times the largest activation probability; specific, related and general neurons.

    Paper: Zhang et al., https://arxiv.org/abs/2505.21505. With p_jk the share of language k's tokens on which neuron j
    is positive, p' its share of the sum over K languages, and H the entropy::

        score_j = H(p'_j) / ln K − penalty · max_k p_jk / H̄_K        H̄_K = (1 / K) Σ_{i=1..K} 1 / i

    The neurons of lowest score are selected; there are no candidates, as there are in LAPE. A neuron belongs to every
    language whose p_jk exceeds the bar, and to none if no language's does. Its class is ``specific`` with one language,
    ``related`` with more, ``general`` with all; the NeuronSet keeps them as ``classes``, and the penalty in
    ``derived``. Without a given ``penalty`` it is the largest in [0, ``most``], by bisection to 0.001, at which none is
    general; 0 where even that selects some. Neurons that no language activates have no p' and are not selected. Equal
    scores are taken in order of layer and index. The authors count generated tokens only; here all tokens count.
    ``rate=routed`` is that of ``lape``.
    """

    plain_name: ClassVar[str] = "ternary LAPE, top {top_fraction:share}"

    top_fraction: float = Field(default=0.01, gt=0, le=1, description="share of all neurons to select")
    bar: float = Field(default=0.95, gt=0, le=1, description="quantile of all activation probabilities that is the bar")
    penalty: float | None = Field(default=None, ge=0, description="λ; by bisection without one")
    most: float = Field(default=0.2, ge=0, description="the largest penalty that the bisection tries")
    rate: Literal["all", "routed"] = rate_field()
    floor: int = floor_field()

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:

        from lnbench.neurons import NeuronSet
        from lnbench.statistics.ranking import (
            best,
            check_several,
            classes_of,
            compared,
            existing,
            of_experts,
            of_languages,
            positive_rates,
            scores_above,
            upper_bar,
        )

        model, _, _ = check_several(statistics, "lape_ternary")
        rates = positive_rates(statistics, "lape_ternary", rate=self.rate, floor=self.floor)
        exists, units = existing(statistics), compared(statistics, self.rate, self.floor)
        above = rates > upper_bar(rates, units, self.bar, of_experts(statistics))
        count = round(self.top_fraction * int(exists.sum()))

        def at(penalty: float) -> tuple[Tensor, Tensor]:
            scores = -ternary_score(rates, penalty)
            return best(scores, count), scores

        penalty = self.penalty
        if penalty is None:
            penalty = _largest(lambda tried: not (at(tried)[0] & above.all(-1)).any(), self.most)
        chosen, scores = at(penalty)
        languages = above.sum(-1)
        kinds = {
            "specific": languages == 1,
            "related": (languages > 1) & (languages < len(statistics)),
            "general": languages == len(statistics),
        }
        return NeuronSet.from_masks(
            model,
            of_languages(statistics, chosen, above),
            scores=scores_above(statistics, scores, above),
            classes=classes_of({name: chosen & kind for name, kind in kinds.items()}),
            derived={"penalty": penalty},
        )


def ternary_score(rates: Tensor, penalty: float) -> Tensor:
    """Return each unit's score, the lower the more specific; infinite where no language activates it.

    Args:
        rates: ``[..., languages]``, share of tokens with a positive activation; NaN where there is no unit.
        penalty: λ.
    """
    import torch

    from lnbench.statistics.ranking import rounded

    languages = rates.shape[-1]
    harmonic = sum(1 / number for number in range(1, languages + 1)) / languages
    # In order of size, so that the sum does not depend on the order of the languages.
    rates = rates.sort(-1).values
    total, largest = rates.sum(-1, keepdim=True), rates[..., -1]
    shares = rates / total.clamp_min(torch.finfo(rates.dtype).tiny)
    entropy = -torch.special.xlogy(shares, shares).sum(-1) / torch.tensor(languages, dtype=rates.dtype).log()
    score = rounded(entropy - penalty * largest / harmonic)
    return torch.where(total.squeeze(-1) > 0, score, torch.inf)


def _largest(allowed: Callable[[float], Any], most: float) -> float:
    """Return the largest number in [0, most] that is allowed, by bisection; 0 where none is."""
    if allowed(most):
        return most
    low, high = 0.0, most
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("lape_ternary", LapeTernary)
