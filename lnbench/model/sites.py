"""The neurons of a live model: its blocks, the banks of neurons in them, and how values are read and written there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn

from lnbench.errors import LnbenchError, unknown
from lnbench.model.architectures import BANK_SITES, EXPERTS, UP, Architecture
from lnbench.model.banks import Bank, Joined, Observer, PerBank, Tap
from lnbench.model.experts import ExpertsBank
from lnbench.model.experts_router import tap_router
from lnbench.model.experts_taps import (
    ExpertsObserver,
    ExpertsTap,
    observe_experts,
    observe_routing,
    tap_experts,
)
from lnbench.model.layout import ExpertsLayout
from lnbench.model.places import Layout, Place
from lnbench.model.taps import Handle, observe_bank, observe_up, tap_bank, tap_place


@dataclass(frozen=True)
class Sites:
    """The neurons of one live model."""

    architecture: Architecture
    """The module paths that all blocks share; what differs between them is empty there."""
    model: nn.Module
    """The causal LM itself, out of any PEFT or parallel wrapper."""
    names: tuple[str, ...]
    """The blocks' names, from the causal LM, in order."""
    banks: tuple[Bank | ExpertsBank, ...]
    """In the order of their layers; in a layer, experts follow the other feed-forwards."""
    attention: tuple[tuple[str, ...], ...]
    """Per layer, the names of the block's linear maps that are no part of a feed-forward."""
    how: str = ""
    """By what the model was located."""
    visits: tuple[int, ...] = ()
    """Per layer, how often it runs in a forward pass."""
    check: Any = field(default=None, compare=False)
    """The outcome of the self-check, see :mod:`lnbench.model.self_check`."""
    places: tuple[Place, ...] = ()
    """Of the sites that are no neurons', in each layer that has one."""
    missing: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Site → why it cannot be read or written in this model."""

    @property
    def layers(self) -> int:
        """The number of blocks ``L``."""
        return len(self.names)

    @cached_property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The blocks, in order."""
        return tuple(self.model.get_submodule(name) for name in self.names)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """The number of neurons per layer; 0 in one without a feed-forward."""
        widths = [0] * self.layers
        for bank in self.banks:
            widths[bank.layer] += bank.width
        return tuple(widths)

    @property
    def names_of_sites(self) -> tuple[str, ...]:
        """The sites that can be read and written."""
        of_experts = (EXPERTS,) if self.routers else ()
        names = (*BANK_SITES, *dict.fromkeys(place.site for place in self.places), *of_experts)
        return tuple(name for name in names if name not in self.missing)

    def check_site(self, site: str) -> None:
        """Raise unless ``site`` can be read and written here.

        Raises:
            LnbenchError: there is no such site, or why it cannot be used in this model.
        """
        if site in self.missing:
            raise LnbenchError(
                f"site {site!r} cannot be used in this {type(self.model).__name__}: {self.missing[site]}. It has "
                f"{', '.join(self.names_of_sites)}"
            )
        if site not in self.names_of_sites:
            raise unknown("site", site, self.names_of_sites)

    def layout(self, site: str) -> Layout:
        """Return the numbers of units at ``site``, and of their coordinates.

        Raises:
            LnbenchError: as :meth:`check_site`.
        """
        if site != UP:
            self.check_site(site)
        if site in (*BANK_SITES, UP):
            return Layout(self.widths, (1,) * self.layers)
        if site == EXPERTS:
            own = {layer: bank.experts for layer, bank in self.routers.items()}
            return Layout(tuple(own.get(layer, 0) for layer in range(self.layers)), (1,) * self.layers)
        of_layer = {place.layer: place for place in self.places if place.site == site}
        sizes = [
            (place.width, place.unit_size) if (place := of_layer.get(layer)) else (0, 1) for layer in range(self.layers)
        ]
        widths, unit_sizes = zip(*sizes, strict=True)
        return Layout(widths, unit_sizes)

    def place(self, site: str, layer: int) -> Place:
        """Return where the values of a site, which is no neurons', lie in one layer.

        Raises:
            LnbenchError: as :meth:`check_site`; or the layer has no such place.
        """
        self.check_site(site)
        for place in self.places:
            if (place.site, place.layer) == (site, layer):
                return place
        raise LnbenchError(f"layer {layer} of this {type(self.model).__name__} has no site {site!r}")

    @property
    def width(self) -> int:
        """The number of neurons of the widest layer, of every layer in most models."""
        return max(self.widths)

    @cached_property
    def activations(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        """The non-linearity per layer, of what every token runs, and after these of each bank of experts.

        That of a layer without a feed-forward leaves everything as it is.
        """
        found: list[Callable[[Tensor], Tensor]] = []
        for layer in range(self.layers):
            banks = self.dense_in(layer)
            functions = tuple(map(self.activation, banks)) or (nn.Identity(),)
            found.append(functions[0] if len(functions) == 1 else PerBank(banks, functions))
        return (*found, *map(self.activation, self.experts))

    def activation(self, bank: Bank | ExpertsBank) -> Callable[[Tensor], Tensor]:
        """Return a bank's non-linearity."""
        if isinstance(bank, ExpertsBank):
            return bank.function(self.model)
        if bank.activation is not None:
            return self.model.get_submodule(bank.activation)
        assert bank.function is not None
        return bank.function

    @property
    def parents(self) -> tuple[nn.Module, ...]:
        """The modules around the lists of blocks, from the causal LM inwards: what a forward pass may enter at."""
        paths = [name.split(".")[:-2] for name in self.names]
        common = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))]
        return tuple(self.model.get_submodule(".".join(common[:depth])) for depth in range(len(common) + 1))

    @cached_property
    def dense(self) -> tuple[Bank, ...]:
        """The banks that every token runs."""
        return tuple(bank for bank in self.banks if isinstance(bank, Bank))

    @cached_property
    def experts(self) -> tuple[ExpertsBank, ...]:
        """The banks of experts, of which each token runs some."""
        return tuple(bank for bank in self.banks if isinstance(bank, ExpertsBank))

    @property
    def layouts(self) -> tuple[ExpertsLayout, ...]:
        """Where the neurons of the banks of experts are."""
        return tuple(bank.layout for bank in self.experts)

    @cached_property
    def routers(self) -> dict[int, ExpertsBank]:
        """Layer → its experts that a router chooses among."""
        return {bank.layer: bank for bank in reversed(self.experts) if bank.is_routed}

    def in_layer(self, layer: int) -> tuple[Bank | ExpertsBank, ...]:
        """Return the banks of one layer."""
        return tuple(bank for bank in self.banks if bank.layer == layer)

    def dense_in(self, layer: int) -> tuple[Bank, ...]:
        """Return those banks of one layer that every token runs."""
        return tuple(bank for bank in self.dense if bank.layer == layer)

    def tap(self, site: str, layer: int, function: Tap | ExpertsTap, bank: Bank | ExpertsBank | None = None) -> Handle:
        """Call ``function`` with the values at a site of one layer in every forward pass.

        Args:
            site: Name of the site.
            layer: Number of the layer.
            function: It is called with all coordinates of all units, ``[batch, length, coordinates]`` (or ``[tokens,
                coordinates]``), those of one unit side by side; it returns new values, or None to leave them as they
                are. At experts it is also handed what the rows are of, see
                :class:`lnbench.model.experts_taps.Rows`.
            bank: At the sites of neurons, whose neurons' values; not needed in a layer with one bank.

        Returns:
            A handle; its ``remove()`` ends this.

        Raises:
            LnbenchError: the model has no such site; no feed-forward in the layer, or several and none is named.
        """
        self.check_site(site)
        handle = Handle()
        if site == EXPERTS:
            tap_router(self.model, self.routers[layer], cast(Tap, function), handle)
            return handle
        if site not in BANK_SITES:
            tap_place(self.model, self.names[layer], self.place(site, layer), cast(Tap, function), handle)
            return handle
        banks = (bank,) if bank is not None else self.in_layer(layer)
        kind = type(self.model).__name__
        if not banks:
            raise LnbenchError(f"layer {layer} of this {kind} has no feed-forward, so no neurons")
        if len(banks) > 1:
            paths = ", ".join(bank.path for bank in banks)
            raise LnbenchError(f"layer {layer} of this {kind} has {len(banks)} feed-forwards ({paths}); name one")
        self.tap_bank(banks[0], site, function, handle)
        return handle

    def tap_bank(self, bank: Bank | ExpertsBank, site: str, function: Tap | ExpertsTap, handle: Handle) -> None:
        """Call ``function`` as :meth:`tap` does, with the values of one bank; the hooks go into ``handle``."""
        if isinstance(bank, ExpertsBank):
            tap_experts(self.model, bank, site, cast(ExpertsTap, function), handle)
        else:
            tap_bank(self.model, self.names[bank.layer], bank, site, cast(Tap, function), handle)

    def observe(self, layer: int, function: Observer) -> Handle:
        """Call ``function`` with one layer's values before and after the non-linearity in every forward pass.

        In a layer with several banks it is called once for all of them, with the neurons in the layer's numbering; with
        those of experts it is not called, see :meth:`observe_experts`.

        Returns:
            A handle; its ``remove()`` ends this.
        """
        handle, banks = Handle(), self.dense_in(layer)
        joined = Joined(banks, function)
        for bank in banks:
            self.observe_bank(bank, function if len(banks) == 1 else partial(joined.observe, bank), handle)
        return handle

    def observe_at(self, site: str, layer: int, function: Callable[[Tensor], None]) -> Handle:
        """Call ``function`` with all coordinates at a site of one layer in every forward pass.

        They are ``[batch, length, coordinates]``; of several feed-forwards, those of all of them at once.

        Returns:
            A handle; its ``remove()`` ends this.
        """
        if site == EXPERTS:
            handle = Handle()
            observe_routing(self.model, self.routers[layer], function, handle)
            return handle
        banks = self.dense_in(layer)
        if site != UP and (site not in BANK_SITES or len(banks) == 1):
            return self.tap(site, layer, function)
        handle = Handle()
        joined = Joined(banks, lambda values, _same: function(values))
        for bank in banks:
            observer = partial(_twice, joined, bank)
            if site == UP:
                observe_up(self.model, self.names[layer], bank, observer, handle)
            else:
                self.tap_bank(bank, site, observer, handle)
        return handle

    def observe_bank(self, bank: Bank, function: Observer, handle: Handle) -> None:
        """Call ``function`` as :meth:`observe` does, with the values of one bank; the hooks go into ``handle``."""
        observe_bank(self.model, self.names[bank.layer], bank, function, handle)

    def observe_experts(
        self, bank: ExpertsBank, function: ExpertsObserver, end: Callable[[], None] | None = None
    ) -> Handle:
        """Call ``function`` with an experts bank's values before and after the non-linearity in every forward pass.

        Args:
            bank: Where.
            function: See :data:`lnbench.model.experts_taps.ExpertsObserver`.
            end: Called each time the bank has run.

        Returns:
            A handle; its ``remove()`` ends this.
        """
        handle = Handle()
        observe_experts(self.model, bank, function, handle, end)
        return handle


