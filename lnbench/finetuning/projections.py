"""Which row or column of a feed-forward projection belongs to a neuron, in every architecture."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from lnbench.errors import LnbenchError, unknown
from lnbench.model.architectures import Architecture

Projection = Literal["gate", "up", "down"]
Factor = Literal["lora_A", "lora_B"]


class ProjectionPlace(NamedTuple):
    """Where one projection meets the neurons of a block."""

    path: str
    """The module, from the block."""
    factor: Factor = "lora_B"
    """The LoRA factor with one row (``lora_B``) or column (``lora_A``) per neuron."""
    offset: int = 0
    """The row of neuron 0."""

    @property
    def dim(self) -> int:
        """0 if a neuron is a row of the update, 1 if it is a column."""
        return 0 if self.factor == "lora_B" else 1


def places(row: Architecture, width: int) -> dict[Projection, ProjectionPlace]:
    """Return where each projection is; in a plain block ``gate`` is the one before the non-linearity, and no ``up``."""
    up = ProjectionPlace(row.before, offset=width) if row.fused else ProjectionPlace(row.up or "")
    here: dict[Projection, ProjectionPlace] = {
        "gate": ProjectionPlace(row.before),
        "up": up,
        "down": ProjectionPlace(row.after, "lora_A"),
    }
    return {name: place for name, place in here.items() if place.path}


def place(row: Architecture, width: int, projection: Projection) -> ProjectionPlace:
    """Return where one projection is.

    Raises:
        LnbenchError: ``up`` of a plain block, or another name.
    """
    if projection not in get_args(Projection):
        raise unknown("projection", projection, get_args(Projection))
    if projection not in (here := places(row, width)):
        raise LnbenchError("this model's feed-forward blocks are not gated, so they have no up projection")
    return here[projection]
