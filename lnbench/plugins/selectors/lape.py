"""``lape``: Language Activation Probability Entropy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError
from lnbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.neurons import NeuronSet
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
        import torch

        from lnbench.neurons import NeuronSet
        from lnbench.statistics.language_statistics import check_same_model

        model, layers, width = check_same_model(statistics)
        if len(statistics) < 2:
            raise LnbenchError(
                "LAPE compares languages, so it needs Statistics of at least two; act_prob:against=none takes one at a "
                "time"
            )
        rates = torch.stack([own.positive_rate.double() for own in statistics.values()], dim=-1)
        exists = next(iter(statistics.values())).exists
        known = rates[exists].flatten()
        bar = known.kthvalue(max(1, round(self.bar * len(known)))).values
        entropy = activation_entropy(rates).flatten()
        above = (rates > bar).view(-1, len(statistics))
        candidates = above.any(1).nonzero().squeeze(1)
        # Entropies that are equal by their formula differ in their last bits; rounding makes them equal again.
        entropy = entropy.mul(1e12).round()
        order = entropy[candidates].argsort(stable=True)
        chosen = torch.zeros(layers * width, dtype=torch.bool)
        chosen[candidates[order[: round(self.top_fraction * int(exists.sum()))]]] = True
        masks = {
            language: (chosen & above[:, number]).view(layers, width) for number, language in enumerate(statistics)
        }
        scores = {
            language: torch.where(above[:, number], -entropy, -torch.inf).view(layers, width)
            for number, language in enumerate(statistics)
        }
        return NeuronSet.from_masks(model, masks, scores=scores)


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
