"""``document_means``: each unit's mean per text."""

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
class DocumentMeans:
    """Each unit's mean over the counted tokens of every text, one number per text and unit (Kojima et al. 2024).

    At a site whose units have several coordinates, as heads have, it is the mean of the unit's norm. A text is a row
    that the model reads: a document with ``mode=truncate``, else a block of packed text. Four bytes are kept per text
    and unit. ``means`` is ``[texts, layers, width]``.
    """

    site: str = Field(default="post", description="site of the units")

    reductions: ClassVar[Mapping[str, Reduction]] = {"means": "concatenate"}

    @property
    def sites(self) -> tuple[str, ...]:
        """The site that is observed."""
        return (self.site,)

    def start(self, sites: Sites) -> None:
        layout = sites.layout(self.site)
        self._sizes, self._width = layout.unit_sizes, layout.width
        self._means: list[list[Tensor]] = [[] for _ in range(sites.layers)]

    def observe(self, step: Step) -> None:
        from torch.nn.functional import pad

        tokens = step.counted.sum(1)
        kept = tokens > 0
        values = step.values.double()
        if (size := self._sizes[step.layer]) > 1:
            values = values.view(*values.shape[:2], -1, size).norm(dim=-1)
        values = values * step.counted.unsqueeze(-1)
        means = (values.sum(1)[kept] / tokens[kept].unsqueeze(-1)).float().cpu()
        self._means[step.layer].append(pad(means, (0, self._width - means.shape[-1])))

    def finish(self) -> dict[str, Tensor]:
        import torch

        nothing = torch.empty(0, self._width)
        layers = [torch.cat([nothing, *means]) for means in self._means]
        texts = max(len(means) for means in layers)
        # A layer without units is never observed.
        return {
            "means": torch.stack([means if len(means) else means.new_zeros(texts, self._width) for means in layers], 1)
        }


@hookimpl
def lnbench_register_measures(register: Callable[[str, Any], None]) -> None:
    register("document_means", DocumentMeans)
