"""How neurons of experts are read and written: which expert and which token each row of their non-linearity is of."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lnbench.errors import LnbenchError
from lnbench.model.architectures import POST
from lnbench.model.experts import ExpertsBank
from lnbench.model.forward_passes import NOT_CALLED
from lnbench.model.gate_functions import AtProduct
from lnbench.model.taps import Handle


class Rows(NamedTuple):
    """What the rows of a bank's values are of."""

    experts: Tensor
    """``LongTensor[rows]``."""
    tokens: Tensor
    """``LongTensor[rows]``, positions in the flattened batch."""


ExpertsTap = Callable[[Tensor, Rows], Tensor | None]
"""A function of an experts bank's values ``[rows, expert_width]``; it may return new ones."""
ExpertsObserver = Callable[[Tensor, Tensor, Rows], None]
"""A function of an experts bank's values before and after the non-linearity, ``[rows, expert_width]`` each."""


@dataclass
class Flow:
    """One forward pass of a bank."""

    bank: ExpertsBank
    hidden: Tensor
    """``[tokens, hidden]``, what it reads; ``[experts · tokens, hidden]`` where each expert is given its own."""
    index: Tensor | None = None
    """``[tokens, k]``, the experts of each token."""
    scores: Tensor | None = None
    """What their outputs are multiplied with, ``[tokens, k]``; ``[tokens, experts]`` or None where every one runs."""
    calls: deque[Rows] = field(default_factory=deque)
    """Of the calls of the non-linearity that are still to come."""
    ran: bool = False

    def take(self, values: Tensor) -> tuple[Rows, Tensor | None]:
        """Return the rows of the next call, and which of its rows they are; None: all.

        Raises:
            LnbenchError: the non-linearity was called with other rows than the routing says.
        """
        self.ran = True
        kept = None
        if self.bank.order == "every":
            rows, kept = self._every()
        elif self.calls:
            rows = self.calls.popleft()
        else:
            rows = Rows(values.new_empty(0, dtype=torch.long), values.new_empty(0, dtype=torch.long))
        of_call = values.numel() // self.bank.expert_width
        if of_call != (len(rows.tokens) if kept is None else self.bank.experts * self.tokens):
            raise LnbenchError(
                f"layer {self.bank.layer} ({self.bank.path}) ran its non-linearity on {of_call} rows where "
                f"{len(rows.tokens)} pairs of a token and an expert were routed, so which row is whose is not known; "
                "load the model with experts_implementation=grouped_mm"
            )
        return rows, kept

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return len(self.hidden) // (self.bank.experts if self.separate else 1)

    @property
    def separate(self) -> bool:
        """Whether each expert is given inputs of its own: the tokens weighted by its score, or zeros."""
        return self.bank.order == "every" and self.scores is None

    def _every(self) -> tuple[Rows, Tensor | None]:
        shape = (self.bank.experts, self.tokens)
        experts = torch.arange(shape[0], device=self.hidden.device).unsqueeze(1).expand(shape).reshape(-1)
        tokens = torch.arange(shape[1], device=self.hidden.device).expand(shape).reshape(-1)
        if not self.separate:
            return Rows(experts, tokens), None
        # An expert that a token is not routed to reads zeros for it.
        kept = (self.hidden != 0).any(-1)
        return Rows(experts[kept], tokens[kept]), kept

    def inputs(self, expert: int, tokens: Tensor) -> Tensor:
        """Return what an expert reads at some tokens, ``[rows, hidden]``."""
        return self.hidden[tokens + expert * self.tokens if self.separate else tokens]

    def score(self, expert: int, token: int) -> float:
        """Return what an expert's output at a token is multiplied with; the sum, if it is routed there twice."""
        if self.scores is None:
            return 1.0
        scores = self.scores[token].float()
        return float(scores[expert] if self.index is None else scores[self.index[token] == expert].sum())


def _eager(index: Tensor, experts: int) -> Iterator[Rows]:
    """Yield the rows of each expert that is hit, in ascending order."""
    for expert in torch.unique(index).tolist():
        if expert < experts:
            _, tokens = torch.where(expert == index.T)
            yield Rows(torch.full_like(tokens, expert), tokens)


