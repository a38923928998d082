"""Overrides: new values for chosen neurons, and the context manager that writes them in a model's forward passes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from lnbench.architectures import Sites, locate
from lnbench.errors import LnbenchError, plugin_errors, unknown
from lnbench.files import fingerprint

if TYPE_CHECKING:
    from lnbench.statistics import Statistics

Operation = Literal["set", "scale", "shift"]
Site = Literal["post", "pre"]
Positions = Literal["all", "prompt", "generated"]


@dataclass(frozen=True)
class LayerOverride:
    """What happens to some neurons of one layer.

    Args:
        indices: ``LongTensor[n]``, the neurons, without repeats.
        values: ``FloatTensor[n]``: the new activation (``set``), its factor (``scale``) or its offset (``shift``).
        operation: ``set`` (the default), ``scale`` or ``shift``.

    Raises:
        LnbenchError: shapes differ, an index repeats, is negative or not an integer, a value is not finite, unknown
            operation.
    """

    indices: Tensor
    values: Tensor
    operation: Operation = "set"

    def __post_init__(self) -> None:
        if self.operation not in get_args(Operation):
            raise unknown("override operation", self.operation, get_args(Operation))
        if self.indices.ndim != 1 or self.indices.shape != self.values.shape:
            raise LnbenchError(
                f"an override needs one value per neuron: got indices of shape {tuple(self.indices.shape)} and "
                f"values of shape {tuple(self.values.shape)}"
            )
        if self.indices.dtype == torch.bool or self.indices.is_floating_point():
            raise LnbenchError(f"an override's neuron indices must be integers, got {self.indices.dtype}")
        if len(set(self.indices.tolist())) != self.indices.numel() or (self.indices < 0).any():
            raise LnbenchError("an override's neuron indices must be non-negative and without repeats")
        if not torch.isfinite(self.values).all():
            raise LnbenchError("an override's values must be finite numbers")


@dataclass(frozen=True)
class Override:
    """What an intervention comes to for one model: layer → :class:`LayerOverride`."""

    layers: Mapping[int, LayerOverride] = field(default_factory=dict)

    @property
    def neurons(self) -> int:
        """The number of neurons changed."""
        return sum(layer.indices.numel() for layer in self.layers.values())

    @property
    def fingerprint(self) -> str:
        """Which neurons get which values, in 16 hexadecimal digits."""
        parts = [
            [layer, part.operation, part.indices.tolist(), part.values.double().tolist()]
            for layer, part in sorted(self.layers.items())
        ]
        return fingerprint(parts)

    def check(self, layers: int, width: int) -> None:
        """Check that every neuron exists in a model of ``layers × width`` neurons.

        Raises:
            LnbenchError: a layer or an index lies outside.
        """
        for layer, change in self.layers.items():
            last = int(change.indices.max()) if change.indices.numel() else 0
            if not 0 <= layer < layers or last >= width:
                raise LnbenchError(
                    f"the override names neuron ({layer}, {last}), but the model has {layers} layers of {width} "
                    "neurons: it was made for another model"
                )


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
def override(
    model: nn.Module,
    neurons: Mapping[int, Tensor] | Override,
    intervention: Any = "none",
    *,
    statistics: Statistics | None = None,
    site: Site = "post",
    positions: Positions = "all",
    sites: Sites | None = None,
) -> Iterator[Applied]:
    """Override neurons in every forward pass of ``model`` inside the block.

    Args:
        model: A supported Hugging Face causal LM: plain, PEFT-wrapped, quantised, or split over devices by layers.
        neurons: Layer → ``LongTensor`` of indices, such as ``neuron_set["hi"]``; or a finished :class:`Override`.
        intervention: A name such as ``p10`` or ``constant:value=1``, or an intervention object.
        statistics: Where the intervention reads its values, and whose range ``outside_range`` refers to.
        site: Where values are written: ``post`` the non-linearity (the default), or ``pre``.
        positions: Change ``all`` tokens, those of the ``prompt`` (forwards without cached keys) or the ``generated``.
        sites: The model's neurons, if already located.

    Yields:
        The running account of what was changed.

    Raises:
        LnbenchError: unknown intervention, neurons that the model does not have, an intervention that needs Statistics
            where none were given, Statistics of another model, an unsupported architecture.
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
    change = neurons if isinstance(neurons, Override) else plan(neurons, intervention, statistics)
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


def plan(neurons: Mapping[int, Tensor], intervention: Any, statistics: Statistics | None) -> Override:
    """The Override that an intervention makes of some neurons and their Statistics.

    Raises:
        LnbenchError: unknown intervention, one that fails, or one that does not return an Override.
    """
    from lnbench.host import get_host

    chosen = get_host().resolve("intervention", intervention)
    name = intervention if isinstance(intervention, str) else type(chosen).__name__
    with plugin_errors("intervention", name):
        change = chosen.override(neurons, statistics)
    if not isinstance(change, Override):
        raise LnbenchError(f"intervention {name!r} returned {type(change).__name__}, not an lnbench.Override")
    return change


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
