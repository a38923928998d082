"""``top_activation``: the units of highest mean in a language, whatever they do in others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics


@dataclass
class TopActivation:
    """Units of highest mean activation in each language by itself: a baseline of selectors that compare languages.

    The units that a mean over the text of language k alone ranks first, with m_jk unit j's mean over tokens::

        score_jk = m_jk

    or |m_jk| with ``side=both``. It takes one language at a time, and finds what is active in every language too: used
    as "most active" neurons by controls of published work, such as https://github.com/kinit-sk/language-neuron-detection.
    Any site has means. Equal ones are taken in order of layer and index.
    """

    plain_name: ClassVar[str] = "top activation, {fraction:share}"

    fraction: float = Field(default=0.00125, gt=0, le=1, description="share of all units to select per language")
    side: Literal["above", "below", "both"] = Field(
        default="above", description="units of the highest mean, of the lowest, or farthest from 0"
    )

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        from lnbench.neurons import NeuronSet
        from lnbench.statistics.language_statistics import check_same_model
        from lnbench.statistics.ranking import best_of_each, existing, ranked_by

        model, _, _ = check_same_model(statistics)
        means = {language: ranked_by(own.mean.double(), self.side) for language, own in statistics.items()}
        masks, scores = best_of_each(means, self.fraction, existing(statistics))
        return NeuronSet.from_masks(model, masks, scores=scores)


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("top_activation", TopActivation)
