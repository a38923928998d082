"""A plugin for lnbench: the selector ``most_active`` and the intervention ``amplify``."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench import LayerOverride, NeuronSet, Override, OverrideContext, Statistics, hookimpl


@dataclass
class MostActive:
    """Per language, the neurons with the highest share of positive activations."""

    fraction: float = Field(default=0.01, gt=0, le=1, description="share of all neurons")

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        masks = {}
        for language, one in statistics.items():
            rates = one.positive_rate
            best = rates.flatten().topk(round(self.fraction * rates.numel())).indices
            masks[language] = torch.zeros(rates.numel(), dtype=torch.bool).index_fill(0, best, True).view(rates.shape)
        return NeuronSet.from_masks(next(iter(statistics.values())).model, masks)


@dataclass
class Amplify:
    """Multiply each neuron's activation by a factor."""

    factor: float = Field(default=2.0, allow_inf_nan=False, description="what activations are multiplied by")

    def override(self, context: OverrideContext) -> Override:
        return Override(
            {
                layer: LayerOverride(indices, torch.full(indices.shape, self.factor), operation="scale")
                for layer, indices in context.neurons.items()
            }
        )


@hookimpl
def lnbench_register_selectors(register: Callable[[str, Any], None]) -> None:
    register("most_active", MostActive)


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("amplify", Amplify)
