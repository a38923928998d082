"""Apply an Override: the context manager that writes its values in a model's forward passes."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from lnbench.errors import LnbenchError, plugin_call, unknown
from lnbench.experts_writer import ChangedTokens, ExpertsWriter
from lnbench.model.architectures import BANK_SITES, EXPERTS, POST, units_at
from lnbench.model.banks import Bank, Tap
from lnbench.model.experts import ExpertsBank
from lnbench.model.experts_taps import ExpertsTap
from lnbench.model.forward_passes import NOT_CALLED, GenerationWatch, Positions, both, eager
from lnbench.model.locate import locate
from lnbench.model.sites import Sites
from lnbench.override_values import LayerOverride, Override

if TYPE_CHECKING:
    from lnbench.statistics import Statistics

__all__ = ["Applied", "Positions", "apply"]


@dataclass
class Applied:
    """What an override did so far; updated by every forward pass inside the context."""

    neurons: int
    """Neurons changed, over all layers."""
    layers: int
    """Layers with a changed neuron."""
    tokens: int = 0
    """Real tokens at which they were changed; padding, and rows that ``generate`` has finished, are not counted."""
    real: Tensor | None = None
    """``BoolTensor[batch, length]`` of the tokens to change in the next forwards; set by callers that pass no
    ``attention_mask``. None: take it from the mask, else every token is real."""
    counted: Tensor | None = None
    """``LongTensor[batch, length]``: how often each position of the next forwards counts in ``tokens``; set by callers
    that run a text more than once, or for several documents. None: once where it is changed."""
    _sums: dict[tuple[str, torch.device], Tensor | int] = field(default_factory=dict)
    """What and where → how many. Added up where it was counted: reading a number back stalls an accelerator."""
    _pass: _Pass | None = None
    _active: bool = True
    _passes: int = 0
    """Forward passes with a token to change."""
    _silent: Counter[_Place] = field(default_factory=Counter)
    """Place → how many of them wrote nothing there."""

    def __repr__(self) -> str:
        return f"Applied({self.neurons:,} neurons in {self.layers} layers, {self.tokens:,} tokens)"

    @property
    def outside_range(self) -> float:
        """Share of the values written so far that lie outside the range observed at the site they are written to.

        NaN until something was written, or where no Statistics were given.
        """
        return self._sum("outside") / self.values if self.values else float("nan")

    @property
    def values(self) -> int:
        """Values written where the range observed at their site is known."""
        return self._sum("values")

    @property
    def rows(self) -> int:
        """Pairs of a real token and an expert that it was routed to at which a neuron was changed; 0 in dense models.

        An override cannot make an expert run: where a token is not routed to an expert, nothing of it is written.
        """
        return self._sum("rows")

    def _sum(self, what: str) -> int:
        return sum(int(count) for (name, _), count in self._sums.items() if name == what)

    def _add(self, what: str, count: Tensor | int, device: torch.device) -> None:
        self._sums[what, device] = self._sums.get((what, device), 0) + count

    def _tokens_at(self, place: _Place) -> ChangedTokens | None:
        """Return what the pass that runs now changes at a place; None: nothing."""
        if not self._active:
            return None
        current = self._pass
        if current is None:
            return ChangedTokens(None, None, 0, counting=False)
        current.written.add(place)
        changed = ChangedTokens(current.mask, current.times, current.tokens, counting=current.running)
        return changed if current.tokens else None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the forward passes in this block as they are, and do not count them."""
        self._active, before = False, self._active
        try:
            yield
        finally:
            self._active = before

    def _check_written(self) -> None:
        """Raise if a layer was not written to in a pass that had something to change there."""
        if not self._silent:
            return
        place, passes = self._silent.most_common(1)[0]
        layers = sorted({place.layer for place in self._silent})
        raise LnbenchError(
            f"the override did not reach layers {layers}: in {passes} of {self._passes} forward passes nothing called "
            f"the module at site {place.site!r} of layer {place.layer}, so the results are those of a model that was "
            f"changed in part or not at all; {NOT_CALLED}"
        )


