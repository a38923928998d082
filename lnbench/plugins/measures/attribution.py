"""``attribution``: how much each unit's value contributes to the loss, to first order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.hookspecs import Reduction, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.hookspecs import Step
    from lnbench.model.sites import Sites


@dataclass
class Attribution:
    """|a · ∂L/∂a| of each unit and token, by a backward pass: how much zeroing it changes the loss, to first order.

    Of a unit with several coordinates, as a head, the products are summed first. L is the summed negative log-
    likelihood, in nats, of the next tokens of the text that the token is in. ``sums`` is the sum over tokens and
    ``above`` the number of tokens over ``threshold``, ``[layers, width]``; ``tokens``, ``[layers]``, how many there
    are.
    """

    site: str = Field(default="post", description="site of the units")
    threshold: float = Field(default=0.001, ge=0, description="in nats: above it a token counts in the share")

    reductions: ClassVar[Mapping[str, Reduction]] = {"sums": "sum", "above": "sum", "tokens": "sum"}
    gradients: ClassVar[bool] = True

    @property
    def sites(self) -> tuple[str, ...]:
        """The site that is observed."""
        return (self.site,)

    def start(self, sites: Sites) -> None:
        import torch

        layout = sites.layout(self.site)
        self._sizes = layout.unit_sizes
        self._sums = torch.zeros(sites.layers, layout.width, dtype=torch.float64)
        self._above = torch.zeros(sites.layers, layout.width, dtype=torch.int64)
        self._tokens = torch.zeros(sites.layers, dtype=torch.int64)

    def observe(self, step: Step) -> None:
        assert step.gradient is not None
        products = (step.values.double() * step.gradient.double())[step.counted]
        attributed = products.view(len(products), -1, self._sizes[step.layer]).sum(-1).abs()
        width = attributed.shape[-1]
        self._sums[step.layer, :width] += attributed.sum(0).cpu()
        self._above[step.layer, :width] += (attributed > self.threshold).sum(0).cpu()
        self._tokens[step.layer] += len(attributed)

    def finish(self) -> dict[str, Tensor]:
        return {"sums": self._sums, "above": self._above, "tokens": self._tokens}


@hookimpl
def lnbench_register_measures(register: Callable[[str, Any], None]) -> None:
    register("attribution", Attribution)
