"""``random``: random neurons, a control."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import unknown
from lnbench.hookspecs import Needs, hookimpl
from lnbench.host import get_host
from lnbench.parameters import parse_choice

if TYPE_CHECKING:
    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics


@dataclass
class Random:
    """Random neurons, a control: as many per layer and language as a NeuronSet has, or a fraction of every layer.

    Beside a NeuronSet, a language's own neurons are not drawn, unless they leave too few in a layer. The NeuronSet is a
    file's, or what another selector finds in the same Statistics.
    """

    is_control: ClassVar[bool] = True

    like: str | None = Field(
        default=None,
        description="NeuronSet file to match by layer and language, or a selector: name or [name:key=value]",
    )
    fraction: float = Field(default=0.01, gt=0, le=1, description="share of each layer, without a file to match")
    seed: int = Field(default=0, ge=0, description="another seed draws other neurons")

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        import torch

        from lnbench.neurons import NeuronSet, draw_random
        from lnbench.statistics.language_statistics import check_same_model

        model, layers, width = check_same_model(statistics)
        widths = next(iter(statistics.values())).widths
        counts, avoid = (
            torch.tensor([round(self.fraction * own) for own in widths]),
            torch.zeros(layers, width, dtype=torch.bool),
        )
        matched = self._matched(statistics)
        if matched is not None:
            matched.check(model, layers, widths)
        masks = {}
        for language in statistics:
            if matched is not None:
                if language not in matched:
                    hint = f"{self.like} has no neurons to match for it"
                    raise unknown("language", language, matched.languages, hint)
                counts, avoid = matched.per_layer(language), matched.mask(language)
            masks[language] = draw_random(language, counts, avoid, self.seed, widths)
        return NeuronSet.from_masks(model, masks)

    @property
    def needs(self) -> Needs:
        """What the selector that is matched needs."""
        from lnbench.choices import needs_of

        return needs_of(self._selector) if self._selector else Needs()

    @property
    def _selector(self) -> str | None:
        """The selector to match, where it is no file."""
        inner = (self.like or "").removeprefix("[").removesuffix("]")
        return inner if parse_choice(inner)[0] in get_host().names("selector") and not Path(inner).exists() else None

    def _matched(self, statistics: Mapping[str, Statistics]) -> NeuronSet | None:
        from lnbench.choices import select
        from lnbench.neurons import NeuronSet

        if self._selector:
            return select(self._selector, statistics)
        return NeuronSet.load(self.like) if self.like is not None else None


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("random", Random)
