"""The self-check of a bank of experts: at a routed token, a neuron has the effect that its expert's weights predict."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lnbench.errors import LnbenchError
from lnbench.model.bank_check import POSITION, BankCheck, tolerance_of
from lnbench.model.experts import ExpertsBank
from lnbench.model.experts_taps import Flow, Rows, attach
from lnbench.model.taps import Handle

_ROUNDED = 2
"""Tolerances of a bank: what its outputs are multiplied with, and their sum over experts, are rounded too."""
_SMALL = 1e-2
"""Share of the largest neuron below which the factor of a neuron is not read off its product."""


class ExpertsProbe:
    """What is seen of one bank in the forward passes of the self-check."""

    def __init__(self, model: nn.Module, bank: ExpertsBank) -> None:
        self.model, self.bank = model, bank
        self.module = model.get_submodule(bank.outer)
        self.given: Tensor | None = None
        """The experts' output, at the last visit."""
        self.dtype = torch.float32
        self._tokens = 0
        self._elsewhere = 0.0
        self._arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self._neuron = 0
        self._place: int | None = None
        self._predicted: Tensor | None = None

    def watch_reading(self, hooks: Handle) -> None:
        """Compare every value read with what the weights give for its expert and token."""
        attach(self.model, self.bank, hooks, post=self._read, end=self._keep)

    def _read(self, post: Tensor, rows: Rows, flow: Flow) -> None:
        self._tokens = flow.tokens
        function = self.bank.function(self.model)
        for expert in torch.unique(rows.experts).tolist():
            own = rows.experts == expert
            read = flow.inputs(expert, rows.tokens[own])
            pre = self.bank.before.apply(self.model, self.bank.experts, expert, read)
            expected = function(pre.to(post.dtype))
            largest = max(float(expected.abs().max()), float(pre.abs().max()), 1e-30)
            self._elsewhere = max(self._elsewhere, float((expected - post[own]).abs().max()) / largest)

    def _keep(self, _flow: Flow, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        copies = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]
        named = {name: value.clone() if isinstance(value, Tensor) else value for name, value in kwargs.items()}
        self._arguments, self.given, self.dtype = (tuple(copies), named), output.clone(), output.dtype

    def choose(self, tokens: tuple[int, ...], kind: str) -> None:
        """Check that the bank ran on the text's tokens; what is written is chosen where the routing is known."""
        where = f"layer {self.bank.layer} ({self.bank.path}) of this {kind}"
        if self.given is None:
            raise LnbenchError(f"{where} did not run in a second forward pass")
        if self._tokens != tokens[0] * tokens[1]:
            raise LnbenchError(
                f"{where} reads {self._tokens} positions of {tokens[0]} × {tokens[1]} tokens: its positions are not "
                "the text's tokens"
            )
        self._stop = tokens[1]
        self._largest = max(float(self.given.float().abs().max()), 1e-3)

    def watch_writing(self, hooks: Handle) -> None:
        """Write one neuron of an expert at the first token from :data:`POSITION` on that some expert is routed to."""
        self._predicted = None
        attach(self.model, self.bank, hooks, post=self._write, end=self._keep)

    def _write(self, post: Tensor, rows: Rows, flow: Flow) -> Tensor | None:
        inside = (rows.tokens >= POSITION) & (rows.tokens < self._stop)
        if self._predicted is not None or not inside.any():
            return None
        token = int(rows.tokens[inside].min())
        expert = int(rows.experts[inside & (rows.tokens == token)][0])
        bank, read = self.bank, flow.inputs(expert, torch.tensor([token], device=rows.tokens.device))
        down = bank.down.of(self.model, bank.experts)[expert].float()
        factor, usable = self._factor(expert, read)
        effects = (factor.abs() * down.square().sum(0).sqrt()).masked_fill(~usable, 0)
        index, score = int(effects.argmax()), flow.score(expert, token)
        reach = abs(float(factor[index]) * score) * float(down[:, index].abs().max())
        written = post.clone()
        row = (rows.tokens == token) & (rows.experts == expert)
        written[row, index] += self._largest / max(reach, 1e-6)
        moved = float(written[row, index][0]) - float(post[row, index][0])
        self._neuron = bank.start + expert * bank.expert_width + index
        self._place = token + expert * flow.tokens if flow.separate else token
        self._predicted = down[:, index] * (moved * float(factor[index]) * score)
        return written

    def _factor(self, expert: int, read: Tensor) -> tuple[Tensor, Tensor]:
        """Return what each neuron of an expert is multiplied with at one token, and where that is known well."""
        bank = self.bank
        pre = bank.before.apply(self.model, bank.experts, expert, read)[0].float()
        if bank.up is None:
            return torch.ones_like(pre), torch.ones_like(pre, dtype=torch.bool)
        up = bank.up.apply(self.model, bank.experts, expert, read)[0].float()
        post = bank.function(self.model)(pre.clone())
        product = bank.joined(self.model, pre.clone(), up)
        usable = post.abs() > _SMALL * post.abs().max()
        return product / torch.where(usable, post, torch.ones_like(post)), usable

    def compare(self) -> BankCheck:
        """Return what the write did to the experts' output, on the same input."""
        assert self.given is not None
        bank = self.bank
        tolerance = _ROUNDED * tolerance_of(torch.finfo(self.dtype).eps, max(bank.expert_width, bank.down.rows))
        if self._predicted is None:
            return BankCheck(bank.layer, bank.path, bank.start, 0.0, 0.0, self._elsewhere, tolerance)
        args, kwargs = self._arguments
        unchanged = self.module(*args, **kwargs).float().reshape(-1, bank.down.rows)
        given = self.given.float().reshape(-1, bank.down.rows)
        wanted = torch.zeros_like(given)
        wanted[self._place] = self._predicted
        scale = max(*(float(values.abs().max()) for values in (given, unchanged, wanted)), 1e-30)
        return BankCheck(
            bank.layer,
            bank.path,
            self._neuron,
            float((given - unchanged - wanted).abs().max()) / scale,
            float(wanted.abs().max()) / scale,
            self._elsewhere,
            tolerance,
        )
