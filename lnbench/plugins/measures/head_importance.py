"""``head_importance``: the gradient of the loss with respect to a factor on each attention head's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic.dataclasses import dataclass

from lnbench.hookspecs import Reduction, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.hookspecs import Step
    from lnbench.model.sites import Sites


@dataclass
class HeadImportance:
    """∂L/∂m of a factor m = 1 on every head's output, per text, by a backward pass (LAHIS).

    L is the mean negative log-likelihood of a text's next tokens; a text is a row that the model reads. Nothing is
    trained meanwhile. ``sizes`` is the sum over texts of the gradients' absolute values and ``negative`` how many are
    below 0, ``[layers, heads]``; ``texts``, ``[layers]``, how many texts there are.
    """

    reductions: ClassVar[Mapping[str, Reduction]] = {"sizes": "sum", "negative": "sum", "texts": "sum"}
    gradients: ClassVar[bool] = True
    sites: ClassVar[tuple[str, ...]] = ("attention",)

    def start(self, sites: Sites) -> None:
        import torch

        self._heads = sites.layout("attention").widths
        most = max(self._heads)
        self._sizes = torch.zeros(len(self._heads), most, dtype=torch.float64)
        self._negative = torch.zeros(len(self._heads), most, dtype=torch.int64)
        self._texts = torch.zeros(len(self._heads), dtype=torch.int64)

    def observe(self, step: Step) -> None:
        assert step.gradient is not None and step.predicted is not None
        heads = self._heads[step.layer]
        # The factor is on every position's output, those before the first counted one included.
        products = (step.values.double() * step.gradient.double()).sum(1)
        products = products.view(len(products), heads, -1).sum(-1)
        read = step.predicted > 0
        gradients = products[read] / step.predicted[read].unsqueeze(-1)
        self._sizes[step.layer, :heads] += gradients.abs().sum(0).cpu()
        self._negative[step.layer, :heads] += (gradients < 0).sum(0).cpu()
        self._texts[step.layer] += len(gradients)

    def finish(self) -> dict[str, Tensor]:
        return {"sizes": self._sizes, "negative": self._negative, "texts": self._texts}


@hookimpl
def lnbench_register_measures(register: Callable[[str, Any], None]) -> None:
    register("head_importance", HeadImportance)
