"""Non-linearities by name, so that counts can be finished where the model is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from lnbench.errors import LnbenchError
from lnbench.model.banks import PerBank
from lnbench.statistics.layer_accumulator import Activation

_WITH_PARAMETERS = ("prelu", "xielu")


def names_of(activations: Sequence[Activation]) -> list[str | None]:
    """Return the name that transformers knows each non-linearity by; None for one that is not one of its own."""
    with torch.inference_mode():
        probe = torch.linspace(-30, 30, 6001)
        outputs = {name: ACT2FN[name].eval()(probe) for name in ACT2FN if name not in _WITH_PARAMETERS}
        return [_name(activation, probe, outputs) for activation in activations]


def _name(activation: Activation, probe: Tensor, outputs: Mapping[str, Tensor]) -> str | None:
    if isinstance(activation, PerBank):
        names = {_name(function, probe, outputs) for function in activation.functions}
        return names.pop() if len(names) == 1 else None
    if isinstance(activation, nn.Module) and any(True for _ in activation.parameters()):
        return None
    output = activation(probe)
    return next((name for name, known in outputs.items() if torch.equal(known, output)), None)


def by_name(names: Sequence[str | None]) -> list[Activation]:
    """Return the non-linearities of these names.

    Raises:
        LnbenchError: one has no name.
    """
    if None in names:
        raise LnbenchError(
            f"layer {names.index(None)} has a custom activation function, so shards cannot be merged without the "
            "model: pass --model"
        )
    return [ACT2FN[str(name)] for name in names]
