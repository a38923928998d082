"""``lape``: Language Activation Probability Entropy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError
from lnbench.hookspecs import hookimpl
from lnbench.parameters import ADDED, floor_field, rate_field

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics


@dataclass
class Lape:
    """Language Activation Probability Entropy: neurons active for few languages (Tang et al. 2024).

    Paper: https://arxiv.org/abs/2402.16438. With p_jk the share of language k's tokens on which neuron j is positive,
    and p'_jk = p_jk / Σ_l p_jl::

        LAPE_j = − Σ_k p'_jk ln p'_jk

    A neuron whose activation probability is above a bar for at least one language is a candidate. The candidates of
    lowest entropy are selected, and belong to every language that lifts them over the bar. Equal entropies are taken in
    order of layer and index.

    ``balanced`` gives every language as many: of the neurons that it lifts over the bar, those of lowest entropy, so
    many that all languages together have ``top_fraction`` of all neurons. Where a language has fewer, all get as few as
    that one, with a warning.

    Experts: a token that is not routed to one counts as not active there (``rate=all``), so that every neuron of a
    language's expert looks like the language's; ``rate=routed`` takes the share of routed tokens instead, where every
    language routes ``floor`` tokens there. Neurons of experts and others have a bar each. No published method.
    """

    plain_name: ClassVar[str] = "LAPE, top {top_fraction:share}"

    top_fraction: float = Field(default=0.01, gt=0, le=1, description="share of all neurons to select")
    bar: float = Field(default=0.95, gt=0, le=1, description="quantile of all activation probabilities that is the bar")
    balanced: bool = Field(
        default=False, description="as many neurons for every language", json_schema_extra={ADDED: True}
    )
    rate: Literal["all", "routed"] = rate_field()
    floor: int = floor_field()

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        import torch

        from lnbench.neurons import NeuronSet
        from lnbench.statistics import ranking
        from lnbench.statistics.ranking import best, check_several, existing, positive_rates

        model, _, _ = check_several(statistics, "LAPE")
        rates, exists = positive_rates(statistics, "LAPE", rate=self.rate, floor=self.floor), existing(statistics)
        compared = ranking.compared(statistics, self.rate, self.floor)
        above = rates > ranking.upper_bar(rates, compared, self.bar, ranking.of_experts(statistics))
        # Entropies that are equal by their formula differ in their last bits; rounding makes them equal again.
        low_entropy = -activation_entropy(rates).mul(1e12).round()
        scores = ranking.scores_above(statistics, low_entropy, above)
        count = round(self.top_fraction * int(exists.sum()))
        if self.balanced:
            count = self._of_each(count, {language: int((own > -torch.inf).sum()) for language, own in scores.items()})
            masks = {language: best(own, count) for language, own in scores.items()}
        else:
            chosen = best(torch.where(above.any(-1), low_entropy, -torch.inf), count)
            masks = ranking.of_languages(statistics, chosen, above)
        return NeuronSet.from_masks(model, masks, scores=scores)

    def _of_each(self, count: int, available: Mapping[str, int]) -> int:
        """Return how many neurons every language gets, of ``count`` together.

        Raises:
            LnbenchError: a language has none.
        """
        from lnbench.files import warn_once

        wanted = round(count / len(available))
        fewest = min(available, key=lambda language: available[language])
        if available[fewest] == 0 < wanted:
            raise LnbenchError(
                f"lape:balanced=true gives every language as many neurons, and {fewest!r} lifts none over the bar; "
                "lower the bar, as bar=0.9, or leave the language out"
            )
        if available[fewest] < wanted:
            warn_once(
                f"lape:balanced=true: {fewest} lifts {available[fewest]} neurons over the bar, fewer than {wanted}; "
                "every language gets so few"
            )
        return min(wanted, available[fewest])


def activation_entropy(rates: Tensor) -> Tensor:
    """Return the LAPE of activation probabilities: the entropy in nats of each neuron's share per language.

    Args:
        rates: ``[..., languages]``, share of tokens with a positive activation.

    Returns:
        ``[...]``; 0 for a neuron that no language activates.
    """
    import torch

    # In order of size, so that the sum does not depend on the order of the languages.
    rates = rates.sort(-1).values
    shares = rates / rates.sum(-1, keepdim=True).clamp_min(torch.finfo(rates.dtype).tiny)
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum(-1)
    return entropy


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("lape", Lape)
