"""``random_active``: random neurons that are as active as those of a set, a control."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError
from lnbench.hookspecs import Needs, hookimpl
from lnbench.parameters import floor_field, rate_field

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics

_LAST: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
"""What draws from the same Statistics have in common, of those drawn from last: draws differ by their seed alone."""


@dataclass
class RandomActive:
    """Random units that are as active as those of a NeuronSet, a control of what activity alone does.

    Drawn are units that some language activates above the bar (as LAPE's candidates are), as many as the set has in
    every stratum: layer × mean positive rate × mean absolute value, both means over languages, each cut at the
    candidates' quantiles in that layer. The set's own units are not drawn. Where a stratum has too few, the nearest of
    the same layer fill up, then its other units, then the set's own; a warning says how many. After the controls of
    Verma et al. (2026), which match layer, firing rate and magnitude, and "random from most active" of
    https://github.com/kinit-sk/language-neuron-detection. ``rate=routed`` is that of ``lape``.
    """

    plain_name: ClassVar[str] = "random neurons that are as active"
    is_control: ClassVar[bool] = True

    like: str = Field(
        default="lape",
        description="NeuronSet file to match by language, or a selector: name or [name:key=value]",
    )
    bar: float = Field(default=0.95, gt=0, le=1, description="quantile of all activation probabilities that is the bar")
    strata: int = Field(
        default=3, ge=1, description="strata of positive rate in a layer, and as many of absolute value"
    )
    seed: int = Field(default=0, ge=0, description="another seed draws other units")
    rate: Literal["all", "routed"] = rate_field()
    floor: int = floor_field()

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        from lnbench.controls import matched_set

        return self.draw(matched_set(self.like, statistics), statistics).only(statistics)

    def draw(self, neurons: NeuronSet, statistics: Mapping[str, Statistics]) -> NeuronSet:
        """Return for every language as many active units per stratum as ``neurons`` has.

        Raises:
            LnbenchError: there are no Statistics, or they are of another model.
        """
        import torch

        from lnbench.files import warn_once
        from lnbench.neurons import NeuronSet
        from lnbench.statistics.language_statistics import check_same_model

        if not statistics:
            raise LnbenchError(
                "random_active draws units that are as active, and there are no Statistics to read that from: give "
                "them with --statistics or a corpus, or choose the control random"
            )
        neurons.check(*check_same_model(statistics)[:2], next(iter(statistics.values())).widths)
        numbers = (replace(own, measures={}).fingerprint for own in statistics.values())
        seen = (self.bar, self.strata, self.rate, self.floor, *numbers)
        if (shared := _LAST.get(seen)) is None:
            shared = self._candidates(statistics)
            _LAST.clear()
            _LAST[seen] = shared
        candidates, strata = shared
        masks = {}
        for language in neurons:
            # A language's draw does not depend on which other languages are drawn.
            generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {language}".encode()))
            own, mask, unlike = neurons.mask(language), torch.zeros_like(candidates), 0
            for layer, width in enumerate(neurons.widths):
                order = torch.randperm(width, generator=generator)
                if own[layer].any():
                    kept = (own[layer, order], candidates[layer, order], strata[:, layer, order])
                    drawn, short = _draw_layer(*kept)
                    mask[layer, order[drawn]] = True
                    unlike += short
            if unlike:
                warn_once(
                    f"random_active: {unlike} of the {neurons.count(language)} units of {language} have no other unit "
                    "of their stratum to match them; the nearest of their layer are drawn in their place"
                )
            masks[language] = mask
        return NeuronSet.from_masks(neurons.model, masks, **neurons.units)

    def _candidates(self, statistics: Mapping[str, Statistics]) -> tuple[Tensor, Tensor]:
        """Return which units can be drawn, ``[layers, width]``, and the two strata of each, ``[2, layers, width]``."""
        import torch

        from lnbench.statistics.ranking import compared, mean_magnitude, of_experts, positive_rates, upper_bar

        rates = positive_rates(statistics, "random_active", "the control random", rate=self.rate, floor=self.floor)
        units = compared(statistics, self.rate, self.floor)
        candidates = (rates > upper_bar(rates, units, self.bar, of_experts(statistics))).any(-1)
        # An expert that a language never reaches has no values in it.
        values = torch.stack([mean_magnitude(own).nan_to_num(0) for own in statistics.values()])
        magnitudes = values.sort(0).values.mean(0)
        strata = [_strata(values, candidates, self.strata) for values in (rates.sort(-1).values.mean(-1), magnitudes)]
        return candidates, torch.stack(strata)

    @property
    def needs(self) -> Needs:
        """What the selector that is matched needs."""
        from lnbench.controls import needs_of_matched

        return needs_of_matched(self.like)


def _strata(values: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Return each unit's stratum in its layer, ``[layers, width]``: 0 to count − 1, cut at candidates' quantiles."""
    import torch

    strata = torch.zeros(values.shape, dtype=torch.long)
    levels = torch.arange(1, count, dtype=torch.float64) / count
    for layer, row in enumerate(values):
        if candidates[layer].any():
            cuts = row[candidates[layer]].double().quantile(levels)
            strata[layer] = torch.searchsorted(cuts, row.double().contiguous(), right=True)
    return strata


def _draw_layer(own: Tensor, candidates: Tensor, strata: Tensor) -> tuple[Tensor, int]:
    """Return the places that are drawn in one layer, whose units are in random order, and how many are unlike.

    Args:
        own: ``BoolTensor[width]``, the set's.
        candidates: ``BoolTensor[width]``, units that are active enough.
        strata: ``LongTensor[2, width]``.
    """
    import torch

    free = candidates & ~own
    missing: list[torch.Tensor] = []
    taken = torch.zeros_like(own)
    for stratum in torch.unique(strata[:, own], dim=1).T:
        like = (strata == stratum[:, None]).all(0)
        places = (free & like).nonzero().flatten()
        wanted = int((own & like).sum())
        taken[places[:wanted]] = True
        missing += [stratum] * (wanted - len(places[:wanted]))
    far = int(strata.max()) * len(strata) + 1
    for stratum in missing:
        distance = (strata - stratum[:, None]).abs().sum(0)
        # First candidates, then other units, then the set's own.
        distance = distance + far * (~candidates).long() + 2 * far * own.long()
        taken[distance.masked_fill(taken, 4 * far).argsort(stable=True)[0]] = True
    return taken.nonzero().flatten(), len(missing)


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("random_active", RandomActive)