def _twice(joined: Joined, bank: Bank, values: Tensor) -> None:
    joined.observe(bank, values, values)


def unwrap(model: Any) -> Any:
    """Return the Hugging Face model inside PEFT, data-parallel and compiled wrappers."""
    if hasattr(model, "get_base_model"):
        inner = model.get_base_model()
    else:
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
    return unwrap(inner) if isinstance(inner, nn.Module) else model


def refuse_tensor_parallel(model: nn.Module) -> None:
    """Raise if ``model``'s weights are sharded over processes by tensor parallelism.

    Raises:
        LnbenchError: always when sharded; says what to use in its place.
    """
    sharded = (getattr(model, "_tp_size", None) or 1) > 1 or any(
        hasattr(parameter, "placements") for parameter in model.parameters()
    )
    if sharded:
        raise LnbenchError(TENSOR_PARALLEL)


TENSOR_PARALLEL = (
    "under tensor parallelism (tp_plan) every process holds only a shard of each layer's neurons, which lnbench does "
    "not override; split the model by layers in its place: parallelize=True, or device_map=auto"
)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout and the like off, and back on where it was on."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def transformer_body(model: Any) -> nn.Module:
    """Return the model without its output head."""
    body = getattr(model, "base_model", None)
    return body if isinstance(body, nn.Module) else model


def input_device(model: Any) -> torch.device:
    """Return the device that token ids go to, also where the weights are offloaded."""
    hook = getattr(model.get_input_embeddings(), "_hf_hook", None)
    if (device := getattr(hook, "execution_device", None)) is not None:
        return torch.device(device)
    here = (parameter.device for parameter in model.parameters() if not parameter.is_meta)
    return next(here, torch.device("cpu"))
