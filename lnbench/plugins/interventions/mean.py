"""``mean``: each neuron's mean (mean-ablation)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic.dataclasses import dataclass

from lnbench.hookspecs import OverrideContext, hookimpl
from lnbench.written_values import Layers

if TYPE_CHECKING:
    from lnbench.override_values import Override


@dataclass
class Mean:
    """Write each neuron's mean over the language's text."""

    plain_name: ClassVar[str] = "mean activation"
    plain_action: ClassVar[str] = "setting {neurons} to their mean"

    layers: Layers = None

    def override(self, context: OverrideContext) -> Override:
        from lnbench.override_values import Override

        return Override.setting(context.within(self.layers).neurons, context.required_statistics("mean").mean)


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("mean", Mean)
