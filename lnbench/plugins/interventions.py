"""The built-in interventions: each replaces the activation of the language's neurons at every token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError
from lnbench.hookspecs import hookimpl
from lnbench.override_values import LayerOverride, Override

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.statistics import Statistics


@dataclass
class Unchanged:
    """Change nothing: the baseline."""

    def override(self, neurons: Mapping[int, Tensor], statistics: Statistics | None) -> Override:
        return Override({})


@dataclass
class Constant:
    """Write one number, the same for every neuron."""

    value: float = Field(default=0.0, description="the number")

    def override(self, neurons: Mapping[int, Tensor], statistics: Statistics | None) -> Override:
        return Override(
            {
                layer: LayerOverride(indices, torch.full(indices.shape, self.value, dtype=torch.float32))
                for layer, indices in neurons.items()
            }
        )


@dataclass
class Mean:
    """Write each neuron's mean over the language's text."""

    def override(self, neurons: Mapping[int, Tensor], statistics: Statistics | None) -> Override:
        return _write(neurons, _needed(statistics, "mean").mean)


@dataclass
class Percentile:
    """Write each neuron's own percentile over the language's text."""

    percent: float = Field(ge=0, le=100, description="which percentile")

    def override(self, neurons: Mapping[int, Tensor], statistics: Statistics | None) -> Override:
        return _write(neurons, _needed(statistics, f"p{self.percent:g}").quantile(self.percent / 100))


def _needed(statistics: Statistics | None, name: str) -> Statistics:
    if statistics is None:
        raise LnbenchError(f"intervention {name!r} reads its values from Statistics; pass statistics=")
    return statistics


def _write(neurons: Mapping[int, Tensor], values: Tensor) -> Override:
    """The override that sets each neuron to its entry of ``values``, ``[layers, width]``."""
    layers, width = values.shape
    written = {}
    for layer, indices in neurons.items():
        indices = indices.cpu()
        if not 0 <= layer < layers or (indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < width):
            raise LnbenchError(
                f"the neurons of layer {layer} do not exist in these Statistics of {layers} layers x {width}: they "
                "belong to another model"
            )
        written[layer] = LayerOverride(indices, values[layer, indices])
    return Override(written)


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("none", Unchanged)
    register("zero", partial(Constant, value=0.0))
    register("mean", Mean)
    register("constant", Constant)
    for percent in range(1, 100):
        register(f"p{percent}", partial(Percentile, percent=percent))