def _grouped(index: Tensor, _experts: int) -> Iterator[Rows]:
    """Yield all rows, sorted by expert as the implementation sorts them."""
    experts, order = torch.sort(index.reshape(-1))
    yield Rows(experts, order // index.shape[1])


def _batched(index: Tensor, _experts: int) -> Iterator[Rows]:
    """Yield all rows, token by token."""
    tokens = torch.arange(len(index), device=index.device)
    yield Rows(index.reshape(-1), tokens.repeat_interleave(index.shape[1]))


IMPLEMENTATIONS: dict[str | None, Callable[[Tensor, int], Iterator[Rows]]] = {
    None: _eager,
    "eager": _eager,
    "grouped_mm": _grouped,
    "batched_mm": _batched,
}
"""transformers' experts implementations that call the non-linearity, and the order of the rows there."""


def _begin(bank: ExpertsBank, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow:
    """Return a pass from the arguments of a bank's forward; the implementation is the one in force at this call."""
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    hidden = given[0].reshape(-1, given[0].shape[-1])
    if bank.order == "sorted":
        return Flow(bank, hidden)
    if bank.order == "every":
        scores = given[1].reshape(len(hidden), bank.experts) if len(given) > 1 else None
        return Flow(bank, hidden, None, scores)
    index = next(value for value in given[1:] if not value.is_floating_point())
    scores = next(value for value in given[1:] if value.is_floating_point())
    index, scores = index.reshape(len(hidden), -1), scores.reshape(len(hidden), -1)
    implementation = None
    if hasattr(module, "is_transposed"):
        implementation = getattr(module.config, "_experts_implementation", None)
        if getattr(module, "_is_expert_parallel", False):
            implementation = "expert parallelism"
    if implementation not in IMPLEMENTATIONS:
        raise LnbenchError(
            f"experts run by {implementation!r} apply their non-linearity inside a kernel, where lnbench can neither "
            "read nor write it; load the model with experts_implementation=grouped_mm (or call "
            "model.set_experts_implementation('grouped_mm'))"
        )
    return Flow(bank, hidden, index, scores, deque(IMPLEMENTATIONS[implementation](index, bank.experts)))


def _sorted(flow: Flow, output: tuple[Any, ...]) -> None:
    """Take the routing from the output of a router that sorts the tokens by expert."""
    order, tokens, scores, sizes, _ = output
    experts = torch.repeat_interleave(torch.tensor(sizes, device=tokens.device))
    count = len(flow.hidden)
    flow.calls.append(Rows(experts, tokens))
    # Back in the order of the tokens.
    flow.index = torch.empty_like(experts).scatter_(0, order, experts).reshape(count, -1)
    flow.scores = torch.empty_like(scores).scatter_(0, order, scores).reshape(count, -1)


AtValues = Callable[[Tensor, Rows, Flow], Tensor | None]


def attach(
    model: nn.Module,
    bank: ExpertsBank,
    handle: Handle,
    *,
    pre: AtValues | None = None,
    post: AtValues | None = None,
    end: Callable[[Flow, tuple[Any, ...], dict[str, Any], Any], None] | None = None,
) -> None:
    """Call functions with a bank's values in every forward pass; what they return, unless None, is written there.

    Args:
        model: The causal LM.
        bank: Where.
        handle: Where the hooks are kept.
        pre: Called before each call of the non-linearity.
        post: Called after it.
        end: Called with the pass, the experts' arguments and their output.
    """
    module = model.get_submodule(bank.path)
    state: dict[str, Any] = {"flow": None, "rows": None}

    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        flow = state["flow"] = _begin(bank, module, args, kwargs)
        if bank.order == "routed" and not flow.calls:
            flow.ran = True  # no token was routed to any expert
            for function in (pre, post):
                if function is not None:
                    empty = torch.empty(0, dtype=torch.long, device=flow.hidden.device)
                    function(flow.hidden.new_empty(0, bank.expert_width), Rows(empty, empty), flow)

    def leave(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        flow, state["flow"] = state["flow"], None
        if output is None or flow is None:
            return
        if flow.calls or not flow.ran:
            raise LnbenchError(f"layer {bank.layer} ({bank.path}) did not call its non-linearity: {NOT_CALLED}")
        if end is not None:
            end(flow, args, kwargs, output)

    def called(function: AtValues | None, values: Tensor, flow: Flow) -> Tensor | None:
        if function is None:
            return None
        # The function may call the non-linearity itself.
        state["flow"] = None
        try:
            return _on_rows(bank, values, state["rows"], lambda own, rows: function(own, rows, flow))
        finally:
            state["flow"] = flow

    def at_input(values: Tensor) -> Tensor | None:
        if (flow := state["flow"]) is None:
            return None
        state["rows"] = flow.take(values)
        return called(pre, values, flow)

    def at_output(values: Tensor) -> Tensor | None:
        flow = state["flow"]
        return None if flow is None else called(post, values, flow)

    handle.add(module.register_forward_pre_hook(enter, with_kwargs=True))
    handle.add(module.register_forward_hook(leave, with_kwargs=True, always_call=True))
    if bank.order == "sorted":
        router: Any = module.router
        handle.add(
            router.register_forward_hook(
                lambda _module, _args, output: _sorted(state["flow"], output) if state["flow"] is not None else None
            )
        )
    if bank.in_gate:
        _wrap(module, "_apply_gate", lambda inner: _in_gate(bank, inner, at_input, at_output), handle)
        return
    activation = attrgetter(bank.activation)(model)
    if not isinstance(activation, nn.Module):
        holder, _, name = bank.activation.rpartition(".")
        _wrap(model.get_submodule(holder), name, lambda inner: _around(inner, at_input, at_output), handle)
        return

    def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        new = at_input(args[0])
        return None if new is None else (new, *args[1:])

    handle.add(activation.register_forward_pre_hook(before))
    handle.add(activation.register_forward_hook(lambda _module, _args, output: at_output(output)))


def _on_rows(
    bank: ExpertsBank, values: Tensor, taken: tuple[Rows, Tensor | None], function: ExpertsTap
) -> Tensor | None:
    rows, kept = taken
    flat = values.reshape(-1, bank.expert_width)
    new = function(flat if kept is None else flat[kept], rows)
    if new is None:
        return None
    if kept is not None:
        new = flat.masked_scatter(kept.unsqueeze(1), new)
    return new.reshape(values.shape)


def _around(inner: Any, at_input: Any, at_output: Any) -> Any:
    def call(values: Tensor, *args: Any, **kwargs: Any) -> Any:
        new = at_input(values)
        output = inner(values if new is None else new, *args, **kwargs)
        new = at_output(output)
        return output if new is None else new

    return call


def _in_gate(bank: ExpertsBank, inner: Any, at_input: Any, at_output: Any) -> Any:
    product = bank.product
    assert product is not None

    def call(gate_up: Tensor) -> Any:
        new = at_input(product.gate_of(gate_up))
        if new is not None:
            gate_up = gate_up.clone()
            product.gate_of(gate_up).copy_(new)
        with AtProduct(product, at_output):
            return inner(gate_up)

    return call


def _wrap(module: nn.Module, name: str, wrapper: Callable[[Any], Any], handle: Handle) -> None:
    """Put a function around a module's attribute until the handle is removed."""
    own = module.__dict__.get(name)
    module.__dict__[name] = wrapper(getattr(module, name))

    def restore() -> None:
        if own is None:
            module.__dict__.pop(name, None)
        else:
            module.__dict__[name] = own

    handle.callback(restore)


def tap_experts(model: nn.Module, bank: ExpertsBank, site: str, function: ExpertsTap, handle: Handle) -> None:
    """Call ``function`` with an experts bank's values at a site; what it returns, unless None, is written there.

    Args:
        model: The causal LM.
        bank: Where.
        site: ``pre`` or ``post``.
        function: It takes values ``[rows, expert_width]`` and what the rows are of, and returns new values.
        handle: Where the hooks are kept.
    """

    def at(values: Tensor, rows: Rows, _flow: Flow) -> Tensor | None:
        return function(values, rows)

    attach(model, bank, handle, **{"post" if site == POST else "pre": at})  # type: ignore[arg-type]


def observe_experts(
    model: nn.Module,
    bank: ExpertsBank,
    function: ExpertsObserver,
    handle: Handle,
    end: Callable[[], None] | None = None,
) -> None:
    """Call ``function`` with an experts bank's values before and after the non-linearity, and what their rows are of.

    Args:
        model: The causal LM.
        bank: Where.
        function: Called as often as the non-linearity is.
        handle: Where the hooks are kept.
        end: Called once the bank has run.
    """
    seen: dict[str, Tensor] = {}

    def before(values: Tensor, _rows: Rows, _flow: Flow) -> None:
        seen["pre"] = values

    def after(values: Tensor, rows: Rows, _flow: Flow) -> None:
        function(seen["pre"], values, rows)

    attach(model, bank, handle, pre=before, post=after, end=None if end is None else lambda *_: end())


def observe_routing(model: nn.Module, bank: ExpertsBank, function: Callable[[Tensor], None], handle: Handle) -> None:
    """Call ``function`` with the routing weights ``[tokens, experts]`` of every forward pass.

    They are what the experts' outputs are multiplied with; 0 where a token is not routed to an expert, and 1 where it
    is in models that multiply the experts' inputs.
    """

    def end(flow: Flow, _args: Any, _kwargs: Any, _output: Any) -> None:
        function(_routing(flow))

    attach(model, bank, handle, end=end)


def _routing(flow: Flow) -> Tensor:
    experts = flow.bank.experts
    if flow.separate:
        return (flow.hidden != 0).any(-1).view(experts, -1).T.to(flow.hidden.dtype)
    assert flow.index is not None and flow.scores is not None
    # What is past the last expert (LongCat's identities) goes into a column that is left out.
    weights = flow.scores.new_zeros(flow.tokens, experts + 1)
    return weights.scatter_add_(1, flow.index.clamp(max=experts), flow.scores)[:, :experts]
