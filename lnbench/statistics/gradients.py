"""Gradients of a text's loss with respect to the values at sites, for the measures that ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lnbench.errors import LnbenchError
from lnbench.hookspecs import Step
from lnbench.model.architectures import BANK_SITES
from lnbench.model.forward_passes import NOT_CALLED
from lnbench.model.logits import rows_of_logits, token_nats
from lnbench.model.sites import Sites, input_device
from lnbench.model.taps import Handle

Differentiate = Callable[[Tensor, Tensor | None, Tensor], Iterator[Step]]
"""``(ids, mask, counted)`` of one batch to its steps, with gradients."""


@dataclass(frozen=True)
class _Seen:
    """The values at one place in one forward pass, and the zeros added to them, whose gradient is the values' own."""

    site: str
    layer: int
    bank: int
    values: Tensor
    added: Tensor


@contextmanager
def differentiating(sites: Sites, names: Iterable[str]) -> Iterator[Differentiate]:
    """Yield a function that runs one batch forward and backward, and yields the steps of the sites ``names``.

    Only what lies between the sites and the loss is differentiated, and no weight gets a gradient. The output head runs
    on some positions at a time, so that no more logits are held than a small buffer takes.

    Raises:
        LnbenchError: unknown site; from the function, where no gradient reaches a site.
    """
    seen: list[_Seen] = []

    def adding(site: str, layer: int, bank: int) -> Callable[[Tensor], Tensor | None]:
        def add(values: Tensor) -> Tensor | None:
            if not torch.is_grad_enabled():
                return None
            added = torch.zeros_like(values, requires_grad=True)
            seen.append(_Seen(site, layer, bank, values.detach(), added))
            return values + added

        return add

    def run(ids: Tensor, mask: Tensor | None, counted: Tensor) -> Iterator[Step]:
        seen.clear()
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        predicting = real[:, :-1] & real[:, 1:]
        with torch.enable_grad():
            gradients = _backward(sites, ids, mask, predicting, seen)
        yield from _steps(seen, gradients, counted, predicting.sum(1))
        seen.clear()

    weights = [parameter for parameter in sites.model.parameters() if parameter.requires_grad]
    with Handle() as handle:
        for site in dict.fromkeys(names):
            for layer in range(sites.layers):
                if site in BANK_SITES:
                    for bank in sites.dense_in(layer):
                        sites.tap_bank(bank, site, adding(site, layer, bank.start), handle)
                elif sites.layout(site).widths[layer]:
                    handle.enter_context(sites.tap(site, layer, adding(site, layer, 0)))
        try:
            for weight in weights:
                weight.requires_grad_(False)
            yield run
        finally:
            for weight in weights:
                weight.requires_grad_(True)


def _backward(
    sites: Sites, ids: Tensor, mask: Tensor | None, predicting: Tensor, seen: list[_Seen]
) -> tuple[Tensor, ...]:
    """Run the model forward and backward; return the gradient of each place in ``seen``, which this fills."""
    device = input_device(sites.model)
    output = sites.parents[-1](
        input_ids=ids.to(device), attention_mask=None if mask is None else mask.to(device), use_cache=False
    )
    hidden: Tensor = output.last_hidden_state
    rows, places = predicting.nonzero(as_tuple=True)
    if not len(rows):
        return tuple(torch.zeros_like(place.added) for place in seen)
    picked = hidden[rows.to(hidden.device), places.to(hidden.device)]
    of_hidden = _of_hidden(sites, type(output), picked.detach(), ids[rows, places + 1])
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
        picked, [place.added for place in seen], grad_outputs=of_hidden, allow_unused=True
    )
    for place, gradient in zip(seen, gradients, strict=True):
        if gradient is None:
            raise LnbenchError(
                f"no gradient of the loss reaches site {place.site!r} of layer {place.layer} in this "
                f"{type(sites.model).__name__}: {NOT_CALLED}"
            )
    return gradients  # type: ignore[return-value]


def _of_hidden(sites: Sites, output: Callable[..., Any], hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient of the summed loss with respect to hidden states ``[n, hidden]``, some rows at a time."""
    size = rows_of_logits(sites, hidden.device)
    gradients: list[Tensor] = []
    for states, tokens in zip(torch.split(hidden, size), torch.split(targets, size), strict=True):
        states.requires_grad_(True)
        loss = token_nats(sites, output, states, tokens).sum()
        gradients += torch.autograd.grad(loss, states)
    return torch.cat(gradients)


def _steps(seen: list[_Seen], gradients: tuple[Tensor, ...], counted: Tensor, predicted: Tensor) -> Iterator[Step]:
    """Yield the steps, with the banks of a layer side by side: one per visit of a layer that runs several times."""
    shape = counted.shape
    order = sorted(range(len(seen)), key=lambda number: (seen[number].site, seen[number].layer))
    for (site, layer), numbers in groupby(order, key=lambda number: (seen[number].site, seen[number].layer)):
        banks: dict[int, list[int]] = {}
        for number in numbers:
            banks.setdefault(seen[number].bank, []).append(number)
        for visit in zip(*(banks[bank] for bank in sorted(banks)), strict=True):
            device = seen[visit[0]].values.device
            values, gradient = (
                torch.cat([part.to(device).reshape(*shape, -1) for part in parts], dim=-1)
                for parts in (
                    [seen[number].values for number in visit],
                    [gradients[number] for number in visit],
                )
            )
            yield Step(site, layer, values, counted.to(device), gradient, predicted.to(device))
