"""Find the neurons of a model: by a plugin's row, else by its structure; and check them numerically, at every load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from lnbench.errors import LnbenchError
from lnbench.host import get_host
from lnbench.model.architectures import NEURON_SITES, PRODUCT, Architecture
from lnbench.model.banks import HOW_TO_ADD, Bank, Slice
from lnbench.model.experts import ExpertsBank, experts_of
from lnbench.model.forward_passes import NOT_CALLED, eager
from lnbench.model.place_check import failures_of_places
from lnbench.model.places import places_in, watched
from lnbench.model.self_check import self_check
from lnbench.model.sites import Sites, evaluating, input_device, refuse_tensor_parallel, unwrap
from lnbench.model.structure import Structure, attention_of, probe, structure_of
from lnbench.model.trace import shape_of, trace_model

_KEPT = "_lnbench_sites"
_PACKS = "support_avx512bf16_for_cpu"
_PACKED_ROWS = 32


def locate(model: nn.Module) -> Sites:
    """Find the neurons of ``model`` (plain, PEFT-wrapped or quantised), and check them numerically.

    A model that was located before, and has the same modules still, is not looked at again.

    Raises:
        LnbenchError: no feed-forward in it, experts that cannot be read, a model whose structure does not fit its row,
            one that fails the self-check, or one that is split by tensor parallelism.
    """
    base = unwrap(model)
    refuse_tensor_parallel(base)
    modules = _modules(base)
    kept = base.__dict__.get(_KEPT)
    if kept is not None and kept.modules == modules:
        sites: Sites = kept.sites
        return sites
    row = row_of(base)
    sites = _located(base, row)
    base.__dict__[_KEPT] = _Kept(sites, modules)
    return sites


@dataclass(frozen=True)
class _Kept:
    sites: Sites
    modules: tuple[Any, ...]

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of the model is located by itself."""

    def __reduce__(self) -> Any:
        return (type(None), ())


def _modules(model: nn.Module) -> tuple[Any, ...]:
    """Return what changes when a module is replaced, or its forward is patched."""
    return tuple((id(module), id(module.__dict__.get("forward"))) for module in model.modules())


def row_of(model: Any) -> Architecture | None:
    """Return a plugin's row for the model's type, if there is one.

    Raises:
        LnbenchError: no causal language model of Hugging Face, or no row.
    """
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    host = get_host()
    if model_type in host.names("architecture"):
        row = host.factory("architecture", model_type)
        if not isinstance(row, Architecture):
            raise LnbenchError(f"the row registered for architecture {model_type!r} is not an Architecture: {row!r}")
        return row
    kind = type(model).__name__
    if config is None or not hasattr(model, "get_input_embeddings"):
        raise LnbenchError(f"this {kind} is no Hugging Face model; pass a causal language model. {HOW_TO_ADD}")
    if getattr(config, "is_encoder_decoder", False):
        raise LnbenchError(f"{model_type!r} is an encoder-decoder; lnbench works on causal language models")
    if model.get_output_embeddings() is None:
        raise LnbenchError(f"this {kind} has no output head; pass the causal language model itself. {HOW_TO_ADD}")
    return None


def _located(model: Any, row: Architecture | None) -> Sites:
    kind, model_type = type(model).__name__, getattr(model.config, "model_type", None)
    inputs = probe(model)
    inputs["input_ids"] = inputs["input_ids"].to(input_device(model))
    with evaluating(model), _unpacked(model), torch.no_grad(), eager():
        complete = row is not None and row.activation and row.before and row.after
        experts = [] if complete else experts_of(model)
        try:
            with watched(model, row) as seen:
                if complete:
                    bare: Tensor = model(**inputs).logits
                else:
                    trace = trace_model(model, inputs)
                    bare = trace.logits
        except LnbenchError:
            raise
        except Exception as error:  # A model of anyone's may fail in any way.
            raise LnbenchError(
                f"this {kind} cannot run on {tuple(inputs['input_ids'].shape)} token ids alone ({error}), so its "
                f"neurons cannot be found"
            ) from error
        if complete:
            assert row is not None
            structure = _from_row(model, row)
        else:
            structure = structure_of(model, trace, experts)
            if row is not None:
                structure = _overruled(model, structure, row)
        if not structure.banks:
            raise LnbenchError(
                f"no feed-forward was found in this {kind} (model type {model_type!r}): no linear map in its blocks "
                f"reads a non-linear function of another's output. If its type has one, {NOT_CALLED}. {HOW_TO_ADD}"
            )
        how = "structure" if row is None else f"the row for {model_type!r}"
        shared = _shared_row(structure, row)
        batch, length = inputs["input_ids"].shape
        places, missing = places_in(model, structure.names, seen, row, (batch, length))
        if any(isinstance(bank, ExpertsBank) for bank in structure.banks):
            missing[PRODUCT] = "its experts' products with up are not tapped; write at post, with the same effect"
        sites = Sites(shared, model, how=how, places=places, missing=missing, **structure._asdict())
        check = self_check(sites, inputs, bare)
        failed = dict(failures_of_places(sites, inputs, bare))
        passed = tuple(place for place in places if place.site not in failed)
        check = replace(check, sites=tuple(dict.fromkeys(place.site for place in passed)))
        return replace(sites, check=check, places=passed, missing=missing | failed)


@contextmanager
def _unpacked(model: nn.Module) -> Iterator[None]:
    """Keep 4-bit weights as they are: on some CPUs the first forward pass packs them, and they cannot be read then."""
    modules = [module for module in model.modules() if getattr(module, _PACKS, False)]
    for module in modules:
        setattr(module, _PACKS, False)
    try:
        yield
    finally:
        for module in modules:
            setattr(module, _PACKS, _can_be_packed(module))


