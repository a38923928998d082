"""``other_language``: another language's neurons, a control."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError
from lnbench.hookspecs import Needs, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics


@dataclass
class OtherLanguage:
    """Another language's neurons, a control of what language neurons do that are not of this language.

    Of the other languages of the same NeuronSet, in order of their codes, draw ``seed`` takes the seed-th, from the
    start again after the last: as many of its units as the language has, a random sample where it has more, without
    those that the language has too. Where it has fewer, the next language's follow; a warning says where all together
    have too few. The size is matched, layers are not.
    """

    plain_name: ClassVar[str] = "neurons of other languages"
    is_control: ClassVar[bool] = True

    like: str = Field(
        default="lape",
        description="NeuronSet file to match by language, or a selector: name or [name:key=value]",
    )
    seed: int = Field(default=0, ge=0, description="which of the other languages, and which of its units")

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        from lnbench.controls import matched_set

        return self.draw(matched_set(self.like, statistics), statistics).only(statistics)

    def draw(self, neurons: NeuronSet, statistics: Mapping[str, Statistics]) -> NeuronSet:
        """Return for every language as many units of other languages; it reads no Statistics.

        Raises:
            LnbenchError: there is one language alone.
        """
        from lnbench.neurons import NeuronSet

        if len(neurons.languages) < 2:
            raise LnbenchError(
                f"other_language takes another language's units, and these are of {neurons.languages[0]!r} alone; "
                "choose the control random"
                if neurons.languages
                else "other_language takes another language's units, and there are none at all"
            )
        masks = {language: self._of(neurons, language) for language in neurons}
        return NeuronSet.from_masks(neurons.model, masks, **neurons.units)

    def _of(self, neurons: NeuronSet, language: str) -> Tensor:
        import torch

        from lnbench.files import warn_once

        others = [other for other in neurons.languages if other != language]
        first = self.seed % len(others)
        own, wanted = neurons.mask(language), neurons.count(language)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {language}".encode()))
        mask = torch.zeros_like(own).flatten()
        for other in others[first:] + others[:first]:
            places = (neurons.mask(other) & ~own).flatten().logical_and(~mask).nonzero().flatten()
            order = torch.randperm(len(places), generator=generator)
            mask[places[order[: wanted - int(mask.sum())]]] = True
        if (found := int(mask.sum())) < wanted:
            warn_once(f"other_language: the other languages have {found} units for the {wanted} of {language}")
        return mask.view(own.shape)

    @property
    def needs(self) -> Needs:
        """What the selector that is matched needs."""
        from lnbench.controls import needs_of_matched

        return needs_of_matched(self.like)


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("other_language", OtherLanguage)
