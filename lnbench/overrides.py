"""Overrides: new values for chosen neurons, and the context manager that writes them in a model's forward passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from lnbench.architectures import Sites, locate
from lnbench.errors import LnbenchError, unknown

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
        LnbenchError: shapes differ, an index repeats or is negative, a value is not finite, unknown operation.
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
        if self.indices.unique().numel() != self.indices.numel() or (self.indices < 0).any():
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
    _outside: int | Tensor = 0
    _mask: Tensor | None = None
    _active: bool = True

    @property
    def outside_range(self) -> float:
        """Share of the values written so far that lie outside the range observed at the site they are written to.

        NaN until something was written, or where no Statistics were given.
        """
        return float(self._outside) / self._values if self._values else float("nan")

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
            where none were given, an unsupported architecture.
    """
    if positions not in get_args(Positions):
        raise unknown("positions", positions, get_args(Positions))
    if site not in get_args(Site):
        raise unknown("site", site, get_args(Site))
    sites = sites or locate(model)
    change = neurons if isinstance(neurons, Override) else plan(neurons, intervention, statistics)
    change.check(sites.layers, sites.width)
    changed = {layer: part for layer, part in sorted(change.layers.items()) if part.indices.numel()}
    applied = Applied(neurons=change.neurons, layers=len(changed))
    ranges = statistics.at(site) if statistics is not None else None

    with ExitStack() as stack:
        if changed:
            watch = _watch(applied, positions)
            stack.callback(sites.model.register_forward_pre_hook(watch, with_kwargs=True).remove)
        for number, (layer, part) in enumerate(changed.items()):
            bounds = (ranges.min[layer][part.indices], ranges.max[layer][part.indices]) if ranges else None
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
    from lnbench.host import get_host, plugin_errors

    chosen = get_host().resolve("intervention", intervention)
    name = intervention if isinstance(intervention, str) else type(chosen).__name__
    with plugin_errors("intervention", name):
        change = chosen.override(neurons, statistics)
    if not isinstance(change, Override):
        raise LnbenchError(f"intervention {name!r} returned {type(change).__name__}, not an lnbench.Override")
    return change


def _watch(applied: Applied, positions: Positions) -> Any:
    """A pre-hook on the whole model that works out which tokens of the coming forward are to be changed."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not applied._active:
            return
        ids = args[0] if args else kwargs.get("input_ids")
        if ids is None:
            ids = kwargs["inputs_embeds"]
        batch, length = ids.shape[:2]
        mask = applied.real
        if mask is None:
            given = kwargs.get("attention_mask")
            # With a cache the mask also covers the past; the tokens of this forward are its last columns.
            mask = given[:, -length:].bool() if isinstance(given, Tensor) and given.ndim == 2 else None
        elif mask.shape != (batch, length):
            raise LnbenchError(f"Applied.real has shape {tuple(mask.shape)}, the forward pass {(batch, length)}")
        if positions != "all" and applied.real is None:
            past = kwargs.get("past_key_values")
            generating = past is not None and past.get_seq_length() > 0
            if generating != (positions == "generated"):
                mask = torch.zeros(batch, length, dtype=torch.bool, device=ids.device)
        applied._mask = None if mask is None or bool(mask.all()) else mask

    return hook


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
            self._constant_outside = int(((change.values < low) | (change.values > high)).sum())

    def before(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (self._write(args[0]), *args[1:]) if self.applied._active else None

    def after(self, _module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return self._write(output) if self.applied._active else None

    def _write(self, activation: Tensor) -> Tensor:
        indices, values = self._prepared(activation)
        mask = self.applied._mask
        # Some blocks fold batch and length into one axis before the feed-forward.
        mask = mask.reshape(activation.shape[:-1]).to(activation.device) if mask is not None else None
        tokens = activation[..., 0].numel() if mask is None else int(mask.sum())
        if self.counts_tokens:
            self.applied.tokens += tokens
        if tokens == 0:
            return activation
        operation = self.change.operation
        old = activation[..., indices] if operation != "set" or mask is not None else None
        if operation == "scale":
            assert old is not None
            new = old * values
        elif operation == "shift":
            assert old is not None
            new = old + values
        else:
            new = values
        self._count(new, tokens, mask)
        if mask is not None:
            assert old is not None
            new = torch.where(mask.unsqueeze(-1), new, old)
        if torch.is_grad_enabled() and activation.requires_grad:
            activation = activation.clone()
        activation[..., indices] = new
        return activation

    def _prepared(self, activation: Tensor) -> tuple[Tensor, Tensor]:
        key = (activation.device, activation.dtype)
        if key not in self._ready:
            if activation.is_meta:
                raise LnbenchError("cannot override a model whose activations are on the meta device")
            indices, values = self.change.indices, self.change.values
            self._ready[key] = (indices.to(key[0]), values.to(key[0], key[1]))
        return self._ready[key]

    def _count(self, new: Tensor, tokens: int, mask: Tensor | None) -> None:
        if self.bounds is None:
            return
        self.applied._values += tokens * self.change.indices.numel()
        if self.change.operation == "set":
            self.applied._outside += self._constant_outside * tokens
            return
        low, high = (bound.to(new.device, new.dtype) for bound in self.bounds)
        outside = (new < low) | (new > high)
        if mask is not None:
            outside &= mask.unsqueeze(-1)
        self.applied._outside += int(outside.sum())
