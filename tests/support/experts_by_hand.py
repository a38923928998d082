"""Experts written out: one token and one expert at a time, with weights read by name and gates by their formulas."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lnbench.model.experts import ExpertsBank

Neurons = Callable[[int, int, Tensor, Tensor], Tensor | None]
"""A function of an expert, a token, and the neurons before and after the non-linearity; it may return new ones."""


class Routed(NamedTuple):
    """What one expert does at one token."""

    expert: int
    token: int
    read: Tensor
    score: Tensor
    row: int
    """Of the output."""


def _own_non_linearity(module: Any, gate: Tensor) -> Tensor:
    function = getattr(module, "act_fn", None) or getattr(module, "activation", None) or module.mlp.activation_fn
    return function(gate)  # type: ignore[no-any-return]


def _swish(module: Any, gate: Tensor, limit: str, alpha: str) -> Tensor:
    gate = gate.clamp(max=getattr(module, limit))
    return gate * torch.sigmoid(gate * getattr(module, alpha))


def _clamped(values: Tensor, limit: float) -> Tensor:
    return values.clamp(min=-limit, max=limit)


Part = Callable[[Any, Tensor], Tensor]
GATES: dict[str, tuple[Part, Part]] = {
    "GptOssExperts": (lambda m, g: _swish(m, g, "limit", "alpha"), lambda m, u: _clamped(u, m.limit) + 1),
    "MiniMaxM3VLExperts": (
        lambda m, g: _swish(m, g, "swiglu_limit", "swiglu_alpha"),
        lambda m, u: _clamped(u, m.swiglu_limit) + 1,
    ),
    "HYV4Experts": (lambda m, g: F.silu(g.clamp(max=m.swiglu_limit)), lambda m, u: _clamped(u, m.swiglu_limit)),
    "DeepseekV4Experts": (lambda m, g: F.silu(g.clamp(max=m.limit)), lambda m, u: _clamped(u, m.limit)),
    "Inkling2Experts": (
        lambda m, g: m.act_fn.gate_softcap(g) * torch.sigmoid(g),
        lambda m, u: m.act_fn.up_softcap(u),
    ),
}
"""Class → the non-linearity and what ``up`` goes through; else the module's own and nothing."""


def weights_of(module: Any, expert: int) -> tuple[Tensor, Tensor | None, Tensor, tuple[Any, Any, Any]]:
    """Gate, up and down matrices ``[out, in]`` of an expert, views of the parameters, and their biases."""
    nothing = (None, None, None)
    if hasattr(module, "input_linear"):
        gate, up = module.input_linear.weight[expert].chunk(2)
        return gate, up, module.output_linear.weight[expert], nothing
    if hasattr(module, "mlp"):
        rows = slice(expert * module.ffn_hidden_size, (expert + 1) * module.ffn_hidden_size)
        return module.mlp.w1[rows], module.mlp.v1[rows], module.mlp.w2[rows].T, nothing
    down = module.down_proj[expert]
    if not hasattr(module, "gate_up_proj"):
        if hasattr(module, "gate_proj"):
            return module.gate_proj[expert], module.up_proj[expert], down, nothing
        return module.up_proj[expert], None, down, nothing
    both = module.gate_up_proj[expert]
    if getattr(module, "is_transposed", type(module).__name__ == "Llama4TextExperts"):
        both, down = both.T, down.T
    half = len(both) // 2
    biases = nothing
    if getattr(module, "has_bias", False):
        bias = module.gate_up_proj_bias[expert]
        biases = (bias[::2], bias[1::2], module.down_proj_bias[expert])
    if getattr(module, "is_concatenated", True):
        return both[:half], both[half:], down, biases
    return both[::2], both[1::2], down, biases


def _routing(bank: ExpertsBank, module: Any, args: tuple[Any, ...]) -> tuple[list[Routed], Tensor]:
    """What runs, and zeros for the output."""
    hidden = args[0].reshape(-1, args[0].shape[-1])
    one = torch.ones((), dtype=hidden.dtype)
    if bank.order == "sorted":
        _, tokens, scores, sizes, _ = module.router(hidden)
        experts = [expert for expert, size in enumerate(sizes) for _ in range(size)]
        pairs = zip(experts, tokens.tolist(), scores, strict=True)
        return [Routed(expert, token, hidden[token], score, token) for expert, token, score in pairs], hidden * 0
    if bank.order == "every" and len(args) == 1:
        tokens = len(hidden) // bank.experts
        rows = [(expert, token) for expert in range(bank.experts) for token in range(tokens)]
        run = [(expert, token, expert * tokens + token) for expert, token in rows]
        kept = [(expert, token, row) for expert, token, row in run if bool(hidden[row].any())]
        return [Routed(expert, token, hidden[row], one, row) for expert, token, row in kept], hidden * 0
    if bank.order == "every":
        scores = args[1].reshape(len(hidden), bank.experts)
        rows = [(expert, token) for token in range(len(hidden)) for expert in range(bank.experts)]
        return [Routed(e, token, hidden[token], scores[token, e], token) for e, token in rows], hidden * 0
    run_routed, identity = [], torch.zeros_like(hidden)
    for token, (experts, scores) in enumerate(zip(args[1].tolist(), args[2], strict=True)):
        for expert, score in zip(experts, scores, strict=True):
            if expert < bank.experts:
                run_routed.append(Routed(expert, token, hidden[token], score, token))
            else:
                identity[token] += hidden[token] * score
    return run_routed, identity


def _forward(bank: ExpertsBank, module: Any, args: tuple[Any, ...], neurons: Neurons) -> Tensor:
    routed, output = _routing(bank, module, args)
    output = output.clone()
    non_linearity, through = GATES.get(type(module).__name__, (_own_non_linearity, lambda _, up: up))
    for run in routed:
        gate, up, down, biases = weights_of(module, run.expert)
        pre = F.linear(run.read, gate, biases[0])
        post = non_linearity(module, pre.clone())
        new = neurons(run.expert, run.token, pre, post)
        post = post if new is None else new
        product = post if up is None else post * through(module, F.linear(run.read, up, biases[1]))
        output[run.row] += F.linear(product, down, biases[2]) * run.score
    if hasattr(module, "bias") and bank.order == "sorted":
        output += module.bias
    return output.reshape(args[0].shape)


@contextmanager
def written_out(model: nn.Module, banks: dict[ExpertsBank, Neurons]) -> Iterator[None]:
    """Run these banks one token and one expert at a time in this block."""
    with ExitStack() as stack:
        for bank, neurons in banks.items():
            module = model.get_submodule(bank.path)

            def forward(*args: Any, bank: ExpertsBank = bank, module: Any = module, neurons: Any = neurons,
                        **kwargs: Any) -> Tensor:  # fmt: skip
                return _forward(bank, module, (*args, *kwargs.values()), neurons)

            module.__dict__["forward"] = forward
            stack.callback(module.__dict__.pop, "forward")
        yield


def marked(model: nn.Module, banks: dict[ExpertsBank, Tensor]) -> dict[str, Tensor]:
    """Parameter → which of its entries are weights of a bank's neurons: rows of gate and up, columns of down."""
    marks = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in marks.parameters():
            parameter.zero_()
        for bank, neurons in banks.items():
            for neuron in neurons.tolist():
                expert, index = divmod(neuron, bank.expert_width)
                gate, up, down, _ = weights_of(marks.get_submodule(bank.path), expert)
                for weight in (gate, up, down.T):
                    if weight is not None:
                        weight[index] = 1
    return {name: parameter.bool() for name, parameter in marks.named_parameters() if parameter.any()}
