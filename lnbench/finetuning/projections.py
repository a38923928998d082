"""Which row or column of a feed-forward projection belongs to a neuron, in every architecture."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from torch import Tensor

from lnbench.errors import LnbenchError, unknown
from lnbench.model.banks import Bank, Slice

Projection = Literal["gate", "up", "down"]
Factor = Literal["lora_A", "lora_B"]


class ProjectionPlace(NamedTuple):
    """Where one projection meets the neurons of a bank."""

    path: str
    """The module, from the causal LM."""
    factor: Factor = "lora_B"
    """The LoRA factor with one row (``lora_B``) or column (``lora_A``) per neuron."""
    offset: int = 0
    """The row of the bank's first neuron."""
    step: int = 1
    """Rows from one neuron to the next."""

    @property
    def dim(self) -> int:
        """0 if a neuron is a row of the update, 1 if it is a column."""
        return 0 if self.factor == "lora_B" else 1

    def rows(self, neurons: Tensor) -> Tensor:
        """Return the rows, or columns, of a bank's neurons."""
        return neurons * self.step + self.offset


def places(bank: Bank) -> dict[Projection, ProjectionPlace]:
    """Return where each projection is; in a plain block ``gate`` is the one before the non-linearity, and no ``up``."""
    here: dict[Projection, ProjectionPlace] = {
        "gate": _rows(bank.before),
        "down": ProjectionPlace(bank.after, "lora_A"),
    }
    return here if bank.up is None else {"gate": here["gate"], "up": _rows(bank.up), "down": here["down"]}


def _rows(part: Slice) -> ProjectionPlace:
    return ProjectionPlace(part.module, offset=part.start, step=part.step)


def place(bank: Bank, projection: Projection) -> ProjectionPlace:
    """Return where one projection is.

    Raises:
        LnbenchError: ``up`` of a plain block, or another name.
    """
    if projection not in get_args(Projection):
        raise unknown("projection", projection, get_args(Projection))
    if projection not in (here := places(bank)):
        raise LnbenchError("this model's feed-forward blocks are not gated, so they have no up projection")
    return here[projection]
