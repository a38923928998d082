"""How unlikely a model finds text, with no more logits at a time than a small buffer holds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lnbench.errors import LnbenchError
from lnbench.model.logits import pad_right, token_nats
from lnbench.model.sites import Sites, input_device
from lnbench.overrides import Applied
from lnbench.perplexity.slices import Slice


def block_nats(
    sites: Sites,
    text: Slice,
    batch_size: int,
    *,
    applied: Applied | None = None,
    on_tokens: Callable[[int], Any] | None = None,
) -> NDArray[np.float64]:
    """Return the negative log-likelihood of each block's counted tokens, in nats: ``[blocks]``.

    The transformer body is run on ``batch_size`` blocks at a time; then the output head and its log-sum-exp, in
    float32, on some positions at a time. Sums are taken in float64.

    Args:
        sites: Of the model, which is to be in evaluation mode.
        text: What is read.
        batch_size: Blocks in a forward pass of the body.
        applied: Of the override in whose context this is called, if any.
        on_tokens: Called with the number of counted tokens that have been read, batch by batch.

    Raises:
        LnbenchError: the model gives a loss that is not a finite number.
    """
    body, device = sites.parents[-1], input_device(sites.model)
    sums = np.zeros(len(text.blocks))
    # Blocks of a like length go together, so that little is padding.
    order = sorted(range(len(text.blocks)), key=lambda number: -len(text.blocks[number]))
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        ids, real = pad_right([text.blocks[number] for number in numbers])
        rows, places = pad_right([text.counted[number] for number in numbers])[0].nonzero(as_tuple=True)
        with torch.inference_mode():
            output = body(
                input_ids=ids.to(device),
                attention_mask=None if real.all() else real.long().to(device),
                use_cache=False,
            )
            hidden = output.last_hidden_state
            picked = hidden[rows.to(hidden.device), places.to(hidden.device)]
            with applied.paused() if applied is not None else nullcontext():
                nats = token_nats(sites, type(output), picked, ids[rows, places + text.ahead])
        sums[numbers] = np.bincount(rows.numpy(), weights=nats.double().numpy(), minlength=len(numbers))
        if on_tokens is not None:
            on_tokens(len(rows))
    if not np.isfinite(sums).all():
        raise LnbenchError(
            f"the model's loss on the text of {text.language!r} is not a finite number; load the model with "
            "--model-args dtype=float32 or dtype=bfloat16"
        )
    return sums
