"""``clamp``: activations kept inside a range."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError
from lnbench.hookspecs import OverrideContext, hookimpl
from lnbench.written_values import Layers, WrittenValue

if TYPE_CHECKING:
    from lnbench.override_values import Override


@dataclass
class Clamp:
    """Keep each neuron's activation inside its range in the target's text; what lies inside is left as it is.

    A range-based intervention, after NeuronLens (https://arxiv.org/abs/2502.06809), which finds that ranges of a
    neuron's activation, rather than the neuron, carry a concept: a ← min(max(a, low), high).
    """

    plain_name: ClassVar[str] = "clamped between {low} and {high}"
    plain_action: ClassVar[str] = "clamping {neurons} between {low} and {high}"

    low: WrittenValue = Field(default="p5", description="lower end: p5, mean, min …, or a number")
    high: WrittenValue = Field(default="p95", description="upper end: p95, mean, max …, or a number")
    layers: Layers = None

    def override(self, context: OverrideContext) -> Override:
        import torch

        from lnbench.override_values import Override
        from lnbench.written_values import written

        neurons = context.within(self.layers).neurons
        low, high = (
            written(name, neurons, lambda: context.required_statistics("clamp")) for name in (self.low, self.high)
        )
        for layer, indices in neurons.items():
            # Of units with several coordinates, a number is that of each.
            size = max(low[layer].shape, high[layer].shape, key=len)
            low[layer], high[layer] = (
                end[layer].reshape(-1, *[1] * (len(size) - 1)).expand(size)
                if end[layer].ndim < len(size)
                else end[layer]
                for end in (low, high)
            )
            if wrong := (low[layer] > high[layer]).nonzero().tolist():
                place = tuple(wrong[0])
                raise LnbenchError(
                    f"intervention 'clamp': low={self.low} is {float(low[layer][place]):g} and high={self.high} is "
                    f"{float(high[layer][place]):g} for unit ({layer}, {int(indices[place[0]])}); exchange them"
                )
        return Override.of(neurons, {layer: torch.stack([low[layer], high[layer]]) for layer in neurons}, "clamp")


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("clamp", Clamp)
