"""The routers of experts: where a layer's router is, and how its logits are written."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lnbench.errors import LnbenchError
from lnbench.model.experts import ExpertsBank
from lnbench.model.taps import Handle

_ROUTER = re.compile(r"router|(^|[._])gate$|(^|\.)gate\.")


class _Router(TorchFunctionMode):
    """Calls a function with what a linear map of ``rows`` outputs gives; what it returns takes its place."""

    def __init__(self, rows: int, function: Callable[[Tensor], Tensor | None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows, self.function, self.count = rows, function, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is torch.nn.functional.linear and output.shape[-1] == self.rows:
            self.count += 1
            new = self.function(output)
            return output if new is None else new
        return output


def tap_router(
    model: nn.Module, bank: ExpertsBank, function: Callable[[Tensor], Tensor | None], handle: Handle
) -> None:
    """Call ``function`` with a router's logits ``[tokens, experts …]``; what it returns, unless None, is used instead.

    Raises:
        LnbenchError: no router is found beside the experts, or one that goes by token ids; in a forward pass, none ran,
            or several maps that may be it.
    """
    around, rows = router_of(model, bank)
    modes: list[_Router] = []

    def enter(_module: nn.Module, _args: Any) -> None:
        modes.append(_Router(rows, function))
        modes[-1].__enter__()  # type: ignore[no-untyped-call]

    def leave(_module: nn.Module, _args: Any, output: Any) -> None:
        mode = modes.pop()
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if output is not None and mode.count != 1:
            raise LnbenchError(
                f"{mode.count} linear maps of {rows} outputs ran in {around}, so which of them is the router of "
                f"{bank.path} is not known; its experts cannot be written to"
            )

    handle.add(model.get_submodule(around).register_forward_pre_hook(enter))
    handle.add(model.get_submodule(around).register_forward_hook(leave, always_call=True))


def router_of(model: nn.Module, bank: ExpertsBank) -> tuple[str, int]:
    """Return the module that runs a bank's router, and how many logits the router has.

    Raises:
        LnbenchError: there is none beside the experts, or one that goes by token ids.
    """
    around = bank.outer if bank.order == "sorted" else bank.outer.rpartition(".")[0]
    found = []
    for name, module in model.get_submodule(around).named_modules():
        weight = getattr(module, "weight", None)
        inside = f"{around}.{name}".startswith(f"{bank.outer}.") and bank.order != "sorted"
        if inside or not _ROUTER.search(name):
            continue
        if isinstance(weight, Tensor) and weight.ndim == 2:
            found.append(weight.shape[0])
        tables = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(table.ndim == 2 and not table.is_floating_point() for table in tables):
            raise LnbenchError(
                f"{around}.{name} routes by a table of token ids, which no bias on its logits changes; its experts "
                "cannot be written to"
            )
    sizes = [size for size in found if size >= bank.experts]
    if not sizes:
        raise LnbenchError(f"no router of {bank.path} was found in {around}, so its experts cannot be written to")
    return around, min(sizes)
