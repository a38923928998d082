"""``top``: as many units for every language, the first of another selector's ranking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError
from lnbench.hookspecs import Needs, hookimpl

if TYPE_CHECKING:
    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics


@dataclass
class Top:
    """The first ``count`` units of another selector's ranking for every language: selectors at equal set sizes.

    Selectors find sets of different sizes, and larger sets do more. Of the scores that a selector declares, the
    ``count`` highest of each language are taken, however many it would select itself; equal scores in order of layer
    and index. It refuses a selector without scores, and a language of which fewer units can be selected at all (such as
    LAPE's, of which fewer are over the bar).
    """

    plain_name: ClassVar[str] = "best {count:,} by {of}"

    of: str = Field(description="the selector whose ranking it is: name or [name:key=value]")
    count: int = Field(ge=1, description="units per language")

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        from lnbench.host import get_host
        from lnbench.neurons import NeuronSet
        from lnbench.parameters import unbracketed
        from lnbench.statistics.ranking import best

        found: NeuronSet = get_host().resolve("selector", unbracketed(self.of)).select(statistics)
        if found.scores is None:
            raise LnbenchError(f"top:of={self.of}: this selector declares no scores to rank by")
        for language, scores in found.scores.items():
            if (available := int((scores > float("-inf")).sum())) < self.count:
                raise LnbenchError(
                    f"top:count={self.count}: of {language!r}, {self.of} can select {available} units at most; take "
                    "fewer"
                )
        masks = {language: best(scores, self.count) for language, scores in found.scores.items()}
        return NeuronSet.from_masks(found.model, masks, scores=found.scores, **found.units)

    @property
    def needs(self) -> Needs:
        """What the other selector needs."""
        from lnbench.controls import needs_of_matched

        return needs_of_matched(self.of)


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("top", Top)
