"""``dln``: distribution-aware language neurons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics


@dataclass
class Dln:
    """Distribution-aware language neurons: units whose values have another distribution in some languages (2026).

    Source: https://github.com/mjkmain/Distribution-aware-language-neurons. With P_jk the distribution of unit j's
    values in language k's text, over two groups A and B of the languages, A no larger than B::

        S_j[k, l] = 1 − total variation of P_jk and P_jl
        cost_j    = min over A, B of  max over k in A, l in B of S_j[k, l]

    The minimum is the lightest edge of the maximum spanning tree over S_j. A unit is selected if its cost is no more
    than τ, the n · percent / 100-th smallest (rounded down, the first at least) of all n overlaps of units and pairs of
    languages, and belongs to the languages of A. The classes ``single`` (A is one language) and ``multi`` are kept in
    the NeuronSet, τ in ``derived``.

    The overlap is that of the quantiles that Statistics keep, on the grid of both languages' (the authors count 400
    bins), so it needs no other pass. Of groups of one size, A is the one of the larger root mean square value, and of
    several groups of one cost the smallest. It works at any site.
    """

    plain_name: ClassVar[str] = "distribution-aware language neurons"

    percent: float = Field(default=1.0, gt=0, le=100, description="percentile of all overlaps that is the bar, τ")
    classes: Literal["all", "single", "multi"] = Field(
        default="all", description="all units, or those of single languages or of several only"
    )

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        import torch

        from lnbench.neurons import NeuronSet
        from lnbench.statistics.overlap import distribution_overlap
        from lnbench.statistics.ranking import check_several, classes_of, existing, rounded

        model, layers, width = check_several(statistics, "dln")
        codes, exists = sorted(statistics), existing(statistics)
        overlaps = torch.ones(len(codes), len(codes), layers, width, dtype=torch.float64)
        pairs = list(combinations(range(len(codes)), 2))
        for one, other in pairs:
            overlap = distribution_overlap(statistics[codes[one]], statistics[codes[other]])
            overlaps[one, other] = overlaps[other, one] = rounded(overlap)
        known = torch.cat([overlaps[pair][exists] for pair in pairs])
        tau = float(known.kthvalue(max(1, int(len(known) * self.percent / 100))).values)
        costs = spanning_cost(overlaps).masked_fill(~exists, torch.inf)
        selected = costs <= tau
        squares = torch.stack(
            [statistics[code].mean.double().square() + statistics[code].std.double().square() for code in codes]
        )
        group = smaller_groups(overlaps, costs, squares)
        members = group & selected
        count = members.sum(0)
        kinds = {"single": count == 1, "multi": count > 1}
        if self.classes != "all":
            members &= kinds[self.classes]
        kept = members.any(0)
        return NeuronSet.from_masks(
            model,
            {code: members[codes.index(code)] for code in statistics},
            scores={code: torch.where(group[codes.index(code)], -costs, -torch.inf) for code in statistics},
            classes=classes_of({name: kind & kept for name, kind in kinds.items()}),
            derived={"tau": tau},
        )


def spanning_cost(overlaps: Tensor) -> Tensor:
    """Return the lightest edge of each unit's maximum spanning tree, by Prim's algorithm for all units at once.

    Args:
        overlaps: ``[languages, languages, …]``, symmetric.
    """
    import torch

    nearest = overlaps[0].clone()
    outside = torch.ones(nearest.shape, dtype=torch.bool)
    outside[0] = False
    lightest = torch.full(nearest.shape[1:], torch.inf, dtype=overlaps.dtype)
    for _ in range(len(overlaps) - 1):
        edge, taken = torch.where(outside, nearest, -torch.inf).max(0)
        lightest = torch.minimum(lightest, edge)
        outside.scatter_(0, taken.unsqueeze(0), False)
        nearest = torch.maximum(nearest, overlaps.gather(0, taken.expand(1, *overlaps.shape[1:])).squeeze(0))
    return lightest


def smaller_groups(overlaps: Tensor, costs: Tensor, squares: Tensor) -> Tensor:
    """Return each unit's A: of the groups that the lightest edge of its maximum spanning tree parts, the smallest.

    Args:
        overlaps: ``[languages, languages, …]``, symmetric.
        costs: ``[…]``, weights of the lightest edges.
        squares: ``[languages, …]``, mean squares: of groups as small, that of the largest sum is taken, and of equal
            ones that of the first language.

    Returns:
        ``BoolTensor[languages, …]``.
    """
    import torch

    itself = torch.eye(len(overlaps), dtype=torch.bool).view(*overlaps.shape[:2], *[1] * costs.ndim)
    joined = (overlaps > costs) | itself
    # Languages that a path joins are in one group.
    for through in range(len(overlaps)):
        joined |= joined[:, through, None] & joined[None, through]
    sizes = joined.sum(1)
    smallest = sizes == sizes.amin(0)
    # In order of size, so that the members of one group have the very same sum.
    total = torch.where(joined, squares.nan_to_num(), 0.0).sort(1).values.sum(1).masked_fill(~smallest, -1.0)
    first = (total == total.amax(0)).byte().argmax(0)
    return joined.gather(0, first.expand(1, *joined.shape[1:])).squeeze(0)


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("dln", Dln)
