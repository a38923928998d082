"""Which row or column of a projection belongs to a neuron, or to a head, in every architecture."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn

from lnbench.errors import LnbenchError, unknown
from lnbench.finetuning.targets import Factor, Target
from lnbench.model.banks import Bank, Slice
from lnbench.model.experts import ExpertsBank, Matrix, outermost
from lnbench.model.places import Place

Projection = Literal["gate", "up", "down"]


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

    def target(self, neurons: Tensor) -> Target:
        """Return what is trained for a bank's neurons."""
        return Target(self.factor, self.rows(neurons))

    def of_neurons(self, values: Tensor, width: int) -> Tensor:
        """Return the values of a bank's neurons, ``[width]``, of those of all rows or columns."""
        return values[self.rows(torch.arange(width))]


class ExpertsPlace(NamedTuple):
    """Where one projection meets the neurons of a bank of experts: in one parameter, ``[experts, …, …]``."""

    path: str
    """The parameter, from the causal LM."""
    factor: Factor
    width: int
    """Neurons of each expert."""
    experts: int
    offset: int = 0
    step: int = 1

    def target(self, neurons: Tensor) -> Target:
        """Return what is trained for a bank's neurons."""
        experts, indices = neurons // self.width, neurons % self.width
        return Target(self.factor, indices * self.step + self.offset, experts)

    def of_neurons(self, values: Tensor, width: int) -> Tensor:
        """Return the values of a bank's neurons, ``[width]``, of those of all rows or columns of each expert."""
        return values[:, torch.arange(self.width) * self.step + self.offset].reshape(width)


def experts_places(model: nn.Module, bank: ExpertsBank) -> dict[Projection, ExpertsPlace]:
    """Return where each projection of a bank of experts is; plain experts have no ``up``."""

    def of(matrix: Matrix, *, columns: bool) -> ExpertsPlace:
        module = model.get_submodule(matrix.parameter.rpartition(".")[0])
        # PEFT takes [experts, out, in] unless the module says is_transposed, and its lora_B for the update's rows.
        first_axis = columns == matrix.transposed
        factor: Factor = "lora_B" if first_axis != bool(getattr(module, "is_transposed", False)) else "lora_A"
        start, step = (0, 1) if columns else (matrix.start, matrix.step)
        return ExpertsPlace(outermost(matrix.parameter), factor, bank.expert_width, bank.experts, start, step)

    here: dict[Projection, ExpertsPlace] = {"gate": of(bank.before, columns=False)}
    if bank.up is not None:
        here["up"] = of(bank.up, columns=False)
    return here | {"down": of(bank.down, columns=True)}


def check_experts(model: nn.Module, bank: ExpertsBank) -> None:
    """Raise unless PEFT can adapt the weights of experts.

    Raises:
        LnbenchError: it cannot.
    """
    weight: Tensor = attrgetter(bank.before.parameter)(model)
    if weight.ndim != 3:
        raise LnbenchError(
            f"{bank.before.parameter} of this {type(model).__name__} holds all experts in one matrix, which another "
            "module reads, so that PEFT's update of it would have no effect; choose neurons that are no experts', or "
            "fine-tune the attention alone"
        )


def all_places(model: nn.Module, bank: Bank | ExpertsBank) -> dict[Projection, ProjectionPlace | ExpertsPlace]:
    """Return where each projection of a bank is, of experts or not."""
    return {**(places(bank) if isinstance(bank, Bank) else experts_places(model, bank))}


def head_target(place: Place, heads: Tensor) -> Target:
    """Return what is trained for heads: the columns of the output projection that read them."""
    coordinates = torch.arange(place.unit_size)
    return Target("lora_A", (heads[:, None] * place.unit_size + coordinates).flatten())


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
    return of_name(places(bank), projection)


Where = TypeVar("Where")


def of_name(here: Mapping[Projection, Where], projection: Projection) -> Where:
    """Return one of the projections that a bank has.

    Raises:
        LnbenchError: ``up`` of a plain block, or another name.
    """
    if projection not in get_args(Projection):
        raise unknown("projection", projection, get_args(Projection))
    if projection not in here:
        raise LnbenchError("this model's feed-forward blocks are not gated, so they have no up projection")
    return here[projection]
