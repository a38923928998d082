"""Logits at chosen positions: at 262,144 words of vocabulary the output head costs more than the transformer body."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lnbench.model.sites import Sites, input_device

_EXACT_ROWS = 32
"""The head is never run on fewer positions than this: on a handful of rows (below 8, in float32 on a CPU) matrix
libraries sum in another order, and the last digit of the result would depend on what was skipped."""
_BUFFER_BYTES = {"cpu": 2**27, "accelerator": 2**29}
"""Logits at a time, in float32; a larger buffer keeps an accelerator busier."""


def pad_right(
    rows: Sequence[Sequence[int] | Tensor], fill: int = 0, length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Stack rows of token ids, padded on the right.

    Args:
        rows: Token ids.
        fill: Token id of the padding.
        length: Positions of the result; those of the longest row by default.

    Returns:
        ``LongTensor[rows, length]``, and ``BoolTensor[rows, length]``: where they are real.
    """
    padded = pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True, padding_value=fill)
    if length is not None:
        padded = nn.functional.pad(padded, (0, length - padded.shape[1]), value=fill)
    lengths = torch.tensor([len(row) for row in rows])
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


def logits_at(model: Any, ids: Tensor, wanted: Tensor) -> Tensor:
    """Return the logits of :func:`logits_and_cache` alone."""
    return logits_and_cache(model, ids, wanted)[0]


def logits_and_cache(
    model: Any, ids: Tensor, wanted: Tensor, *, least: int = _EXACT_ROWS, **arguments: Any
) -> tuple[Tensor, Any]:
    """Run a forward pass that computes logits at some positions only.

    The output head is handed the hidden states of those positions alone, so whatever a model does to its logits
    afterwards (scaling, capping) stays the model's own. A model without a head of its own computes all, and they are
    picked from what it returns.

    Args:
        model: A causal LM, in any wrapper.
        ids: ``LongTensor[batch, length]``, padded on the right unless ``arguments`` have a mask.
        wanted: ``BoolTensor[batch, length]``.
        least: Positions that the head is run on at least, so that the result does not depend on what was skipped.
        arguments: Of the forward pass, such as a mask and a cache to continue.

    Returns:
        ``[n, vocabulary]``, row after row; and the cache that the model returned, if it did.
    """
    needed, others = wanted.nonzero(), (~wanted).nonzero()
    rows, places = torch.cat([needed, others[: max(0, least - len(needed))]]).unbind(1)
    picked = False

    def pick(values: Tensor) -> Tensor:
        # A model with virtual tokens (prompt tuning) has more positions than it was given tokens.
        added = values.shape[1] - ids.shape[1]
        return values[rows.to(values.device), places.to(values.device) + added]

    def before_head(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal picked
        picked = True
        return (pick(inputs[0]).unsqueeze(0), *inputs[1:])

    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(before_head) if head is not None else None
    try:
        output = model(ids, **arguments)
    finally:
        if handle is not None:
            handle.remove()
    logits: Tensor = output.logits
    return (logits[0] if picked else pick(logits))[: len(needed)], getattr(output, "past_key_values", None)


def token_nats(sites: Sites, output: Callable[..., Any], hidden: Tensor, targets: Tensor) -> Tensor:
    """Return each target's negative log-likelihood in nats, with no more logits at a time than a small buffer holds.

    The model itself is called, with a frozen body that hands back ``hidden``; so whatever it does to its logits after
    the head (scaling, capping) stays its own.

    Args:
        sites: Of the model.
        output: Makes what the body returns from its ``last_hidden_state``.
        hidden: ``[n, hidden]``: the body's output at the positions before the targets.
        targets: ``LongTensor[n]``.

    Returns:
        ``FloatTensor[n]`` on the CPU.
    """
    model: Any = sites.model
    size = rows_of_logits(sites, hidden.device)
    nats = []
    for states, tokens in zip(torch.split(hidden, size), torch.split(targets, size), strict=True):
        with frozen_body(sites.parents[-1], output(last_hidden_state=states.unsqueeze(0))):
            logits: Tensor = model(tokens.unsqueeze(0).to(input_device(model)), use_cache=False).logits[0].float()
        chosen = logits.gather(1, tokens.to(logits.device).unsqueeze(1)).squeeze(1)
        nats.append((logits.logsumexp(-1) - chosen).cpu())
    return torch.cat(nats) if nats else torch.empty(0)


def rows_of_logits(sites: Sites, device: torch.device) -> int:
    """Return at how many positions at a time logits are computed."""
    model: Any = sites.model
    limit = _BUFFER_BYTES["cpu" if device.type == "cpu" else "accelerator"]
    return int(max(_EXACT_ROWS, limit // (4 * model.config.get_text_config().vocab_size)))


def token_divergences(sites: Sites, output: Callable[..., Any], before: Tensor, after: Tensor) -> Tensor:
    """Return the KL divergence of each position's next-token distribution from that of the unchanged model, in nats.

    Args:
        sites: Of the model.
        output: Makes what the body returns from its ``last_hidden_state``.
        before: ``[n, hidden]``: the unchanged body's output.
        after: ``[n, hidden]``: the changed body's, at the same positions.

    Returns:
        ``FloatTensor[n]`` on the CPU: Σ p ln(p / q) over the vocabulary, p by ``before`` and q by ``after``.
    """
    model: Any = sites.model
    size = max(_EXACT_ROWS, rows_of_logits(sites, after.device) // 2)
    divergences = []
    for pair in zip(torch.split(before, size), torch.split(after, size), strict=True):
        place = torch.zeros(1, len(pair[0]), dtype=torch.long, device=input_device(model))
        logs = []
        for states in pair:
            with frozen_body(sites.parents[-1], output(last_hidden_state=states.unsqueeze(0))):
                logs.append(model(place, use_cache=False).logits[0].float().log_softmax(-1))
        unchanged, changed = logs
        divergences.append((unchanged.exp() * (unchanged - changed)).sum(-1).clamp_min(0).cpu())
    return torch.cat(divergences) if divergences else torch.empty(0)


@contextmanager
def frozen_body(body: nn.Module, output: Any) -> Iterator[None]:
    """Return ``output`` from forward passes of ``body`` in this block, without running them."""
    own = vars(body).get("forward")  # as of a module whose weights are offloaded
    body.forward = lambda *_, **__: output  # type: ignore[method-assign]
    try:
        yield
    finally:
        if own is None:
            del body.forward
        else:
            body.forward = own  # type: ignore[method-assign]
