"""What an override writes: per layer, neuron indices and new values. Data only; :mod:`lnbench.overrides` applies it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from lnbench.errors import LnbenchError, unknown
from lnbench.files import fingerprint

Operation = Literal["set", "scale", "shift"]


@dataclass(frozen=True)
class LayerOverride:
    """What happens to some neurons of one layer.

    Args:
        indices: ``LongTensor[n]``, the neurons, without repeats.
        values: ``FloatTensor[n]``: the new activation (``set``), its factor (``scale``) or its offset (``shift``).
        operation: ``set`` (the default), ``scale`` or ``shift``.

    Raises:
        LnbenchError: shapes differ, an index repeats, is negative or not an integer, a value is not finite, unknown
            operation.
    """

    indices: Tensor
    values: Tensor
    operation: Operation = "set"

    def __post_init__(self) -> None:
        if self.operation not in get_args(Operation):
            raise unknown("override operation", self.operation, get_args(Operation))
        if self.indices.ndim != 1 or self.indices.shape != self.values.shape:
            raise LnbenchError(
                f"an override needs one value per neuron: got indices of shape {tuple(self.indices.shape)} and "
                f"values of shape {tuple(self.values.shape)}"
            )
        if self.indices.dtype == torch.bool or self.indices.is_floating_point():
            raise LnbenchError(f"an override's neuron indices must be integers, got {self.indices.dtype}")
        if len(set(self.indices.tolist())) != self.indices.numel() or (self.indices < 0).any():
            raise LnbenchError("an override's neuron indices must be non-negative and without repeats")
        if not torch.isfinite(self.values).all():
            raise LnbenchError("an override's values must be finite numbers")


@dataclass(frozen=True)
class Override:
    """What an intervention comes to for one model: layer → :class:`LayerOverride`."""

    layers: Mapping[int, LayerOverride] = field(default_factory=dict)

    @property
    def neurons(self) -> int:
        """The number of neurons changed."""
        return sum(layer.indices.numel() for layer in self.layers.values())

    @property
    def fingerprint(self) -> str:
        """Which neurons get which values, in 16 hexadecimal digits."""
        parts = [
            [layer, part.operation, part.indices.tolist(), part.values.double().tolist()]
            for layer, part in sorted(self.layers.items())
        ]
        return fingerprint(parts)

    def check(self, layers: int, width: int) -> None:
        """Check that every neuron exists in a model of ``layers × width`` neurons.

        Raises:
            LnbenchError: a layer or an index lies outside.
        """
        for layer, change in self.layers.items():
            last = int(change.indices.max()) if change.indices.numel() else 0
            if not 0 <= layer < layers or last >= width:
                raise LnbenchError(
                    f"the override names neuron ({layer}, {last}), but the model has {layers} layers of {width} "
                    "neurons: it was made for another model"
                )
