"""``p10``, ``p2.5`` …, ``median`` and ``max``: each neuron's own percentile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.hookspecs import OverrideContext, hookimpl
from lnbench.written_values import Layers

if TYPE_CHECKING:
    from lnbench.override_values import Override

_NAMED: dict[float, str] = {0: "minimum", 50: "median", 100: "maximum"}


@dataclass
class Percentile:
    """Write each neuron's own percentile over the language's text.

    The percentile is over tokens. Median forcing as published (Kojima et al., NAACL 2024,
    https://arxiv.org/abs/2404.02431) takes the median over texts of each text's mean.
    """

    percent: float = Field(ge=0, le=100, description="which percentile")
    layers: Layers = None

    @property
    def plain_name(self) -> str:
        """What a reader is shown for the choice."""
        return _NAMED.get(self.percent, f"{_ordinal(self.percent)} percentile")

    @property
    def plain_action(self) -> str:
        """What it does, in a sentence."""
        return f"setting {{neurons}} to their {self.plain_name}"

    def override(self, context: OverrideContext) -> Override:
        from lnbench.override_values import Override

        statistics = context.required_statistics(f"p{self.percent:g}")
        return Override.setting(context.within(self.layers).neurons, statistics.quantile(self.percent / 100))


def _ordinal(number: float) -> str:
    """Return ``1st``, ``2nd``, ``11th``, ``2.5th``."""
    teens = 11 <= number % 100 <= 13
    ends: dict[float, str] = {} if teens else {1: "st", 2: "nd", 3: "rd"}
    return f"{number:g}{ends.get(number % 10, 'th')}"


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("p{percent}", Percentile)
    register("median", partial(Percentile, percent=50.0))
    register("max", partial(Percentile, percent=100.0))
