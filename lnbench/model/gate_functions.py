"""Gate functions: how experts join gate and up where that is one function, and where in it their neurons are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_MULTIPLICATIONS = {
    *(torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.mul_),
    *(Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__),
}


class Product(NamedTuple):
    """Where a gate function multiplies ``σ(gate)`` with a function of ``up``."""

    number: int
    """Which of its multiplications."""
    side: int
    """Which factor ``σ(gate)`` is."""
    interleaved: bool
    """Gate and up take turns in its argument; else all of the gate comes first."""

    def gate_of(self, gate_up: Tensor) -> Tensor:
        """Return the gate's half, as a view."""
        return gate_up[..., ::2] if self.interleaved else gate_up.chunk(2, dim=-1)[0]

    def joined(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return the argument with these halves."""
        return torch.stack([gate, up], -1).flatten(-2) if self.interleaved else torch.cat([gate, up], -1)


@dataclass(frozen=True)
class GateFunction:
    """The non-linearity inside a gate function."""

    gate: Callable[[Tensor], Tensor]
    product: Product

    def __call__(self, values: Tensor) -> Tensor:
        """Return ``σ(values)``, of any shape."""
        seen: list[Tensor] = []
        flat = values.reshape(-1, 1) if values.ndim == 0 else values
        with AtProduct(self.product, lambda neurons: seen.append(neurons)):
            self.gate(self.product.joined(flat, torch.ones_like(flat)))
        return seen[0].reshape(values.shape).to(values.dtype)


class AtProduct(TorchFunctionMode):
    """Calls a function with the neurons in a gate function; what it returns, unless None, takes their place."""

    def __init__(self, product: Product, function: Callable[[Tensor], Tensor | None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.product, self.function, self.count = product, function, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _MULTIPLICATIONS:
            number, self.count = self.count, self.count + 1
            if number == self.product.number:
                new = self.function(args[self.product.side])
                if new is not None:
                    args = (*args[: self.product.side], new, *args[self.product.side + 1 :])
        return func(*args, **(kwargs or {}))


class _Factors(TorchFunctionMode):
    """Keeps the factors of every multiplication of two tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[Tensor, Tensor] | None] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _MULTIPLICATIONS:
            both = all(isinstance(arg, Tensor) and arg.ndim for arg in args[:2])
            self.seen.append((args[0].clone(), args[1].clone()) if both else None)
        return func(*args, **(kwargs or {}))


def product_in(gate: Callable[[Tensor], Tensor], width: int, like: Tensor, *, interleaved: bool) -> Product | None:
    """Return the first multiplication of something that depends on the gate alone with something of up alone."""
    generator = torch.Generator().manual_seed(0)
    halves = [torch.randn(3, width, generator=generator).to(like) for _ in range(4)]
    try_out = Product(0, 0, interleaved)
    runs = []
    for which in ((0, 1), (2, 1), (0, 3)):
        with torch.no_grad(), _Factors() as factors:
            gate(try_out.joined(halves[which[0]], halves[which[1]]))
        runs.append(factors.seen)
    for number, (factors_of_both, of_other_gate, of_other_up) in enumerate(zip(*runs, strict=True)):
        if factors_of_both is None:
            continue
        by_gate, by_up = (
            [not torch.equal(one, other) for one, other in zip(factors_of_both, others, strict=True)]
            for others in (of_other_gate, of_other_up)
        )
        for side in (0, 1):
            if by_gate == [side == 0, side == 1] and by_up == [side == 1, side == 0]:
                return Product(number, side, interleaved)
    return None