@contextmanager
def apply(
    model: nn.Module,
    change: Override,
    *,
    statistics: Statistics | None = None,
    site: str = POST,
    positions: Positions = "all",
    sites: Sites | None = None,
) -> Iterator[Applied]:
    """Apply an Override in every forward pass of ``model`` inside the block; arguments as for :func:`lnbench.override`.

    Raises:
        LnbenchError: neurons that the model does not have, Statistics of another model, an unsupported architecture;
            and at the end of the block, if a forward pass did not write to every changed layer.
    """
    if positions not in get_args(Positions):
        raise unknown("positions", positions, get_args(Positions))
    sites = sites or locate(model)
    sites.check_site(site)
    if statistics is not None:
        _check_fit(statistics, sites)
    with _naming(change):
        written = change.by_site(site)
        for where in {site for _, site in written}:
            there = Override({layer: parts for (layer, at), parts in written.items() if at == where})
            there.check(sites.layers, sites.layout(where).widths, units=units_at(where))
        change.check_dtype(_dtype(sites.model))
        places = dict(_places(sites, written))
    applied = Applied(neurons=change.neurons, layers=len({layer for layer, _ in written}))

    with ExitStack() as stack:
        if places:
            stack.enter_context(eager())
            _Watch(applied, both(positions, change.positions), change, tuple(places)).attach(sites, stack)
        for place, parts in places.items():
            layer, where, bank = place.layer, place.site, place.bank
            indices = torch.cat([part.indices.cpu().long() for part in parts])
            in_layer = indices if bank is None else indices + bank.start
            bounds = None
            # What is written to a router are logits, and its Statistics are of routing weights.
            if statistics is not None and where in statistics.sites and where != EXPERTS:
                values = statistics.at(where).per_coordinate.values
                bounds = (values.min[layer].flatten()[in_layer], values.max[layer].flatten()[in_layer])
            if isinstance(bank, ExpertsBank):
                with _naming(change):
                    experts = ExpertsWriter(bank, parts, bounds, partial(applied._tokens_at, place), applied._add)
                write: Tap | ExpertsTap = experts.write
            else:
                write = _Writer(place, parts, indices, bounds, applied, change).write
            stack.callback(sites.tap(where, layer, write, bank).remove)
        yield applied
        applied._check_written()


@dataclass(frozen=True, eq=False)
class _Place:
    """Where something is written."""

    layer: int
    site: str
    bank: Bank | ExpertsBank | None
    """At the sites of neurons."""


def _places(
    sites: Sites, written: Mapping[tuple[int, str], Sequence[LayerOverride]]
) -> Iterator[tuple[_Place, list[LayerOverride]]]:
    """Yield what is written to each bank of a layer, in the bank's own numbering, and to other sites' coordinates."""
    for (layer, site), parts in written.items():
        if site not in BANK_SITES:
            size = sites.layout(site).unit_sizes[layer]
            own = [part.of_coordinates(size) for part in parts]
            yield _Place(layer, site, None), list(map(_of_router, own)) if site == EXPERTS else own
            continue
        for bank in sites.in_layer(layer):
            own = [inside for part in parts if (inside := part.within(bank.start, bank.width)) is not None]
            if own:
                yield _Place(layer, site, bank), own


_NEVER = -1e4
"""A bias with which a router never chooses an expert."""


def _of_router(part: LayerOverride) -> LayerOverride:
    """Return what is done to the router's logits.

    Raises:
        LnbenchError: something that is neither a bias nor zero.
    """
    if part.operation == "add":
        return part
    if part.operation == "set" and part.values is not None and not part.values.any():
        return replace(part, values=torch.full_like(part.values, _NEVER), operation="add")
    raise LnbenchError(
        "at site 'experts' an override biases the router's logits (add), or takes experts out (zero): their routing "
        f"weights follow from these and cannot be written; got {part.operation!r}"
    )


def _check_fit(statistics: Statistics, sites: Sites) -> None:
    """Raise if Statistics are not of this model."""
    widths = sites.layout(statistics.site).widths
    if statistics.widths != widths:
        raise LnbenchError(
            f"these Statistics are of {statistics.layers} layers of {statistics.width} {units_at(statistics.site)}, "
            f"the model has {sites.layers} of {max(widths)}: they belong to another model"
        )


def _naming(change: Override) -> AbstractContextManager[None]:
    return nullcontext() if change.made_by is None else plugin_call("intervention", change.made_by)


