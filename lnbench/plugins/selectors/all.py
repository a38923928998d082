"""``all``: every unit of a site, for every language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic.dataclasses import dataclass

from lnbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from lnbench.neurons import NeuronSet
    from lnbench.statistics import Statistics


@dataclass
class All:
    """Every unit of the site, for every language: what vectors such as DiffMean's are added to.

    It ranks nothing, has no parameters, and works at any site and for one language.
    """

    plain_name: ClassVar[str] = "all units"

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        from lnbench.neurons import NeuronSet
        from lnbench.statistics.language_statistics import check_same_model
        from lnbench.statistics.ranking import existing

        model, _, _ = check_same_model(statistics)
        return NeuronSet.from_masks(model, dict.fromkeys(statistics, existing(statistics)))


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("all", All)
