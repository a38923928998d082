"""Apply an Override: the context manager that writes its values in a model's forward passes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from lnbench.errors import LnbenchError, unknown
from lnbench.model.sites import Sites, locate
from lnbench.override_values import LayerOverride, Override

if TYPE_CHECKING:
    from lnbench.statistics import Statistics

Site = Literal["post", "pre"]
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
        """Forward passes in this block are left alone and not counted."""
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
    site: Site = "post",
    positions: Positions = "all",
    sites: Sites | None = None,
) -> Iterator[Applied]:
    """Apply an Override in every forward pass of ``model`` inside the block.

    Args:
        model: A supported Hugging Face causal LM: plain, PEFT-wrapped, quantised, or split over devices by layers.
        change: What to write where.
        statistics: Whose range ``outside_range`` refers to.
        site: Where values are written: ``post`` the non-linearity (the default), or ``pre``.
        positions: Change ``all`` tokens, those of the ``prompt`` (forwards without cached keys) or the ``generated``.
        sites: The model's neurons, if already located.

    Yields:
        The running account of what was changed.

    Raises:
        LnbenchError: neurons that the model does not have, Statistics of another model, an unsupported architecture.
    """
    if positions not in get_args(Positions):
        raise unknown("positions", positions, get_args(Positions))
    if site not in get_args(Site):
        raise unknown("site", site, get_args(Site))
    sites = sites or locate(model)
    ranges = statistics.at(site) if statistics is not None else None
    if ranges is not None and (ranges.layers, ranges.width) != (sites.layers, sites.width):
        raise LnbenchError(
            f"these Statistics are of {ranges.layers} layers of {ranges.width} neurons, the model has {sites.layers} "
            f"of {sites.width}: they belong to another model"
        )
    change.check(sites.layers, sites.width)
    changed = {layer: part for layer, part in sorted(change.layers.items()) if part.indices.numel()}
    applied = Applied(neurons=change.neurons, layers=len(changed))

    with ExitStack() as stack:
        if changed:
            _Watch(applied, positions).attach(sites, stack)
        for number, (layer, part) in enumerate(changed.items()):
            indices = part.indices.cpu().long()
            bounds = (ranges.min[layer][indices], ranges.max[layer][indices]) if ranges else None
            writer = _Writer(part, bounds, applied, counts_tokens=number == 0)
            module = sites.activations[layer]
            if site == "pre":
                stack.callback(module.register_forward_pre_hook(writer.before).remove)
            else:
                stack.callback(module.register_forward_hook(writer.after).remove)
        yield applied


@dataclass
class _Pass:
    """One forward pass: which of its tokens are to be changed."""

    depth: int
    mask: Tensor | None
    """``BoolTensor[batch, length]``, or None: all of them."""
    tokens: int | None
    """How many ``mask`` holds."""
    running: bool = True


class _Watch:
    """The hooks that work out which tokens of a coming forward pass are to be changed.

    Callers may run the causal LM, or its body alone, so the arguments are read at whichever module is entered first.
    """

    def __init__(self, applied: Applied, positions: Positions) -> None:
        self.applied = applied
        self.positions = positions

    def attach(self, sites: Sites, stack: ExitStack) -> None:
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

    def _leave(self, depth: int, _module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        current = self.applied._pass
        # The mask stays: gradient checkpointing runs blocks again after the pass, and they must be changed alike.
        if current is not None and current.depth == depth:
            current.running = False

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


class _Writer:
    """The hook on one layer's non-linearity: one indexed write per forward, with everything prepared once."""

    def __init__(
        self, change: LayerOverride, bounds: tuple[Tensor, Tensor] | None, applied: Applied, *, counts_tokens: bool
    ) -> None:
        self.change = change
        self.bounds = bounds
        self.applied = applied
        self.counts_tokens = counts_tokens
        self._ready: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        self._constant_outside = 0
        if bounds is not None and change.operation == "set":
            low, high = bounds
            values = change.values.cpu()
            self._constant_outside = int(((values < low) | (values > high)).sum())

    def before(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (self._write(args[0]), *args[1:]) if self.applied._active else None

    def after(self, _module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return self._write(output) if self.applied._active else None

    def _write(self, activation: Tensor) -> Tensor:
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
        old = activation.index_select(-1, indices) if self.change.operation != "set" or mask is not None else None
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

    def _new(self, old: Tensor | None, values: Tensor) -> Tensor:
        if self.change.operation == "set":
            return values
        assert old is not None
        return old * values if self.change.operation == "scale" else old + values

    def _prepared(self, activation: Tensor) -> tuple[Tensor, Tensor]:
        device, dtype = key = (activation.device, activation.dtype)
        if key not in self._ready:
            if activation.is_meta:
                raise LnbenchError("cannot override a model whose activations are on the meta device")
            values = self.change.values.to(device, dtype)
            if not torch.isfinite(values).all():
                raise LnbenchError(f"an override's value is too large for a model in {dtype}; load it in another")
            self._ready[key] = (self.change.indices.to(device, torch.long), values)
            if self.bounds is not None:
                self.bounds = (self.bounds[0].to(device), self.bounds[1].to(device))
        return self._ready[key]

    def _count(self, new: Tensor, tokens: int, mask: Tensor | None) -> None:
        applied = self.applied
        if self.counts_tokens:
            applied.tokens += tokens
        if self.bounds is None:
            return
        applied._values += tokens * self.change.indices.numel()
        outside: Tensor | int = self._constant_outside * tokens
        if self.change.operation != "set":
            low, high = self.bounds
            beyond = (new < low) | (new > high)
            outside = (beyond if mask is None else beyond & mask).sum()
        # Added up where it was counted: reading a number back would stall an accelerator at every layer.
        applied._outside[new.device] = applied._outside.get(new.device, 0) + outside