def _dtype(model: nn.Module) -> torch.dtype:
    """Return the type that a model computes in: that of its first weights that are not quantised."""
    types = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(types, torch.float32)


@dataclass
class _Pass:
    """One forward pass: which of its tokens are to be changed."""

    depth: int
    mask: Tensor | None
    """``BoolTensor[batch, length]``, or None: all of them."""
    tokens: int
    """How many ``mask`` holds."""
    counted: int
    """How many of them count."""
    times: Tensor | None
    """``[batch, length]``: how often each counts; None: once where it is changed."""
    running: bool = True
    written: set[_Place] = field(default_factory=set)
    """Those that were written to."""


@dataclass
class _Watch:
    """The hooks that work out which tokens of a coming forward pass are to be changed, and see that they were.

    Callers may run the causal LM, or its body alone, so the arguments are read at whichever module is entered first.
    """

    applied: Applied
    positions: str
    change: Override
    places: tuple[_Place, ...]
    """Everything that is to be written to in each pass."""
    generation: GenerationWatch = field(default_factory=GenerationWatch)
    _body: int = 0
    """The depth of the module whose output is the blocks' result."""

    def attach(self, sites: Sites, stack: ExitStack) -> None:
        self._body = len(sites.parents) - 1
        for depth, module in enumerate(sites.parents):
            self.generation.attach(module, stack)
            stack.callback(
                module.register_forward_pre_hook(partial(self._enter, depth), with_kwargs=True, prepend=True).remove
            )
            stack.callback(module.register_forward_hook(partial(self._leave, depth), always_call=True).remove)

    def _enter(self, depth: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        current = self.applied._pass
        if not self.applied._active or (current is not None and current.running and current.depth < depth):
            return
        if args:
            kwargs = kwargs | inspect.signature(module.forward).bind_partial(*args).arguments
        self.applied._pass = _Pass(depth, *self._chosen(kwargs))

    def _leave(self, depth: int, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        current = self.applied._pass
        if current is None or not current.running or not self.applied._active:
            return
        # The mask stays: gradient checkpointing runs blocks again after the pass, and they must be changed alike.
        current.running = current.depth != depth
        if depth == self._body:
            self._check_finite(output, current.mask)
        # Without an output, the pass has failed.
        if current.running or output is None or current.tokens == 0:
            return
        self.applied._passes += 1
        self.applied._silent.update(place for place in self.places if place not in current.written)
        if current.written:
            self.applied.tokens += current.counted

    def _check_finite(self, output: Any, mask: Tensor | None) -> None:
        """Raise where the changed tokens' hidden states are not finite, which makes every score "not a number"."""
        hidden = next(iter(output.values() if isinstance(output, Mapping) else output), None) if output else None
        if not isinstance(hidden, Tensor) or hidden.ndim != 3 or hidden.is_meta:
            return
        finite = torch.isfinite(hidden).all(-1)
        if not (finite if mask is None else finite | ~mask.to(finite.device)).all():
            with _naming(self.change):
                raise LnbenchError(
                    f"the model's hidden states overflow {hidden.dtype} or are not numbers under this override; write "
                    "smaller values, or load the model with dtype=bfloat16 or float32"
                )

    def _chosen(self, arguments: Mapping[str, Any]) -> tuple[Tensor | None, int, int, Tensor | None]:
        ids = arguments.get("input_ids")
        if ids is None:
            ids = arguments["inputs_embeds"]
        shape = (ids.shape[0], ids.shape[1])
        mask, seen = self._mask(arguments, shape)
        tokens = int(mask.sum()) if mask is not None else shape[0] * shape[1]
        again = 0 if seen == 0 else int(mask[:, :seen].sum()) if mask is not None else shape[0] * seen
        counted = self.applied.counted
        if counted is not None and counted.shape != shape:
            raise LnbenchError(f"Applied.counted has shape {tuple(counted.shape)}, the forward pass {shape}")
        mask = mask.to(ids.device) if mask is not None and tokens < mask.numel() else None
        if counted is not None:
            return mask, tokens, int(counted.sum()), counted.to(ids.device)
        times = None if seen == 0 else (torch.arange(shape[1], device=ids.device) >= seen).expand(shape)
        return mask, tokens, tokens - again, times

    def _mask(self, arguments: Mapping[str, Any], shape: tuple[int, int]) -> tuple[Tensor | None, int]:
        """Return the tokens to change, and how many first positions of this generation were in an earlier pass."""
        real = self.applied.real
        if real is not None:
            if real.shape != shape:
                raise LnbenchError(f"Applied.real has shape {tuple(real.shape)}, the forward pass {shape}")
            return real.bool(), 0
        ends = {"not_first", "last"} & set(self.positions.split("+"))
        tokens = self.generation.tokens(arguments, shape, ends=bool(ends))
        return tokens.meant(self.positions, shape), tokens.seen


@dataclass
class _Writer:
    """What is written to one place: one indexed write per forward, with everything prepared once."""

    place: _Place
    parts: Sequence[LayerOverride]
    indices: Tensor
    """In the numbering of the place's bank."""
    bounds: tuple[Tensor, Tensor] | None
    applied: Applied
    change: Override
    _ready: dict[tuple[torch.device, torch.dtype], tuple[Tensor, list[Tensor | None]]] = field(default_factory=dict)
    _constant_outside: int = 0

    def __post_init__(self) -> None:
        self.sizes = [part.indices.numel() for part in self.parts]
        self.sets = all(part.operation == "set" for part in self.parts)
        if self.bounds is not None and self.sets:
            low, high = self.bounds
            values = torch.cat([part.values.cpu() for part in self.parts if part.values is not None])
            self._constant_outside = int(((values < low) | (values > high)).sum())

    def write(self, activation: Tensor) -> Tensor | None:
        """Return the activations ``[..., width]`` with the new values in them; None to leave them."""
        tokens = self.applied._tokens_at(self.place)
        if tokens is None:
            return None
        mask = tokens.mask
        if mask is not None:
            # Some blocks fold batch and length into one axis before the feed-forward.
            mask = mask.to(activation.device).reshape(*activation.shape[:-1], 1)
        indices, values = self._prepared(activation)
        old = activation.index_select(-1, indices) if not self.sets or mask is not None else None
        with _naming(self.change):
            new = self._new(old, values)
        if tokens.counting:
            self._count(new, tokens.number, mask)
        if mask is not None:
            assert old is not None
            new = torch.where(mask, new, old)
        new = new.expand(*activation.shape[:-1], -1)
        # index_copy is several times faster than an assignment to activation[..., indices] here.
        if torch.is_grad_enabled() and activation.requires_grad:
            return activation.index_copy(-1, indices, new)
        return activation.index_copy_(-1, indices, new)

    def _new(self, old: Tensor | None, values: list[Tensor | None]) -> Tensor:
        if self.sets:
            assert values[0] is not None
            return values[0]
        assert old is not None
        pieces = zip(self.parts, torch.split(old, self.sizes, dim=-1), values, strict=True)
        new = [part.new(piece, value).expand_as(piece) for part, piece, value in pieces]
        return new[0] if len(new) == 1 else torch.cat(new, dim=-1)

    def _prepared(self, activation: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Return the indices, and the values of each part (one tensor for all, where all are set), on the device."""
        device, dtype = key = (activation.device, activation.dtype)
        if key not in self._ready:
            if activation.is_meta:
                raise LnbenchError("cannot override a model whose activations are on the meta device")
            values = [None if part.values is None else part.values.to(device, dtype) for part in self.parts]
            if not all(torch.isfinite(value).all() for value in values if value is not None):
                raise LnbenchError(f"an override's value is too large for a model in {dtype}; load it in another")
            if self.sets:
                values = [torch.cat([value for value in values if value is not None])]
            self._ready[key] = (self.indices.to(device), values)
            if self.bounds is not None:
                self.bounds = (self.bounds[0].to(device), self.bounds[1].to(device))
        return self._ready[key]

    def _count(self, new: Tensor, tokens: int, mask: Tensor | None) -> None:
        if self.bounds is None:
            return
        applied = self.applied
        applied._add("values", tokens * self.indices.numel(), new.device)
        outside: Tensor | int = self._constant_outside * tokens
        if not self.sets:
            low, high = self.bounds
            beyond = (new < low) | (new > high)
            outside = (beyond if mask is None else beyond & mask).sum()
        applied._add("outside", outside, new.device)
