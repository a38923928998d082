"""Which row or column of a feed-forward projection belongs to a neuron, in every architecture."""

from __future__ import annotations

from typing import Literal, NamedTuple

from lnbench.errors import LnbenchError, unknown
from lnbench.model.architectures import Architecture

Projection = Literal["gate", "up", "down"]
Factor = Literal["lora_A", "lora_B"]


class ProjectionPlace(NamedTuple):
    """Where one projection meets the neurons of a block."""

    path: str
    """The module, from the block."""
    factor: Factor
    """The LoRA factor with one row (``lora_B``) or column (``lora_A``) a neuron."""
    offset: int
    """The row of neuron 0."""

    @property
    def dim(self) -> int:
        """0 if a neuron is a row of the update, 1 if it is a column."""
        return 0 if self.factor == "lora_B" else 1


def place(row: Architecture, width: int, projection: Projection) -> ProjectionPlace:
    """Return where ``gate`` (in a plain block, the projection before the non-linearity), ``up`` or ``down`` is.

    Raises:
        LnbenchError: ``up`` of a plain block, or another name.
    """
    if projection == "gate":
        return ProjectionPlace(row.before, "lora_B", 0)
    if projection == "down":
        return ProjectionPlace(row.after, "lora_A", 0)
    if projection != "up":
        raise unknown("projection", projection, ("gate", "up", "down"))
    if row.fused:
        return ProjectionPlace(row.before, "lora_B", width)
    if row.up is None:
        raise LnbenchError("this model's feed-forward blocks are not gated, so they have no up projection")
    return ProjectionPlace(row.up, "lora_B", 0)
