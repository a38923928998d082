"""Non-linearities by name, so that counts can be finished where the model is not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import nn
from transformers.activations import ACT2FN

from lnbench.errors import LnbenchError
from lnbench.statistics.layer_accumulator import Activation

_WITH_PARAMETERS = ("prelu", "xielu")


def names_of(modules: Sequence[nn.Module]) -> list[str | None]:
    """The name that transformers knows each non-linearity by; None for one that equals none of them."""
    return [_name(module) for module in modules]


def by_name(names: Sequence[str | None]) -> list[Activation]:
    """The non-linearities of these names.

    Raises:
        LnbenchError: one has no name.
    """
    if unnamed := [layer for layer, name in enumerate(names) if name is None]:
        raise LnbenchError(
            f"the non-linearity of layer {unnamed[0]} is none of transformers' own, so these counts can be "
            "finished only beside their model: pass --model"
        )
    return [ACT2FN[str(name)] for name in names]


def _name(module: nn.Module) -> str | None:
    if any(True for _ in module.parameters()):
        return None
    probe = _probe()
    with torch.inference_mode():
        values = module(probe)
        return next((name for name, known in _known().items() if torch.equal(known, values)), None)


@cache
def _probe() -> torch.Tensor:
    return torch.linspace(-30, 30, 6001)


@cache
def _known() -> dict[str, torch.Tensor]:
    """The values of every non-linearity of transformers that has no parameters."""
    return {name: ACT2FN[name].eval()(_probe()) for name in ACT2FN if name not in _WITH_PARAMETERS}
