"""How unlikely a model finds text, with no more logits at a time than a small buffer holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lnbench.errors import LnbenchError
from lnbench.model.logits import pad_right, token_divergences, token_nats
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
    sums = np.zeros(len(text.blocks))
    for batch in _batches(sites, text, len(text.blocks), batch_size):
        with torch.inference_mode(), applied.paused() if applied is not None else nullcontext():
            nats = token_nats(sites, batch.output, batch.states, batch.targets)
        sums[batch.numbers] = batch.summed(nats)
        if on_tokens is not None:
            on_tokens(len(batch.rows))
    if not np.isfinite(sums).all():
        raise LnbenchError(
            f"the model's loss on the text of {text.language!r} is not a finite number; load the model with "
            "--model-args dtype=float32 or dtype=bfloat16"
        )
    return sums


def final_states(sites: Sites, text: Slice, blocks: int, batch_size: int) -> list[Tensor]:
    """Return the body's output at the counted positions of the first ``blocks`` blocks, ``[counted, hidden]`` each."""
    states: dict[int, Tensor] = {}
    for batch in _batches(sites, text, blocks, batch_size):
        for place, number in enumerate(batch.numbers):
            states[number] = batch.states[batch.rows == place].cpu()
    return [states[number] for number in range(blocks)]


def block_divergences(
    sites: Sites, text: Slice, unchanged: Sequence[Tensor], batch_size: int, *, applied: Applied
) -> NDArray[np.float64]:
    """Return the KL divergence of the next-token distributions from the unchanged model's, in nats: ``[blocks]`` sums.

    Args:
        sites: Of the model, which is to be in evaluation mode.
        text: What is read.
        unchanged: Of the first blocks of it, what :func:`final_states` returned without override.
        batch_size: Blocks in a forward pass of the body.
        applied: Of the override in whose context this is called.
    """
    sums = np.zeros(len(unchanged))
    for batch in _batches(sites, text, len(unchanged), batch_size):
        before = torch.cat([unchanged[number] for number in batch.numbers]).to(batch.states.device)
        with torch.inference_mode(), applied.paused():
            nats = token_divergences(sites, batch.output, before, batch.states)
        sums[batch.numbers] = batch.summed(nats)
    return sums


@dataclass(frozen=True)
class _Batch:
    """Some blocks after a forward pass of the body."""

    numbers: list[int]
    """Which blocks."""
    rows: Tensor
    """``LongTensor[n]``: place in ``numbers`` of each counted position, ascending."""
    states: Tensor
    """``[n, hidden]``: the body's output there."""
    targets: Tensor
    """``LongTensor[n]``: the tokens that are scored there."""
    output: Callable[..., Any]
    """Makes what the body returns from its ``last_hidden_state``."""

    def summed(self, values: Tensor) -> NDArray[np.float64]:
        """Return the sum of values ``[n]`` over each block's positions."""
        weights = values.double().numpy()
        return np.bincount(self.rows.numpy(), weights=weights, minlength=len(self.numbers)).astype(np.float64)


def _batches(sites: Sites, text: Slice, blocks: int, batch_size: int) -> Iterator[_Batch]:
    """Run the body on the first ``blocks`` blocks, ``batch_size`` at a time."""
    body, device = sites.parents[-1], input_device(sites.model)
    # Blocks of a like length go together, so that little is padding.
    order = sorted(range(blocks), key=lambda number: -len(text.blocks[number]))
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
        yield _Batch(numbers, rows, picked, ids[rows, places + text.ahead], type(output))
