"""How values of a bank are read and written: at its non-linearity, or at the projections around it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lnbench.model.architectures import POST, PRODUCT
from lnbench.model.banks import Bank, Observer, Tap

if TYPE_CHECKING:
    from lnbench.model.places import Place


class Handle(ExitStack):
    """The hooks of one tap; ``remove()`` takes them away, as leaving it as a context does."""

    def add(self, handle: RemovableHandle) -> None:
        """Take another hook in."""
        self.callback(handle.remove)

    def remove(self) -> None:
        """Take the hooks away."""
        self.close()


def tap_module(module: nn.Module, side: Literal["input", "output"], function: Tap) -> RemovableHandle:
    """Call ``function`` with a module's first input, or its first output; unless None, what it returns replaces it."""
    if side == "output":

        def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
            new = function(first_of(output))
            if new is None or not isinstance(output, list | tuple):
                return new
            changed = [new, *output[1:]]
            return type(output)(*changed) if hasattr(output, "_fields") else type(output)(changed)

        return module.register_forward_hook(after)

    def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        new = function(args[0])
        return None if new is None else (new, *args[1:])

    return module.register_forward_pre_hook(before)


def first_of(output: Any) -> Any:
    """Return the first of a module's outputs, where it has several."""
    return output[0] if isinstance(output, list | tuple) and output else output


def tap_place(model: nn.Module, block: str, place: Place, function: Tap, handle: Handle) -> None:
    """Call ``function`` with the values ``[batch, length, coordinates]`` of a place, as :func:`tap_bank` does."""
    function = _turned(place, _guarded(model, block, place, function, handle))
    handle.add(tap_module(model.get_submodule(place.module), place.side, function))


def tap_bank(model: nn.Module, block: str, bank: Bank, site: str, function: Tap, handle: Handle) -> None:
    """Call ``function`` with a bank's values at a site; what it returns, unless None, is written there.

    Args:
        model: The causal LM.
        block: Name of the bank's block.
        bank: Where.
        site: ``pre``, ``post`` or ``product``.
        function: It takes and returns values ``[batch, length, width]`` (or ``[tokens, width]``).
        handle: Where the hooks are kept.
    """
    function = _turned(bank, _guarded(model, block, bank, function, handle))
    if site == PRODUCT:
        handle.add(tap_module(model.get_submodule(bank.after), "input", function))
    elif bank.activation is not None:
        handle.add(tap_module(model.get_submodule(bank.activation), "output" if site == POST else "input", function))
    elif site != POST:
        _tap_before(model, bank, function, handle)
    else:
        _tap_product(model, bank, function, handle)


def observe_up(model: nn.Module, block: str, bank: Bank, function: Tap, handle: Handle) -> None:
    """Call ``function`` with what a bank's neurons are multiplied with; arguments as :func:`tap_bank`."""
    function = _turned(bank, _guarded(model, block, bank, function, handle))
    part = bank.up or bank.before
    module = model.get_submodule(part.module)
    handle.add(module.register_forward_hook(lambda _module, _args, output: function(part.of(output, bank.width))))


def _tap_before(model: nn.Module, bank: Bank, function: Tap, handle: Handle) -> None:
    def write(output: Tensor) -> Tensor | None:
        new = function(bank.before.of(output, bank.width).clone())
        if new is None:
            return None
        output = output.clone()
        bank.before.of(output, bank.width).copy_(new)
        return output

    handle.add(tap_module(model.get_submodule(bank.before.module), "output", write))


def _tap_product(model: nn.Module, bank: Bank, function: Tap, handle: Handle) -> None:
    """Write at the down projection's input: ``σ(g)``, or ``σ(g) · u`` of a gated block."""
    seen = _keep(model, bank, handle)

    def write(product: Tensor) -> Tensor | None:
        if bank.up is None:
            return function(product)
        post = bank.function(seen["before"])  # type: ignore[misc]
        new = function(post.clone())
        if new is not None and new.requires_grad:
            # Where a value is the same, its gradient is wanted too.
            return new * seen["up"]
        return None if new is None else torch.where(new != post, new * seen["up"], product)

    handle.add(tap_module(model.get_submodule(bank.after), "input", write))


def observe_bank(model: nn.Module, block: str, bank: Bank, function: Observer, handle: Handle) -> None:
    """Call ``function`` with a bank's values before and after the non-linearity; arguments as :func:`tap_bank`."""
    seen: dict[str, Tensor] = {}

    def observe(post: Tensor) -> None:
        pre = seen["before"]
        function(*((pre.transpose(0, 1), post.transpose(0, 1)) if bank.length_first else (pre, post)))

    if bank.activation is not None:

        def at_module(args: tuple[Any, ...], output: Tensor) -> None:
            seen["before"] = args[0]
            guarded(output)

        guarded = _guarded(model, block, bank, observe, handle)
        module = model.get_submodule(bank.activation)
        handle.add(module.register_forward_hook(lambda _module, args, output: at_module(args, output)))
        return
    seen = _keep(model, bank, handle)

    def at_product(product: Tensor) -> None:
        observe(product if bank.up is None else bank.function(seen["before"]))  # type: ignore[misc]

    guarded = _guarded(model, block, bank, at_product, handle)
    handle.add(tap_module(model.get_submodule(bank.after), "input", guarded))


def _keep(model: nn.Module, bank: Bank, handle: Handle) -> dict[str, Tensor]:
    """Keep the latest outputs of the projections before the down projection: ``before``, and ``up`` if there is one."""
    seen: dict[str, Tensor] = {}
    for name, part in (("before", bank.before), ("up", bank.up)):
        if part is not None:
            module = model.get_submodule(part.module)

            def keep(output: Tensor, name: str = name, part: Any = part) -> None:
                seen[name] = part.of(output, bank.width)

            handle.add(tap_module(module, "output", keep))
    return seen


def _turned(place: Bank | Place, function: Tap) -> Tap:
    if not place.length_first:
        return function

    def turned(values: Tensor) -> Tensor | None:
        new = function(values.transpose(0, 1))
        return None if new is None else new.transpose(0, 1)

    return turned


def _guarded(model: nn.Module, block: str, place: Bank | Place, function: Any, handle: Handle) -> Any:
    """Return ``function``, called only while its own block runs if other layers run its modules too."""
    if not place.shared:
        return function
    running = [0]

    def enter(*_: Any) -> None:
        running[0] += 1

    def leave(*_: Any) -> None:
        running[0] -= 1

    handle.add(model.get_submodule(block).register_forward_pre_hook(enter))
    handle.add(model.get_submodule(block).register_forward_hook(leave, always_call=True))
    return lambda values: function(values) if running[0] else None
