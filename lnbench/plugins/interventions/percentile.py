"""``p10``, ``p2.5`` …: each neuron's own percentile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.hookspecs import OverrideContext, hookimpl

if TYPE_CHECKING:
    from lnbench.override_values import Override


@dataclass
class Percentile:
    """Write each neuron's own percentile over the language's text."""

    percent: float = Field(ge=0, le=100, description="which percentile")

    def override(self, context: OverrideContext) -> Override:
        from lnbench.override_values import Override

        statistics = context.required_statistics(f"p{self.percent:g}")
        return Override.setting(context.neurons, statistics.quantile(self.percent / 100))


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("p{percent}", Percentile)
