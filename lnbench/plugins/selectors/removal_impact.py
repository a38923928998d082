"""``removal_impact``: neurons whose removal matters in every text of a language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError, unknown
from lnbench.hookspecs import Needs, hookimpl

if TYPE_CHECKING:
    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics


@dataclass
class RemovalImpact:
    """Neurons among the first of their layer, by the impact of removing them, in every text: PLND (Zhao et al. 2024).

    Paper: https://arxiv.org/abs/2402.18815. With h the feed-forward's output on text x of language k::

        impact_j(x) = ‖h without neuron j − h‖           variant=paper
        impact_j(x) = Σ_t |up_proj(x_t)_j|               variant=code

    In every layer and text the ``count`` (or ``fraction``) neurons of largest impact are kept; a language's neurons are
    those kept in a ``share`` of its texts, which is 1 in the paper: in all. ``without`` a language, those of that
    language are taken out of all others, as the code does with English's.
    """

    plain_name: ClassVar[str] = "removal impact"

    variant: Literal["paper", "code"] = Field(default="paper", description="as in the paper, or in its released code")
    fraction: float = Field(default=0.14, gt=0, le=1, description="share of a layer's neurons kept of each text")
    count: int | None = Field(
        default=None, ge=1, description="neurons kept of each layer and text, in place of that; 2000 in the code"
    )
    share: float = Field(default=1.0, gt=0, le=1, description="share of the texts in which a neuron must be kept")
    without: str | None = Field(default=None, description="language whose neurons are taken out; en in the code")

    @property
    def needs(self) -> Needs:
        """In how many texts each neuron is kept."""
        return Needs(measures=(self._measure,))

    @property
    def _measure(self) -> str:
        limit = f"fraction={self.fraction}" if self.count is None else f"count={self.count}"
        return f"removal_impact:variant={self.variant}:{limit}"

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        from lnbench.model.architectures import BANK_SITES
        from lnbench.neurons import NeuronSet
        from lnbench.statistics.language_statistics import check_same_model
        from lnbench.statistics.ranking import existing

        model, _, _ = check_same_model(statistics)
        site = next(iter(statistics.values())).site
        if site not in BANK_SITES:
            raise LnbenchError(
                f"removal_impact is of neurons, and these Statistics show the site {site!r}; choose one of "
                f"{', '.join(BANK_SITES)}"
            )
        if self.without is not None and self.without not in statistics:
            raise unknown("language", self.without, statistics, "removal_impact:without= takes one of these")
        exists = existing(statistics)
        masks = {}
        for language, own in statistics.items():
            measured = own.measure(self._measure)
            texts = measured["texts"].unsqueeze(-1)
            if not texts.any():
                raise LnbenchError(f"the measure removal_impact of {language!r} is of no text; collect it again")
            masks[language] = (measured["kept"] >= self.share * texts) & (texts > 0) & exists
        if self.without is not None:
            common = masks[self.without]
            masks = {language: mask if language == self.without else mask & ~common for language, mask in masks.items()}
        return NeuronSet.from_masks(model, masks)


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("removal_impact", RemovalImpact)
