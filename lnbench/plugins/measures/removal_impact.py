"""``removal_impact``: which neurons change a text's representation most when they are removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.hookspecs import Reduction, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.hookspecs import Step
    from lnbench.model.sites import Sites


@dataclass
class RemovalImpact:
    """How far removing a neuron moves the feed-forward's output on a text, and in how many texts it is among the first.

    ``variant=paper``: ‖h without neuron j − h‖ over the text's tokens; as the output is a sum over neurons, that is
    ‖g_j‖ · ‖v_j‖ with g_j what the down projection reads and v_j its column. ``variant=code``: Σ_t |u_j(t)| with u the
    output of the up projection, of a plain feed-forward the first one, as the released code has it.

    A text is a row that the model reads. In every layer and text the ``count`` (or ``fraction``) neurons of largest
    impact are kept. ``kept`` is in how many texts, ``impacts`` the sum over texts, ``[layers, width]``; ``texts``,
    ``[layers]``, how many texts there are.
    """

    variant: Literal["paper", "code"] = Field(default="paper", description="as in the paper, or in its released code")
    fraction: float = Field(default=0.14, gt=0, le=1, description="share of a layer's neurons kept of each text")
    count: int | None = Field(default=None, ge=1, description="neurons kept of each layer and text, in place of that")

    reductions: ClassVar[Mapping[str, Reduction]] = {"kept": "sum", "impacts": "sum", "texts": "sum"}

    @property
    def sites(self) -> tuple[str, ...]:
        """What is observed: the down projection's input, or the up projection's output."""
        return ("product",) if self.variant == "paper" else ("up",)

    def start(self, sites: Sites) -> None:
        import torch

        from lnbench.errors import LnbenchError

        narrowest = min((width for width in sites.widths if width), default=0)
        if self.count is not None and self.count > narrowest:
            raise LnbenchError(
                f"count={self.count} is more than the {narrowest} neurons of a layer; lower it, or pass fraction="
            )
        # Once per model: later parts of a text begin while its passes are observed, and a map must not be called then.
        if getattr(self, "_sites", None) is not sites:
            self._sites = sites
            self._lengths = [None] * sites.layers if self.variant == "code" else _column_lengths(sites)
        self._kept = torch.zeros(sites.layers, sites.width, dtype=torch.int64)
        self._impacts = torch.zeros(sites.layers, sites.width, dtype=torch.float64)
        self._texts = torch.zeros(sites.layers, dtype=torch.int64)

    def observe(self, step: Step) -> None:
        import torch

        width = step.values.shape[-1]
        values = step.values.double() * step.counted.unsqueeze(-1)
        lengths = self._lengths[step.layer]
        impact = values.abs().sum(1) if lengths is None else values.square().sum(1).sqrt() * lengths.to(values.device)
        impact = impact[step.counted.any(1)].cpu()
        count = self.count or max(1, round(self.fraction * width))
        kept = torch.zeros(impact.shape, dtype=torch.bool)
        # Rounded, as impacts that are equal by their formula differ in their last bits.
        order = impact.float().argsort(dim=1, descending=True, stable=True)[:, :count]
        kept.scatter_(1, order, value=True)
        self._kept[step.layer, :width] += kept.sum(0)
        self._impacts[step.layer, :width] += impact.sum(0)
        self._texts[step.layer] += len(impact)

    def finish(self) -> dict[str, Tensor]:
        return {"kept": self._kept, "impacts": self._impacts, "texts": self._texts}


_AT_A_TIME = 1024
"""Columns of a down projection that are found by one call of it."""


def _column_lengths(sites: Sites) -> list[Tensor | None]:
    """Return the norm of every neuron's column of the down projection, per layer: of whatever weights it has."""
    import torch

    lengths: list[Tensor | None] = [None] * sites.layers
    for layer in range(sites.layers):
        found = []
        for bank in sites.dense_in(layer):
            after = sites.model.get_submodule(bank.after)
            like = next(after.parameters())
            dtype: Any = like.dtype if like.is_floating_point() else sites.model.dtype
            with torch.no_grad():
                nothing = after(torch.zeros(1, bank.width, dtype=dtype, device=like.device)).double()
                for start in range(0, bank.width, _AT_A_TIME):
                    units = torch.arange(start, min(start + _AT_A_TIME, bank.width), device=like.device)
                    ones = torch.nn.functional.one_hot(units, bank.width).to(dtype)
                    found.append((after(ones).double() - nothing).norm(dim=-1))
        if found:
            lengths[layer] = torch.cat(found)
    return lengths


@hookimpl
def lnbench_register_measures(register: Callable[[str, Any], None]) -> None:
    register("removal_impact", RemovalImpact)
