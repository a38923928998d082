"""Apply an Override: the context manager that writes its values in a model's forward passes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from lnbench.errors import LnbenchError, plugin_call, unknown
from lnbench.model.architectures import POST
from lnbench.model.locate import locate
from lnbench.model.sites import Sites
from lnbench.override_values import LayerOverride, Override

if TYPE_CHECKING:
    from lnbench.statistics import Statistics

Positions = Literal["all", "prompt", "generated"]


@dataclass
class Applied:
    """What an override did so far; updated by every forward pass inside the context."""

    neurons: int
    """Neurons changed, over all layers."""
    layers: int
    """Layers with a changed neuron."""
    tokens: int = 0
    """Real tokens at which they were changed; padding is not counted."""
    real: Tensor | None = None
    """``BoolTensor[batch, length]`` of the tokens to change in the next forwards; set by callers that pass no
    ``attention_mask``. None: take it from the mask, else every token is real."""
    _values: int = 0
    _outside: dict[torch.device, Tensor | int] = field(default_factory=dict)
    _pass: _Pass | None = None
    _active: bool = True

    @property
    def outside_range(self) -> float:
        """Share of the values written so far that lie outside the range observed at the site they are written to.

        NaN until something was written, or where no Statistics were given.
        """
        return sum(map(float, self._outside.values())) / self._values if self._values else float("nan")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the forward passes in this block as they are, and do not count them."""
        self._active, before = False, self._active
        try:
            yield
        finally:
            self._active = before


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
        LnbenchError: neurons that the model does not have, Statistics of another model, an unsupported architecture.
    """
    if positions not in get_args(Positions):
        raise unknown("positions", positions, get_args(Positions))
    sites = sites or locate(model)
    sites.architecture.site(site)
    if statistics is not None and (statistics.layers, statistics.width) != (sites.layers, sites.width):
        raise LnbenchError(
            f"these Statistics are of {statistics.layers} layers of {statistics.width} neurons, the model has "
            f"{sites.layers} of {sites.width}: they belong to another model"
        )
    with _naming(change):
        change.check(sites.layers, sites.width)
        change.check_dtype(_dtype(sites.model))
        written = change.by_site(site)
        for _, where in written:
            sites.architecture.site(where)
    applied = Applied(neurons=change.neurons, layers=len({layer for layer, _ in written}))

    with ExitStack() as stack:
        if written:
            _Watch(applied, positions, change).attach(sites, stack)
        for number, ((layer, where), parts) in enumerate(written.items()):
            ranges = statistics.at(where) if statistics is not None else None
            indices = torch.cat([part.indices.cpu().long() for part in parts])
            bounds = (ranges.min[layer][indices], ranges.max[layer][indices]) if ranges else None
            writer = _Writer(parts, indices, bounds, applied, change, counts_tokens=number == 0)
            stack.callback(sites.tap(where, layer, writer.write).remove)
        yield applied


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
    tokens: int | None
    """How many ``mask`` holds."""
    running: bool = True


@dataclass
class _Watch:
    """The hooks that work out which tokens of a coming forward pass are to be changed.

    Callers may run the causal LM, or its body alone, so the arguments are read at whichever module is entered first.
    """

    applied: Applied
    positions: Positions
    change: Override
    _body: int = 0
    """The depth of the module whose output is the blocks' result."""

    def attach(self, sites: Sites, stack: ExitStack) -> None:
        self._body = len(sites.parents) - 1
        for depth, module in enumerate(sites.parents):
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
        if depth == self._body and self.applied._active and current is not None and current.running:
            self._check_finite(output, current.mask)
        # The mask stays: gradient checkpointing runs blocks again after the pass, and they must be changed alike.
        if current is not None and current.depth == depth:
            current.running = False

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

    def _chosen(self, arguments: Mapping[str, Any]) -> tuple[Tensor | None, int | None]:
        ids = arguments.get("input_ids")
        if ids is None:
            ids = arguments["inputs_embeds"]
        shape = (ids.shape[0], ids.shape[1])
        mask = self._real(arguments.get("attention_mask"), shape)
        if self.positions != "all" and self.applied.real is None:
            past = arguments.get("past_key_values")
            generating = past is not None and past.get_seq_length() > 0
            if generating != (self.positions == "generated"):
                mask = torch.zeros(shape, dtype=torch.bool)
        if mask is None:
            return None, None
        tokens = int(mask.sum())
        return (None, None) if tokens == mask.numel() else (mask.to(ids.device), tokens)

    def _real(self, attention_mask: Any, shape: tuple[int, int]) -> Tensor | None:
        real = self.applied.real
        if real is not None:
            if real.shape != shape:
                raise LnbenchError(f"Applied.real has shape {tuple(real.shape)}, the forward pass {shape}")
            return real.bool()
        if not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2:
            return None
        # With a cache the mask also covers the past; the tokens of this forward are its last columns.
        return attention_mask[:, -shape[1] :].bool().expand(shape)


@dataclass
class _Writer:
    """What is written to one layer at one site: one indexed write per forward, with everything prepared once."""

    parts: Sequence[LayerOverride]
    indices: Tensor
    bounds: tuple[Tensor, Tensor] | None
    applied: Applied
    change: Override
    counts_tokens: bool
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
        """Return the activations ``[..., width]`` with the new values in them; None while the override is paused."""
        if not self.applied._active:
            return None
        current = self.applied._pass
        mask, tokens = (current.mask, current.tokens) if current is not None else (None, None)
        if tokens is None:
            tokens = activation.numel() // activation.shape[-1]
        if tokens == 0:
            return activation
        if mask is not None:
            # Some blocks fold batch and length into one axis before the feed-forward.
            mask = mask.to(activation.device).reshape(*activation.shape[:-1], 1)
        indices, values = self._prepared(activation)
        old = activation.index_select(-1, indices) if not self.sets or mask is not None else None
        with _naming(self.change):
            new = self._new(old, values)
        if current is not None and current.running:
            self._count(new, tokens, mask)
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
        applied = self.applied
        if self.counts_tokens:
            applied.tokens += tokens
        if self.bounds is None:
            return
        applied._values += tokens * self.indices.numel()
        outside: Tensor | int = self._constant_outside * tokens
        if not self.sets:
            low, high = self.bounds
            beyond = (new < low) | (new > high)
            outside = (beyond if mask is None else beyond & mask).sum()
        # Added up where it was counted: reading a number back would stall an accelerator at every layer.
        applied._outside[new.device] = applied._outside.get(new.device, 0) + outside
