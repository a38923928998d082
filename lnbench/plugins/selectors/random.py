"""``random``: random neurons, a control."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.hookspecs import Needs, hookimpl

if TYPE_CHECKING:
    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics


@dataclass
class Random:
    """Random neurons, a control: as many per layer and language as a NeuronSet has, or a fraction of every layer.

    Beside a NeuronSet, a language's own neurons are not drawn, unless they leave too few in a layer. The NeuronSet is a
    file's, or what another selector finds in the same Statistics.
    """

    plain_name: ClassVar[str] = "random neurons"
    is_control: ClassVar[bool] = True

    like: str | None = Field(
        default=None,
        description="NeuronSet file to match by layer and language, or a selector: name or [name:key=value]",
    )
    fraction: float = Field(default=0.01, gt=0, le=1, description="share of each layer, without a file to match")
    seed: int = Field(default=0, ge=0, description="another seed draws other neurons")

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        import torch

        from lnbench.controls import matched_set
        from lnbench.neurons import NeuronSet, draw_random
        from lnbench.statistics.language_statistics import check_same_model

        model, layers, width = check_same_model(statistics)
        if self.like is not None:
            return self.draw(matched_set(self.like, statistics), statistics).only(statistics)
        widths = next(iter(statistics.values())).widths
        counts = torch.tensor([round(self.fraction * own) for own in widths])
        nothing = torch.zeros(layers, width, dtype=torch.bool)
        masks = {language: draw_random(language, counts, nothing, self.seed, widths) for language in statistics}
        return NeuronSet.from_masks(model, masks)

    def draw(self, neurons: NeuronSet, statistics: Mapping[str, Statistics]) -> NeuronSet:
        """Return as many random units per layer and language as ``neurons`` has; it reads no Statistics."""
        from lnbench.neurons import NeuronSet, draw_random

        masks = {
            language: draw_random(
                language, neurons.per_layer(language), neurons.mask(language), self.seed, neurons.widths
            )
            for language in neurons
        }
        return NeuronSet.from_masks(neurons.model, masks, **neurons.units)

    @property
    def needs(self) -> Needs:
        """What the selector that is matched needs."""
        from lnbench.controls import needs_of_matched

        return needs_of_matched(self.like)


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("random", Random)
