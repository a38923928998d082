"""How unlikely a model finds text, with no more logits at a time than a small buffer holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lnbench.errors import LnbenchError
from lnbench.model.sites import Sites, input_device
from lnbench.overrides import Applied
from lnbench.perplexity.slices import Slice

_BUFFER_BYTES = {"cpu": 2**27}
_BUFFER_BYTES_ON_ACCELERATOR = 2**29
"""Logits at a time, in float32; a larger buffer keeps an accelerator busier."""
_LEAST_POSITIONS = 32
"""On fewer, matrix libraries are slow, and may sum in another order."""


def block_nats(
    sites: Sites,
    text: Slice,
    batch_size: int,
    *,
    applied: Applied | None = None,
    on_tokens: Callable[[int], Any] | None = None,
) -> NDArray[np.float64]:
    """The negative log-likelihood of each block's counted tokens, in nats: ``[blocks]``.

    The transformer body is run on ``batch_size`` blocks at a time; then the output head and its log-sum-exp, in
    float32, on some positions at a time. Sums are taken in float64.

    Args:
        sites: Of the model, see :func:`lnbench.model.sites.locate`; it is to be in evaluation mode.
        text: What is read.
        batch_size: Blocks in a forward pass of the body.
        applied: Of the override in whose context this is called, if any.
        on_tokens: Told how many counted tokens have been read, batch by batch.

    Raises:
        LnbenchError: the model gives a loss that is not a finite number.
    """
    body, device = sites.parents[-1], input_device(sites.model)
    sums = np.zeros(len(text.blocks))
    # Blocks of a like length go together, so that little is padding.
    order = sorted(range(len(text.blocks)), key=lambda number: -len(text.blocks[number]))
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        ids, mask = _padded([text.blocks[number] for number in numbers])
        rows, places = _padded([text.counted[number] for number in numbers])[0].nonzero(as_tuple=True)
        with torch.inference_mode():
            output = body(
                input_ids=ids.to(device),
                attention_mask=None if mask is None else mask.to(device),
                use_cache=False,
            )
            hidden = output.last_hidden_state
            picked = hidden[rows.to(hidden.device), places.to(hidden.device)]
            with applied.paused() if applied is not None else nullcontext():
                nats = token_nats(sites, type(output), picked, ids[rows, places + 1])
        sums[numbers] = np.bincount(rows.numpy(), weights=nats.double().numpy(), minlength=len(numbers))
        if on_tokens is not None:
            on_tokens(len(rows))
    if not np.isfinite(sums).all():
        raise LnbenchError(
            f"the model's loss on the text of {text.language!r} is not a finite number; load the model with "
            "--model-args dtype=float32 or dtype=bfloat16"
        )
    return sums


def token_nats(sites: Sites, output: Callable[..., Any], hidden: Tensor, targets: Tensor) -> Tensor:
    """``FloatTensor[n]`` on the CPU: the negative log-likelihood of each target, in nats.

    The model itself is called, with its body standing still and handing back ``hidden``; so whatever it does to its
    logits after the head (scaling, capping) stays its own.

    Args:
        sites: Of the model.
        output: Makes what the body returns from its ``last_hidden_state``.
        hidden: ``[n, hidden]``: the body's output at the positions before the targets.
        targets: ``LongTensor[n]``.
    """
    model: Any = sites.model
    limit = _BUFFER_BYTES.get(hidden.device.type, _BUFFER_BYTES_ON_ACCELERATOR)
    size = max(_LEAST_POSITIONS, limit // (4 * model.config.get_text_config().vocab_size))
    found = []
    for some, wanted in zip(torch.split(hidden, size), torch.split(targets, size), strict=True):
        with frozen_body(sites.parents[-1], output(last_hidden_state=some.unsqueeze(0))):
            logits: Tensor = model(wanted.unsqueeze(0).to(input_device(model)), use_cache=False).logits[0]
        logits = logits.float()
        chosen = logits.gather(1, wanted.to(logits.device).unsqueeze(1)).squeeze(1)
        found.append((logits.logsumexp(-1) - chosen).cpu())
    return torch.cat(found) if found else torch.empty(0)


@contextmanager
def frozen_body(body: nn.Module, output: Any) -> Iterator[None]:
    """Forward passes of ``body`` in this block are not run, and return ``output``."""
    own = vars(body).get("forward")  # as of a module whose weights are offloaded
    body.forward = lambda *_, **__: output  # type: ignore[method-assign]
    try:
        yield
    finally:
        if own is None:
            del body.forward
        else:
            body.forward = own  # type: ignore[method-assign]


def _padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Rows as ``[batch, length]``, padded on the right with 0, and where they are real; None if they all are."""
    if len({len(row) for row in rows}) == 1:
        return torch.stack(list(rows)), None
    lengths = torch.tensor([len(row) for row in rows])
    padded = pad_sequence(list(rows), batch_first=True)
    return padded, (torch.arange(padded.shape[1]) < lengths[:, None]).long()