def _can_be_packed(module: nn.Module) -> bool:
    """Return whether bitsandbytes can pack a 4-bit layer; it raises at one that it cannot, and can run it unpacked."""
    sizes = shape_of(module)
    block = getattr(module.weight, "blocksize", 64)
    return sizes is not None and sizes[0] % block == 0 and sizes[1] % _PACKED_ROWS == 0


def _from_row(model: Any, row: Architecture) -> Structure:
    """Return the banks that a complete row names."""
    kind, model_type = type(model).__name__, getattr(model.config, "model_type", None)
    try:
        blocks = tuple(attrgetter(row.blocks)(model))
        names = tuple(f"{row.blocks}.{number}" for number in range(len(blocks)))
        banks = []
        for layer, (name, block) in enumerate(zip(names, blocks, strict=True)):
            activation, before, after = (attrgetter(path)(block) for path in (row.activation, row.before, row.after))
            if not isinstance(activation, nn.Module):
                raise LnbenchError(
                    f"{row.activation!r} of this {kind} is not a module of its own, so nothing can be hooked to it"
                )
            sizes = shape_of(after)
            width = sizes[0] if sizes else shape_of(before)[1]  # type: ignore[index]
            up = Slice(f"{name}.{row.before}", width) if row.fused else Slice(f"{name}.{row.up}") if row.up else None
            if row.up:
                attrgetter(row.up)(block)
            banks.append(
                Bank(
                    layer,
                    f"{name}.{row.after}".rpartition(".")[0],
                    width,
                    Slice(f"{name}.{row.before}"),
                    f"{name}.{row.after}",
                    up,
                    f"{name}.{row.activation}",
                )
            )
    except AttributeError as error:
        raise LnbenchError(
            f"this {kind} does not have the parts that the row for {model_type!r} names ({error}); pass the causal "
            f"language model itself. {HOW_TO_ADD}"
        ) from error
    return Structure(names, tuple(banks), _attention(model, names, banks, row), (1,) * len(names))


def _overruled(model: Any, structure: Structure, row: Architecture) -> Structure:
    """Return what was found inside a row's blocks, with the row's own paths in place of those found."""
    try:
        names = tuple(f"{row.blocks}.{number}" for number in range(len(attrgetter(row.blocks)(model))))
    except AttributeError as error:
        raise LnbenchError(
            f"this {type(model).__name__} does not have the blocks {row.blocks!r} that its row names ({error}). "
            f"{HOW_TO_ADD}"
        ) from error
    banks: list[Bank | ExpertsBank] = []
    for bank in structure.banks:
        block = structure.names[bank.layer]
        if block not in names:
            continue
        if isinstance(bank, ExpertsBank):
            banks.append(replace(bank, layer=names.index(block)))
            continue
        several = sum(isinstance(other, Bank) and other.layer == bank.layer for other in structure.banks) > 1
        if several and (row.activation or row.before or row.after or row.up):
            raise LnbenchError(
                f"{block} of this {type(model).__name__} has several feed-forwards, and the row for its type names the "
                "modules of one; leave all but blocks out of the row"
            )
        own: dict[str, Any] = {"layer": names.index(block)}
        if row.activation:
            own |= {"activation": f"{block}.{row.activation}", "function": None}
        if row.before:
            own["before"] = replace(bank.before, module=f"{block}.{row.before}")
        if row.after:
            own["after"] = f"{block}.{row.after}"
        if row.up:
            own["up"] = Slice(f"{block}.{row.up}")
        banks.append(replace(bank, **own))
    return Structure(names, tuple(banks), _attention(model, names, banks, row), (1,) * len(names))


def _attention(
    model: nn.Module, names: Sequence[str], banks: Sequence[Bank | ExpertsBank], row: Architecture
) -> tuple[tuple[str, ...], ...]:
    if row.attention:
        return tuple(tuple(f"{name}.{path}" for path in row.attention) for name in names)
    return attention_of(model, names, banks)


def _shared_row(structure: Structure, row: Architecture | None) -> Architecture:
    """Return the paths that all blocks share, as a row of the table would name them."""
    lists = {name.rpartition(".")[0] for name in structure.names}

    def common(names: Sequence[str | None], layers: Sequence[int]) -> str:
        paths = {
            name[len(structure.names[layer]) + 1 :] if name and name.startswith(f"{structure.names[layer]}.") else ""
            for name, layer in zip(names, layers, strict=True)
        }
        return paths.pop() if len(paths) == 1 else ""

    banks = [bank for bank in structure.banks if isinstance(bank, Bank)]
    layers = [bank.layer for bank in banks]
    fused = bool(banks) and all(bank.up is not None and bank.up.module == bank.before.module for bank in banks)
    attention = {
        tuple(path[len(name) + 1 :] for path in paths)
        for name, paths in zip(structure.names, structure.attention, strict=True)
    }
    return Architecture(
        blocks=lists.pop() if len(lists) == 1 else "",
        activation=common([bank.activation for bank in banks], layers),
        before=common([bank.before.module for bank in banks], layers),
        after=common([bank.after for bank in banks], layers),
        up=None if fused else common([bank.up.module if bank.up else None for bank in banks], layers) or None,
        fused=fused,
        attention=attention.pop() if len(attention) == 1 else (),
        sites={name: site for name, site in row.sites.items() if name not in NEURON_SITES} if row else {},
    )
