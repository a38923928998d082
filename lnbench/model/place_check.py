"""The numeric check of the sites that are no neurons': a written value has the effect that it must have.

Writing a head changes the output projection's output by that projection's columns times the change, and writing a
dimension of the residual stream is what the next reader of the stream sees. A site that fails is not offered; neurons
are, all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lnbench.model.architectures import ATTENTION, RESIDUAL
from lnbench.model.bank_check import LARGE, POSITION, tolerance_of
from lnbench.model.places import Place
from lnbench.model.self_check import rounding_of, weight_of
from lnbench.model.sites import Sites
from lnbench.model.taps import Handle

_STEP = 4
"""How far a value is moved, in units of the largest value there."""


@dataclass
class _Written:
    """What was written at one place in its latest visit, and what came of it."""

    place: Place
    row: int
    """The token, of both texts' in order."""
    before: Tensor | None = None
    """``[tokens, coordinates]``."""
    after: Tensor | None = None
    read: Tensor | None = None
    """What the output projection read."""
    given: Tensor | None = None
    visits: int = 0
    seen: int = 0
    """In how many visits the next reader was handed what was written."""

    @property
    def where(self) -> str:
        return f"layer {self.place.layer} ({self.place.module})"


def failures_of_places(sites: Sites, inputs: dict[str, Any], bare: Tensor) -> Iterator[tuple[str, str]]:
    """Check the places of all sites; yield the sites that fail, and why.

    Attention and residual share one forward pass, each written in a text of its own: what is written there is compared
    where it is read. Of a plugin's own site nothing is known but what it does to the logits, so it has a pass of its
    own.

    Args:
        sites: Of the model.
        inputs: Arguments of a short forward pass, of two texts.
        bare: The logits of it without hooks.
    """
    names = dict.fromkeys(place.site for place in sites.places)
    known = [name for name in names if name in (ATTENTION, RESIDUAL)]
    for together in ([known] if known else []) + [[name] for name in names if name not in known]:
        yield from _failures(sites, inputs, bare, together)


def _failures(sites: Sites, inputs: dict[str, Any], bare: Tensor, together: Sequence[str]) -> Iterator[tuple[str, str]]:
    length = inputs["input_ids"].shape[1]
    written = {
        name: [_Written(place, text * length + POSITION) for place in sites.places if place.site == name]
        for text, name in enumerate(together)
    }
    with Handle() as hooks:
        for own in (own for each in written.values() for own in each):
            hooks.enter_context(sites.tap(own.place.site, own.place.layer, partial(_write, own)))
            if own.place.side == "input":
                module = sites.model.get_submodule(own.place.module)
                hooks.add(module.register_forward_hook(partial(_keep, own)))
        if RESIDUAL in written:
            _watch_readers(sites, written[RESIDUAL], hooks)
        logits: Tensor = sites.model(**inputs).logits
    changes = (logits - bare).abs().amax(dim=(1, 2))
    for text, (name, places) in enumerate(written.items()):
        reason = next((why for own in places if (why := _failure(sites.model, own)) is not None), None)
        untouched = changes[len(together) :]
        if reason is None and not changes[text] > 0:
            reason = "writing it in all layers does not change the logits"
        if reason is None and len(untouched) and untouched.max() > 0:
            reason = f"writing it in one text changes the logits of another by {float(untouched.max()):.3g}"
        if reason is not None:
            yield name, reason


def _write(own: _Written, values: Tensor) -> Tensor:
    place = own.place
    own.before = values.reshape(-1, values.shape[-1]).clone()
    own.after = own.before.clone()
    unit = (7919 * (place.layer + 1)) % place.width
    own.after[own.row, unit * place.unit_size : (unit + 1) * place.unit_size] += _STEP * max(
        float(own.before.abs().max()), 1e-3
    )
    own.visits += 1
    return own.after.reshape(values.shape)


def _keep(own: _Written, _module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    if isinstance(output, Tensor):
        own.read, own.given = _rows(own.place, args[0]).clone(), _rows(own.place, output).clone()


def _rows(place: Place, values: Tensor) -> Tensor:
    turned = values.transpose(0, 1) if place.length_first else values
    return turned.reshape(-1, values.shape[-1])


def _watch_readers(sites: Sites, written: list[_Written], hooks: Handle) -> None:
    """Note whether the first module outside the blocks, or the next block, is handed what a block's hook returned."""
    latest: list[_Written] = []
    inside = tuple(f"{name}." for name in sites.names)
    by_block = {own.place.module: own for own in written}

    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        for own in latest:
            handed = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim > 1]
            if any(_same(own, value) for value in handed):
                own.seen += 1
                latest.clear()
                return

    def leave(own: _Written, *_: Any) -> None:
        latest[:] = [own]

    for name, module in sites.model.named_modules():
        if not name.startswith(inside):
            hooks.add(module.register_forward_pre_hook(enter, with_kwargs=True))
    for name, own in by_block.items():
        hooks.add(sites.model.get_submodule(name).register_forward_hook(partial(leave, own)))


def _same(own: _Written, value: Tensor) -> bool:
    rows = _rows(own.place, value)
    return own.after is not None and rows.shape == own.after.shape and torch.equal(rows.to(own.after.device), own.after)


def _failure(model: nn.Module, own: _Written) -> str | None:
    if own.before is None or own.after is None:
        return f"{own.where} did not run in a second forward pass"
    if own.place.site == RESIDUAL:
        if own.seen != own.visits:
            return f"what is written at the output of {own.where} is not what is read next"
        return None
    if own.place.site != ATTENTION:
        return None  # a plugin's own, of which nothing more is known
    if own.read is None or own.given is None:
        return f"{own.where} returns no tensor"
    projection = model.get_submodule(own.place.module)
    delta = (own.after - own.before)[own.row]
    weight = weight_of(projection)
    if weight is None:
        predicted = (projection(delta[None]) - projection(torch.zeros_like(delta[None])))[0].float()
    else:
        predicted = weight.float() @ delta.float()
    unchanged = projection(own.before).float()
    wanted = torch.zeros_like(unchanged)
    wanted[own.row] = predicted
    scale = max(float(own.given.abs().max()), float(unchanged.abs().max()), 1e-30)
    error = float((own.given.float() - unchanged - wanted).abs().max()) / scale
    effect = float(predicted.abs().max()) / scale
    tolerance = tolerance_of(rounding_of(projection, own.read.dtype), len(delta))
    if not (torch.equal(own.read, own.after) and error <= tolerance <= effect / LARGE):
        return (
            f"writing a head of {own.where} does not have the effect that its weights predict: predicted effect "
            f"{effect:.3g}, off by {error:.3g}; tolerance {tolerance:.1g}"
        )
    return None
