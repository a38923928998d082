"""``constant`` and ``zero`` (zero-ablation): one number for every neuron."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.hookspecs import OverrideContext, hookimpl
from lnbench.written_values import Layers, filled

if TYPE_CHECKING:
    from lnbench.override_values import Override


@dataclass
class Constant:
    """Write one number, the same for every neuron."""

    value: float = Field(default=0.0, allow_inf_nan=False, description="the number")
    layers: Layers = None
    reads_statistics: ClassVar[bool] = False

    @property
    def plain_name(self) -> str:
        """What a reader is shown for the choice."""
        return "set to {value}" if self.value else "zero-ablation"

    @property
    def plain_action(self) -> str:
        """What it does, in a sentence."""
        return "setting {neurons} to {value}" if self.value else "setting {neurons} to zero"

    def override(self, context: OverrideContext) -> Override:
        from lnbench.override_values import Override

        neurons = context.within(self.layers).neurons
        return Override.of(neurons, filled(self.value, neurons))


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("zero", partial(Constant, value=0.0))
    register("constant", Constant)
