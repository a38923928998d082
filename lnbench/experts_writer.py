"""What an override writes at experts: the changed neurons of each row, which is one token's in one expert."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lnbench.errors import LnbenchError
from lnbench.model.experts import ExpertsBank
from lnbench.model.experts_taps import Rows
from lnbench.override_values import LayerOverride


class ChangedTokens(NamedTuple):
    """Which tokens of the forward pass that runs now are changed."""

    mask: Tensor | None
    """``BoolTensor[batch, length]``; None: all of them."""
    counted: Tensor | None
    """How often each counts, the same shape; None: each once where it is changed."""
    number: int
    """How many ``mask`` holds."""
    counting: bool
    """Whether they count: they do not where blocks run again after the pass."""


@dataclass
class ExpertsWriter:
    """What is written to one bank of experts, as tables ``[experts, expert_width]`` that each row looks up its own in.

    Raises:
        LnbenchError: an override's function, which sees all of its neurons at once.
    """

    bank: ExpertsBank
    parts: Sequence[LayerOverride]
    """In the bank's numbering."""
    bounds: tuple[Tensor, Tensor] | None
    """Least and greatest value observed of each neuron of :attr:`parts`, where that is known."""
    now: Callable[[], ChangedTokens | None]
    """Returns what the pass changes; None: nothing."""
    count: Callable[[str, Tensor, torch.device], None]
    """Takes how many ``rows`` and ``values`` were written, and how many ``outside`` the range observed."""
    _ready: dict[tuple[torch.device, torch.dtype], list[_Table]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(callable(part.operation) for part in self.parts):
            raise LnbenchError(
                f"layer {self.bank.layer} ({self.bank.path}) holds experts, of which each token runs only some, so an "
                "override's function never sees all of its neurons there; use set, scale, add or clamp"
            )

    def write(self, values: Tensor, rows: Rows) -> Tensor | None:
        """Return the activations ``[rows, expert_width]`` with the new values in them; None to leave them."""
        tokens = self.now()
        if tokens is None:
            return None
        meant = None
        if tokens.mask is not None:
            meant = tokens.mask.to(values.device).reshape(-1)[rows.tokens].unsqueeze(1)
        new, outside, written = values, values.new_zeros((), dtype=torch.long), values.new_zeros((), dtype=torch.long)
        any_changed = torch.zeros(len(rows.tokens), dtype=torch.bool, device=values.device)
        for part, table in zip(self.parts, self._tables(values), strict=True):
            chosen = table.chosen[rows.experts]
            chosen = chosen if meant is None else chosen & meant
            changed = part.new(values, None if table.values is None else table.values[..., rows.experts, :])
            new = torch.where(chosen, changed, new)
            any_changed |= chosen.any(1)
            if table.bounds is not None:
                low, high = (bound[rows.experts] for bound in table.bounds)
                outside = outside + (chosen & ((changed < low) | (changed > high))).sum()
                written = written + chosen.sum()
        if tokens.counting:
            times = 1 if tokens.counted is None else tokens.counted.to(values.device).reshape(-1)[rows.tokens]
            for what, number in (("rows", (any_changed * times).sum()), ("values", written), ("outside", outside)):
                self.count(what, number, values.device)
        return new

    def _tables(self, values: Tensor) -> list[_Table]:
        key = (values.device, values.dtype)
        if key not in self._ready:
            self._ready[key] = list(self._laid_out(values))
        return self._ready[key]

    def _laid_out(self, values: Tensor) -> list[_Table]:
        shape, tables, first = (self.bank.experts, self.bank.expert_width), [], 0
        for part in self.parts:
            places, last = part.indices.long(), first + part.indices.numel()

            def table(numbers: Tensor, places: Tensor = places) -> Tensor:
                flat = torch.zeros(*numbers.shape[:-1], self.bank.width, dtype=values.dtype)
                flat[..., places.cpu()] = numbers.to("cpu", values.dtype)
                return flat.reshape(*numbers.shape[:-1], *shape).to(values.device)

            chosen = torch.zeros(self.bank.width, dtype=torch.bool)
            chosen[places.cpu()] = True
            written = None if part.values is None else table(part.values)
            if written is not None and not torch.isfinite(written).all():
                raise LnbenchError(
                    f"an override's value is too large for a model in {values.dtype}; load it in another"
                )
            bounds = None if self.bounds is None else [table(bound[first:last]) for bound in self.bounds]
            tables.append(
                _Table(
                    chosen.reshape(shape).to(values.device), written, None if bounds is None else (bounds[0], bounds[1])
                )
            )
            first = last
        return tables


class _Table(NamedTuple):
    chosen: Tensor
    """Which neurons are changed."""
    values: Tensor | None
    bounds: tuple[Tensor, Tensor] | None
