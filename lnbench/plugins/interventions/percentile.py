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


@dataclass
class Percentile:
    """Write each neuron's own percentile over the language's text.

    The percentile is over tokens. Median forcing as published (Kojima et al., NAACL 2024,
    https://arxiv.org/abs/2404.02431) takes the median over texts of each text's mean.
    """

    percent: float = Field(ge=0, le=100, description="which percentile")
    layers: Layers = None

    def override(self, context: OverrideContext) -> Override:
        from lnbench.override_values import Override

        statistics = context.required_statistics(f"p{self.percent:g}")
        return Override.setting(context.within(self.layers).neurons, statistics.quantile(self.percent / 100))


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("p{percent}", Percentile)
    register("median", partial(Percentile, percent=50.0))
    register("max", partial(Percentile, percent=100.0))
