"""Likelihoods of continuations, with logits computed only where they are read.

Batches are composed as lm-eval's ``hf`` model composes them, so that both give the same numbers; what differs is that
the output head, which costs more than the transformer body at 262,144 words of vocabulary, is run at no other positions
than those that a request scores.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.models.utils import Collator
from torch import Tensor

from lnbench.model.logits import pad_right
from lnbench.special_tokens import cut_left

TokenRequest = tuple[Any, list[int], list[int]]
"""``(strings, context tokens, continuation tokens)``, as lm-eval's ``_loglikelihood_tokens`` takes them."""


@dataclass(frozen=True)
class TokenRow:
    """One request as the model sees it: its tokens without the last, and how many of the outputs are scored."""

    tokens: list[int]
    scored: int

    @classmethod
    def of(cls, request: TokenRequest, max_length: int, prefix: int | None = None) -> TokenRow:
        """Cut a request to the model's length from the left, as lm-eval does, but for BOS (``prefix``), which is kept.

        The continuation alone must fit.
        """
        _, context, continuation = request
        return cls(cut_left(context + continuation, max_length + 1, prefix)[:-1], len(continuation))

    @property
    def prompt(self) -> int:
        """How many of the tokens are context; the rest are continuation."""
        return len(self.tokens) - self.scored + 1

    def changed(self, positions: str) -> tuple[int, int]:
        """Return the first of the tokens that an override changes, and the end of them.

        Args:
            positions: As of :meth:`lnbench.model.forward_passes.PassTokens.meant`.
        """
        prompt, end = min(self.prompt, len(self.tokens)), len(self.tokens)
        bounds = {
            "all": (0, end),
            "prompt": (0, prompt),
            "generated": (prompt, end),
            "not_first": (1, end),
            "last": (prompt - 1, prompt),
        }
        firsts, ends = zip(*(bounds[part] for part in positions.split("+")), strict=True)
        return max(firsts), max(*firsts, min(ends))


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right."""

    rows: Sequence[TokenRow]
    ids: Tensor
    """``LongTensor[batch, length]``."""

    @classmethod
    def of(cls, rows: Sequence[TokenRow], device: torch.device) -> Batch:
        """Pad and stack rows."""
        return cls(rows, pad_right([row.tokens for row in rows])[0].to(device))

    @property
    def scored(self) -> Tensor:
        """``BoolTensor[batch, length]``: the positions whose logits are read."""
        ends = [len(row.tokens) for row in self.rows]
        return self._between([end - row.scored for end, row in zip(ends, self.rows, strict=True)], ends)

    def real(self, positions: str) -> Tensor:
        """Return ``BoolTensor[batch, length]``: the real tokens at the positions that an override changes."""
        first, end = zip(*(row.changed(positions) for row in self.rows), strict=True)
        return self._between(first, end)

    def _between(self, first: Sequence[int], end: Sequence[int]) -> Tensor:
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        low, high = (torch.tensor(bound, device=self.ids.device).unsqueeze(1) for bound in (first, end))
        return (places >= low) & (places < high)


def collate(requests: Sequence[TokenRequest], *, share: bool) -> Any:
    """Batch as lm-eval does: longest first; ``share``: one row for all one-token continuations of a context."""
    return Collator(
        requests,
        sort_fn=lambda request: (-len(request[1]) - len(request[2]), tuple(request[1] + request[2])),
        group_by="contexts" if share else None,
        group_fn=shared_row,
    )


def shared_row(request: TokenRequest) -> tuple[int, ...]:
    """Return what requests that can share a row have in common: all tokens without the last."""
    return tuple(request[1] + request[2][:-1])


def may_share(requests: Sequence[TokenRequest], positions: str) -> bool:
    """Return whether requests that could share a row are all to be changed at the same tokens."""
    ends: dict[tuple[int, ...], int] = {}
    return positions in ("all", "not_first") or all(
        ends.setdefault(shared_row(request), len(request[1])) == len(request[1]) for request in requests
    )


def first_runs(rows: Sequence[TokenRow], documents: Sequence[Hashable], positions: str) -> list[Tensor]:
    """Return where each row runs a changed token of its document for the first time.

    Requests of one document, such as choices after a prompt, run their common beginning again: its tokens are the
    document's own once.

    Args:
        rows: The requests' rows.
        documents: The document of each.
        positions: Which tokens are changed.

    Returns:
        Per row ``LongTensor[length]``: 1 there, else 0.
    """
    nodes: dict[Any, int] = {}
    counted: set[int] = set()
    runs = []
    for row, document in zip(rows, documents, strict=True):
        first, end = row.changed(positions)
        node = nodes.setdefault(document, len(nodes))
        marks = [0] * len(row.tokens)
        for place, token in enumerate(row.tokens):
            node = nodes.setdefault((node, token, "token"), len(nodes))
            if first <= place < end and node not in counted:
                counted.add(node)
                marks[place] = 1
        runs.append(torch.tensor(marks))
    return runs


def read_scores(
    collator: Any, chunk: Sequence[TokenRequest], batch: Batch, logits: Tensor, softmax_dtype: torch.dtype | None
) -> list[tuple[Any, tuple[float, bool]]]:
    """Return ``(strings, (log-likelihood in nats, whether it is the greedy answer))`` per request, in batch order.

    Args:
        collator: What :func:`collate` made; it knows which requests share a row.
        chunk: The requests of the batch.
        batch: Their rows.
        logits: ``[n, vocabulary]`` of their scored positions.
        softmax_dtype: Precision of the softmax, as in lm-eval.
    """
    scored = [row.scored for row in batch.rows]
    answers = []
    # One request at a time: of all together, a second copy of the logits would have to fit the memory.
    for request, unscaled in zip(chunk, torch.split(logits, scored), strict=True):
        strings, context, continuation = request
        scaled = torch.nn.functional.log_softmax(unscaled, dim=-1, dtype=softmax_dtype).unsqueeze(0)
        for asked, tokens, shared in collator.get_cache(strings, context, continuation, scaled):
            answers.append((asked, _likelihood(shared[0], tokens)))
    return answers


def score(logits: Tensor, continuation: Sequence[int], softmax_dtype: torch.dtype | None) -> tuple[float, bool]:
    """Return a continuation's log-likelihood in nats, and whether it is the greedy answer.

    Args:
        logits: ``[len(continuation), vocabulary]``.
        continuation: Its tokens.
        softmax_dtype: Precision of the softmax, as in lm-eval.
    """
    return _likelihood(torch.nn.functional.log_softmax(logits, dim=-1, dtype=softmax_dtype), continuation)


def _likelihood(scaled: Tensor, tokens: Sequence[int]) -> tuple[float, bool]:
    target = torch.tensor(tokens, device=scaled.device)
    likelihood = scaled.gather(1, target.unsqueeze(-1)).squeeze(-1)
    return float(likelihood.sum()), bool((scaled.argmax(-1)[-len(target) :] == target).all())
