"""``average_precision``: units that tell a language's texts from the others'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
class AveragePrecision:
    """Average precision of a unit's means per text, which rank all texts by language (Kojima et al. 2024).

    Paper: https://arxiv.org/abs/2404.02431. With r_j(x) the mean of unit j over the tokens of text x, all texts of all
    languages are ranked by r_j; those of language k are the positives, and P and R the precision and recall of the
    texts from each threshold up::

        AP_jk = Σ over thresholds of (R − R of the threshold before) · P

    ``top`` are the
    units of highest average precision, ``bottom`` those of lowest, which fire below their usual level in the language,
    and ``middle`` those around the median, a control. Texts of equal mean share a threshold; units of equal average
    precision are taken in order of layer and index.
    """

    plain_name: ClassVar[str] = "average precision"

    parts: tuple[Literal["top", "bottom", "middle"], ...] = Field(
        default=("top", "bottom"), min_length=1, description="which units, as top+bottom"
    )
    count: int = Field(default=1000, ge=1, description="units in each part")
    fraction: float | None = Field(default=None, gt=0, le=1, description="share of all units, in place of count")
    site: str = Field(default="post", description="site of the units")

    @property
    def needs(self) -> Needs:
        """Each unit's mean per text."""
        return Needs(measures=(self._measure,))

    @property
    def _measure(self) -> str:
        return f"document_means:site={self.site}"

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        import torch

        from lnbench.neurons import NeuronSet
        from lnbench.statistics.ranking import check_several, check_site, existing, rounded

        model, _, _ = check_several(statistics, "average_precision")
        check_site(statistics, "average_precision", self.site)
        exists = existing(statistics)
        units = int(exists.sum())
        count = self.count if self.fraction is None else round(self.fraction * units)
        if count > units:
            raise LnbenchError(
                f"average_precision:count={count} asks for more units than the {units} that there are; lower count, or "
                "pass fraction="
            )
        means = [own.measure(self._measure)["means"] for own in statistics.values()]
        for language, own in zip(statistics, means, strict=True):
            if not len(own):
                raise LnbenchError(f"the Statistics of {language!r} hold the means of no text; collect them again")
        masks, scores = {}, {}
        for number, language in enumerate(statistics):
            precision = rounded(average_precision(means, number))
            known = precision[exists]
            order = known.argsort(descending=True, stable=True)
            chosen = torch.zeros(units, dtype=torch.bool)
            for part in self.parts:
                chosen[_part(order, known, part, count)] = True
            masks[language] = torch.zeros_like(exists).masked_scatter(exists, chosen)
            scores[language] = precision.masked_fill(~exists, -torch.inf)
        return NeuronSet.from_masks(model, masks, scores=scores if self.parts == ("top",) else None)


def _part(order: Tensor, known: Tensor, part: str, count: int) -> Tensor:
    """Return the places of one part's units."""
    if part == "bottom":
        return known.argsort(stable=True)[:count]
    start = 0 if part == "top" else (len(order) - count) // 2
    return order[start : start + count]


def average_precision(means: Sequence[Tensor], positives: int) -> Tensor:
    """Return the average precision of every unit, ``[layers, width]``: Σ over thresholds of (R − R before) · P.

    Args:
        means: Per language, ``[texts, layers, width]``.
        positives: The number of the language whose texts are the positives.
    """
    import torch

    label = torch.cat([torch.full((len(own),), number == positives) for number, own in enumerate(means)])
    layers = []
    for layer in range(means[0].shape[1]):
        values, order = torch.cat([own[:, layer] for own in means]).sort(0, descending=True)
        positive = label[order].double()
        places = torch.arange(len(values))[:, None].expand_as(values)
        # Texts of equal mean are told apart by no threshold: each has the precision of the last of them.
        ends = torch.ones_like(values, dtype=torch.bool)
        ends[:-1] = values[1:] != values[:-1]
        last = torch.where(ends, places, len(values)).flip(0).cummin(0).values.flip(0)
        precision = (positive.cumsum(0) / (places + 1)).gather(0, last)
        layers.append((positive * precision).sum(0) / positive.sum(0))
    return torch.stack(layers)


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("average_precision", AveragePrecision)
