"""Which output tokens a neuron promotes: its column of the down projection, read through the final norm and the head.

Source: nostalgebraist 2020, *interpreting GPT: the logit lens*; for columns of feed-forwards Geva et al. 2022,
*Transformer Feed-Forward Layers Build Predictions by Promoting Concepts in the Vocabulary Space*,
https://aclanthology.org/2022.emnlp-main.3
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from lnbench.errors import LnbenchError
from lnbench.model.banks import Bank
from lnbench.model.self_check import column_of
from lnbench.model.sites import Sites, evaluating, input_device

_ROWS = 32
"""Directions that the head reads at a time."""


def lens_logits(sites: Sites, neurons: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Return what one unit of each neuron's activation adds to the logits, up to one positive factor per neuron.

    A neuron's direction is its column of the down projection. It is read through whatever the model does to a
    feed-forward's output before it adds it to the residual stream (a norm behind the feed-forward), through the final
    norm, and through the output head; biases are taken out. Between a gated block's neuron and the down projection lies
    a factor of either sign, so these are the tokens that it promotes where its product with the up projection is
    positive.

    Args:
        sites: Of the model.
        neurons: Layer → ``LongTensor`` of indices, in layers without experts.

    Returns:
        Layer → ``FloatTensor[n, vocabulary]`` on the CPU.

    Raises:
        LnbenchError: the model has no output head of its own.
    """
    model: Any = sites.model
    head = model.get_output_embeddings()
    if head is None:
        raise LnbenchError(f"this {type(model).__name__} has no output head, so its neurons promote no tokens")
    logits: dict[int, Tensor] = {}
    with evaluating(model), torch.inference_mode():
        behind, final = _paths(sites, head)
        for layer, indices in neurons.items():
            pieces = {}
            for bank in sites.dense_in(layer):
                for number, own in enumerate(indices.tolist()):
                    if bank.start <= own < bank.start + bank.width:
                        pieces[number] = (bank, own - bank.start)
            rows = []
            for number in range(len(indices)):
                bank, unit = pieces[number]
                rows.append(_through(behind[bank], _direction(sites, bank, unit)))
            read = [_through([*final, head], torch.stack(part)).float().cpu() for part in _parts(rows)]
            logits[layer] = torch.cat(read) if read else torch.empty(0, 0)
    return logits


def _parts(rows: list[Tensor]) -> list[list[Tensor]]:
    return [rows[begin : begin + _ROWS] for begin in range(0, len(rows), _ROWS)]


def _direction(sites: Sites, bank: Bank, unit: int) -> Tensor:
    """Return what the down projection makes of one unit, whatever its weights are stored as."""
    module = sites.model.get_submodule(bank.after)
    weights = next(module.parameters())
    device = weights.device if not weights.is_meta else input_device(sites.model)
    dtype = weights.dtype if weights.is_floating_point() else torch.float32
    return column_of(module, unit, torch.empty(1, bank.width, dtype=dtype, device=device)).to(dtype)


def _through(modules: list[nn.Module], values: Tensor) -> Tensor:
    """Return what some modules make of values, without what they make of nothing."""
    for module in modules:
        values = module(values) - module(torch.zeros_like(values))
    return values


def _paths(sites: Sites, head: nn.Module) -> tuple[dict[Bank, list[nn.Module]], list[nn.Module]]:
    """Return the modules that values pass one after the other, behind each bank and before the head."""
    dense = [bank for layer in range(sites.layers) for bank in sites.dense_in(layer)]
    behind: dict[Bank, list[nn.Module]] = {bank: [] for bank in dense}
    final: list[nn.Module] = []
    following: dict[Bank, Any] = {}
    last: list[Any] = [None]

    def after_bank(bank: Bank) -> Callable[..., None]:
        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            following[bank] = output

        return note

    def at_leaf(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not args or module is head:
            return
        for bank, value in following.items():
            if value is args[0] and not isinstance(module, nn.Dropout):
                behind[bank].append(module)
                following[bank] = output
        if last[0] is args[0]:
            final.append(module)
            last[0] = output

    def at_block(_block: nn.Module, _args: Any, output: Any) -> None:
        following.clear()
        final.clear()  # of the block before
        last[0] = output if isinstance(output, Tensor) else output[0]

    downs = {bank.after for bank in dense}
    with ExitStack() as hooks:
        for name, module in sites.model.named_modules():
            if not list(module.children()) and name not in downs:
                hooks.callback(module.register_forward_hook(at_leaf).remove)
        for bank in dense:
            hooks.callback(sites.model.get_submodule(bank.after).register_forward_hook(after_bank(bank)).remove)
        for block in {id(block): block for block in sites.blocks}.values():
            hooks.callback(block.register_forward_hook(at_block).remove)
        sites.model(torch.tensor([[1, 2, 3]], device=input_device(sites.model)), use_cache=False)
    return behind, final
