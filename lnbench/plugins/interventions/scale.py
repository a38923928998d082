"""``scale``: a factor on every neuron."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.hookspecs import OverrideContext, hookimpl
from lnbench.written_values import Layers, filled

if TYPE_CHECKING:
    from lnbench.override_values import Override


@dataclass
class Scale:
    """Multiply each neuron's activation by one factor: a ← c·a.

    Above 1 it amplifies, as in the interventions of LSS (https://arxiv.org/abs/2507.22581); 0 is zero-ablation.
    """

    plain_name: ClassVar[str] = "activation × {factor}"
    plain_action: ClassVar[str] = "multiplying {neurons} by {factor}"

    factor: float = Field(allow_inf_nan=False, description="the factor")
    layers: Layers = None
    reads_statistics: ClassVar[bool] = False

    def override(self, context: OverrideContext) -> Override:
        from lnbench.override_values import Override

        neurons = context.within(self.layers).neurons
        return Override.of(neurons, filled(self.factor, neurons), "scale")


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("scale", Scale)
