"""``head_importance``: attention heads that a language's loss depends on."""

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
class HeadImportance:
    """Attention heads whose presence lowers the loss on a language's texts: LAHIS (2025).

    Paper: https://arxiv.org/abs/2511.07498. With m_h = 1 a factor on head h's output and L the mean negative
    log-likelihood of a text x of language k::

        I_hk = mean_x(|∂L/∂m_h| · m_h · 1000) · share of x with ∂L/∂m_h · m_h < 0

    The heads of a language have I_hk above its ``level``-quantile over heads. Those of at least ``general`` languages
    are `general`, the others `specific`. The published code steps an optimiser on m while it accumulates I, so that
    later texts meet other heads; here m stays 1.
    """

    plain_name: ClassVar[str] = "head importance"

    level: float = Field(default=0.96, gt=0, lt=1, description="quantile over all heads that is the bar")
    general: int = Field(default=4, ge=2, description="languages from which on a head is general")
    classes: Literal["all", "general", "specific"] = Field(default="all", description="which heads to select")

    @property
    def needs(self) -> Needs:
        """The heads' gradients, which take a backward pass; and Statistics of the heads."""
        return Needs(sites=("attention",), measures=("head_importance",))

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        import torch

        from lnbench.neurons import NeuronSet
        from lnbench.statistics.language_statistics import check_same_model
        from lnbench.statistics.ranking import classes_of, rounded

        shown = {language: own.at("attention") for language, own in statistics.items()}
        model, _, _ = check_same_model(shown)
        exists = next(iter(shown.values())).exists
        masks, scores = {}, {}
        for language, own in shown.items():
            importance = rounded(importance_of(language, own.measure("head_importance")))
            if importance.shape != exists.shape:
                raise LnbenchError(
                    f"the measure head_importance of {language!r} is of {tuple(importance.shape)} heads, and its "
                    f"Statistics of {tuple(exists.shape)}; collect them again"
                )
            bar = importance[exists].quantile(self.level)
            masks[language] = (importance > bar) & exists
            scores[language] = importance.masked_fill(~exists, -torch.inf)
        languages = torch.stack(list(masks.values())).sum(0)
        general = languages >= self.general
        kinds = {"general": general, "specific": (languages > 0) & ~general}
        if self.classes != "all":
            masks = {language: mask & kinds[self.classes] for language, mask in masks.items()}
            kinds = {self.classes: kinds[self.classes]}
            scores = {}
        return NeuronSet.from_masks(model, masks, scores=scores or None, site="attention", classes=classes_of(kinds))


def importance_of(language: str, measured: Mapping[str, Tensor]) -> Tensor:
    """Return I of every head, ``[layers, heads]``, see :class:`HeadImportance`.

    Raises:
        LnbenchError: no text was measured.
    """
    texts = measured["texts"].double().unsqueeze(-1)
    if not texts.any():
        raise LnbenchError(f"the measure head_importance of {language!r} is of no text; collect it again")
    texts = texts.clamp_min(1)
    return measured["sizes"] / texts * 1000 * (measured["negative"] / texts)


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("head_importance", HeadImportance)
