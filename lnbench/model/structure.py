"""Feed-forwards found in the live model: what a traced forward pass says, less what only looks like one."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.activations import ACT2FN

from lnbench.errors import LnbenchError
from lnbench.model.banks import HOW_TO_ADD, Bank, Slice
from lnbench.model.experts import ExpertsBank
from lnbench.model.trace import Origin, Read, Trace, block_names, shape_of

_TOKENS = (2, 7)
_WITH_PARAMETERS = ("prelu", "xielu")
_ROUTER = re.compile(r"router|(^|\.)gate$")


class Structure(NamedTuple):
    """What was found."""

    names: tuple[str, ...]
    """Names of the blocks, in order."""
    banks: tuple[Bank | ExpertsBank, ...]
    attention: tuple[tuple[str, ...], ...]
    visits: tuple[int, ...]


def probe(model: Any, seed: int = 0) -> dict[str, Any]:
    """Return the arguments of a short forward pass: random token ids, none of them a special one of the configuration.

    Args:
        model: A causal LM.
        seed: Another seed gives other ids.
    """
    embeddings = model.get_input_embeddings()
    size = int(getattr(embeddings, "num_embeddings", None) or embeddings.weight.shape[0])
    special = set(_special_ids(model.config.to_dict()))
    usable = torch.tensor([number for number in range(min(size, 4096)) if number not in special] or [0])
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": usable[torch.randint(len(usable), _TOKENS, generator=generator)], "use_cache": False}


def _special_ids(config: dict[str, Any]) -> Iterable[int]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _special_ids(value)
        elif re.search(r"token_(id|index)$", str(name)):
            yield from value if isinstance(value, list | tuple) else [value] if isinstance(value, int) else []


def structure_of(model: nn.Module, trace: Trace, experts: Sequence[ExpertsBank] = ()) -> Structure:
    """Return the feed-forwards that ran, and the blocks around them.

    Args:
        model: The causal LM.
        trace: Of one forward pass.
        experts: The model's banks of experts, see :func:`lnbench.model.experts.experts_of`.
    """
    reads = [read for read in trace.reads if _is_feed_forward(read, trace) and not _inside(read.after, experts)]
    blocks = block_names(model)
    ran = [(bank, _block_of(bank.path, blocks)) for bank in experts if bank.path in trace.ran]
    routed = [(bank, block) for bank, block in ran if block is not None]
    of_blocks = [*(read.block for read in reads), *(block for _, block in routed)]
    lists = dict.fromkeys(block.rpartition(".")[0] for block in of_blocks)
    names = tuple(f"{name}.{number}" for name in lists for number in range(len(model.get_submodule(name))))  # type: ignore[arg-type]
    by_layer: dict[int, dict[str, Read]] = defaultdict(dict)
    visits: Counter[tuple[int, str]] = Counter()
    for read in reads:
        layer = names.index(read.block)
        by_layer[layer].setdefault(read.after, read)
        visits[layer, read.after] += 1
    of_layer = [max((visits[layer, after] for after in by_layer[layer]), default=1) for layer in range(len(names))]
    banks: list[Bank | ExpertsBank] = []
    for layer, name in enumerate(names):
        start = 0
        for read in by_layer[layer].values():
            banks.append(_bank(model, trace, layer, read, visits[layer, read.after], start))
            start += read.size
        for bank, block in routed:
            if block == name:
                banks.append(replace(bank, layer=layer, start=start))
                start += bank.width
                of_layer[layer] = max(of_layer[layer], trace.ran[bank.path])
    return Structure(names, tuple(banks), attention_of(model, names, banks), tuple(of_layer))


def _inside(name: str, experts: Sequence[ExpertsBank]) -> bool:
    return any(name.startswith(f"{bank.path}.") for bank in experts)


def _block_of(path: str, blocks: Sequence[str]) -> str | None:
    return next((block for block in blocks if path.startswith(f"{block}.")), None)


def _is_feed_forward(read: Read, trace: Trace) -> bool:
    (reads, gives), before, up = trace.linear[read.after], read.before, read.up
    return (
        reads == read.size
        and gives == trace.linear[before.linear][0]
        and read.after in trace.used
        and (up is None or up.source == before.source)
    )


def _bank(model: nn.Module, trace: Trace, layer: int, read: Read, visits: int, start: int) -> Bank:
    activation, function = read.neuron.module, None
    if activation is not None and trace.ran[activation] != trace.ran[read.after]:
        # One non-linearity for several feed-forwards.
        function, activation = model.get_submodule(activation), None
    elif activation is None:
        function = _function_of(model, trace, layer, read)
    return Bank(
        layer=layer,
        path=read.after.rpartition(".")[0],
        width=read.size,
        before=_slice(read.before),
        after=read.after,
        up=_slice(read.up) if read.up else None,
        activation=activation,
        function=function,
        shared=trace.ran[read.after] != visits,
        length_first=tuple(read.values.shape[:-1]) == _TOKENS[::-1],
        normed=read.label.normed,
        summed=len(read.neuron.origins) > 1 or bool(read.label.factors and len(read.label.factors[1].origins) > 1),
        start=start,
    )


def _function_of(model: nn.Module, trace: Trace, layer: int, read: Read) -> Any:
    """Return transformers' non-linearity of which a linear map reads ``σ(before)``, or ``σ(before) · up``.

    Raises:
        LnbenchError: it is none of them.
    """
    before, up = (
        None if origin is None else trace.outputs[origin.linear, origin.call][..., origin.start :: origin.step]
        for origin in (read.before, read.up)
    )
    assert before is not None
    for name in ACT2FN:
        if name not in _WITH_PARAMETERS:
            function = ACT2FN[name].eval()
            values = function(before[..., : read.size])
            if torch.equal(values if up is None else values * up[..., : read.size], read.values):
                return function
    raise LnbenchError(
        f"layer {layer} ({read.after}) of this {type(model).__name__} applies a non-linearity that is neither a module "
        f"nor one of transformers' own ({', '.join(ACT2FN)}), so it cannot be repeated. {HOW_TO_ADD}"
    )


def _slice(origin: Origin) -> Slice:
    return Slice(origin.linear, origin.start, origin.step)


def attention_of(
    model: nn.Module, names: Sequence[str], banks: Sequence[Bank | ExpertsBank]
) -> tuple[tuple[str, ...], ...]:
    """Return per block the names of its linear maps that are no part of a bank, nor of a router of experts."""
    feed_forwards: set[str] = set()
    for bank in banks:
        if isinstance(bank, Bank):
            feed_forwards |= {bank.before.module, bank.after, (bank.up or bank.before).module}
        else:
            # Beside the experts are their router and a gate of what is shared.
            around = bank.outer.rpartition(".")[0]
            feed_forwards |= {bank.outer} | ({around} if around not in names else set())
    routers = bool({bank.layer for bank in banks if isinstance(bank, ExpertsBank)})
    found = []
    for name in names:
        linear: list[str] = []
        for path, module in model.get_submodule(name).named_modules(prefix=name):
            inside_one = any(path.startswith(f"{outer}.") for outer in linear)
            in_feed_forward = path in feed_forwards or any(path.startswith(f"{outer}.") for outer in feed_forwards)
            is_router = routers and _ROUTER.search(path[len(name) :]) is not None
            if shape_of(module) is not None and not (inside_one or in_feed_forward or is_router):
                linear.append(path)
        found.append(tuple(linear))
    return tuple(found)
