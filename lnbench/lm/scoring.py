"""Likelihoods of continuations, with logits computed only where they are read.

Batches are composed as lm-eval's ``hf`` model composes them, so that both give the same numbers; what differs is that
the output head, which costs more than the transformer body at 262,144 words of vocabulary, skips the positions that
no request scores.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.models.utils import Collator
from torch import Tensor

from lnbench.errors import LnbenchError
from lnbench.overrides import Positions

Request = tuple[Any, list[int], list[int]]
"""``(strings, context tokens, continuation tokens)``, as lm-eval's ``_loglikelihood_tokens`` takes them."""

_EXACT_ROWS = 64
"""The head is never run on fewer positions a batch than this: on a handful of rows matrix libraries sum in another
order, and the last digit of the result would depend on what was skipped."""


@dataclass(frozen=True)
class Row:
    """One request as the model sees it: its tokens without the last, and how many of the outputs are scored."""

    tokens: list[int]
    scored: int

    @classmethod
    def of(cls, request: Request, max_length: int) -> Row:
        """Cut a request to the model's length from the left, as lm-eval does.

        Raises:
            LnbenchError: the continuation alone is longer.
        """
        _, context, continuation = request
        if len(continuation) > max_length:
            raise LnbenchError(
                f"a continuation of {len(continuation)} tokens does not fit the model's max_length={max_length}"
            )
        return cls((context + continuation)[-(max_length + 1) :][:-1], len(continuation))

    @property
    def prompt(self) -> int:
        """How many of the tokens are context; the rest are continuation."""
        return len(self.tokens) - self.scored + 1


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right."""

    rows: Sequence[Row]
    ids: Tensor
    """``LongTensor[batch, length]``."""

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> Batch:
        """Pad and stack rows."""
        ids = torch.zeros(len(rows), max(len(row.tokens) for row in rows), dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : len(row.tokens)] = torch.tensor(row.tokens)
        return cls(rows, ids.to(device))

    @property
    def keep(self) -> int:
        """How many of the last positions' logits are enough for all rows."""
        length = self.ids.shape[1]
        first = min(len(row.tokens) - row.scored for row in self.rows)
        return min(length, max(length - first, -(-_EXACT_ROWS // len(self.rows))))

    def real(self, positions: Positions) -> Tensor:
        """``BoolTensor[batch, length]``: the real tokens at the positions that an override changes."""
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        ends = torch.tensor([len(row.tokens) for row in self.rows], device=self.ids.device).unsqueeze(1)
        prompts = torch.tensor([row.prompt for row in self.rows], device=self.ids.device).unsqueeze(1)
        real = places < ends
        if positions == "prompt":
            real &= places < prompts
        elif positions == "generated":
            real &= places >= prompts
        return real


def keeps_logits(model: Any) -> bool:
    """Whether ``model`` can be asked for the logits of the last positions alone."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def collate(requests: Sequence[Request], *, share: bool) -> Any:
    """lm-eval's batching: longest first, and with ``share`` one row for all one-token continuations of a context."""
    return Collator(
        requests,
        sort_fn=lambda request: (-len(request[1]) - len(request[2]), tuple(request[1] + request[2])),
        group_by="contexts" if share else None,
        group_fn=lambda request: request[-2] + request[-1][:-1],
    )


def read_scores(
    collator: Any, chunk: Sequence[Request], batch: Batch, logits: Tensor, softmax_dtype: torch.dtype | None
) -> list[tuple[Any, tuple[float, bool]]]:
    """The answers of one batch.

    Args:
        collator: What :func:`collate` made; it knows which requests share a row.
        chunk: The requests of the batch.
        batch: Their rows.
        logits: ``[batch, kept, vocabulary]``, the last positions' logits.
        softmax_dtype: Precision of the softmax, as in lm-eval.

    Returns:
        ``(strings, (log-likelihood in nats, whether greedy decoding would say so))`` per request, in batch order.
    """
    log_probabilities = torch.nn.functional.log_softmax(logits, dim=-1, dtype=softmax_dtype)
    # A model with virtual tokens (prompt tuning) returns more positions than it was given tokens.
    dropped = batch.ids.shape[1] - logits.shape[1]
    answers = []
    for request, row, scores in zip(chunk, batch.rows, log_probabilities, strict=True):
        strings, context, continuation = request
        end = len(row.tokens) - dropped
        own = scores[end - row.scored : end].unsqueeze(0)
        greedy = own.argmax(-1)
        for asked, tokens, shared in collator.get_cache(strings, context, continuation, own):
            target = torch.tensor(tokens, device=own.device).unsqueeze(0)
            likelihood = shared.gather(2, target.unsqueeze(-1)).squeeze(-1)
            answers.append((asked, (float(likelihood.sum()), bool((greedy[:, -target.shape[1] :] == target).all()))))
    return answers


def length_for_batch_size(requests: Sequence[Any], encode: Callable[[str], list[int]], generated: int) -> int:
    """The longest row that ``requests`` can come to, in tokens, ``generated`` ones included."""
    return (
        max(sum(len(encode(part)) for part in request.args if isinstance(part, str)) for request in requests)
        + generated
    )
