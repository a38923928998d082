"""What became of the prompts that were asked: how many were cut, and answers that share a token with their prompt."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from lnbench.errors import LnbenchError

log = logging.getLogger(__name__)
_SHOWN = 80
"""Characters of a text in an error."""


class Pair(NamedTuple):
    """A prompt and its answer as tokens."""

    context: list[int]
    continuation: list[int]
    own_tokens: bool = False
    """The answer is tokenised by itself."""
    shared_token: bool = False
    """The prompt's tokens before an answer are not those of the prompt alone."""


@dataclass
class PromptCounts:
    """The requests of one task, counted."""

    requests: int = 0
    cut: int = 0
    """Prompts that lost their beginning, BOS excepted, because the model has too few positions."""
    longest: int = 0
    """Tokens of the longest request, answer included, before it was cut."""
    own_tokens: int = 0
    """Answers that have no token left behind their prompt's, so that they were tokenised by themselves."""
    shared_token: int = 0
    """Answers whose first characters are in one token with the prompt's last, and are not scored, as in ``hf``."""


class PromptAccount:
    """Counts by task, and a warning for each task and kind, once."""

    def __init__(self) -> None:
        self.tasks: dict[str, PromptCounts] = defaultdict(PromptCounts)

    def add(self, task: str, length: int, limit: int, *, own_tokens: bool = False, shared_token: bool = False) -> None:
        """Count one request of ``length`` tokens, of which ``limit`` fit the model."""
        counts = self.tasks[task]
        counts.requests += 1
        counts.longest = max(counts.longest, length)
        counts.cut += length > limit
        counts.own_tokens += own_tokens
        counts.shared_token += shared_token

    def warn(self, tasks: Sequence[str], max_length: int) -> None:
        """Say what happened to the prompts of tasks."""
        for task in tasks:
            counts = self.tasks[task]
            if counts.cut:
                log.warning(
                    "%s: %d of %d prompts do not fit the model's max_length=%d and lost their beginning (BOS is kept; "
                    "the longest has %d tokens)",
                    *(task, counts.cut, counts.requests, max_length, counts.longest),
                )
            if counts.own_tokens:
                log.warning(
                    "%s: %d of %d answers are tokenised by themselves, since a token spans the end of the prompt and "
                    "all of the answer",
                    *(task, counts.own_tokens, counts.requests),
                )
            if counts.shared_token:
                log.warning(
                    "%s: %d of %d answers begin inside a token that also holds the end of the prompt; that token is "
                    "not scored, as in lm-eval's hf",
                    *(task, counts.shared_token, counts.requests),
                )

    def summary(self) -> dict[str, dict[str, int]]:
        """Return the counts by task, as they appear in the results."""
        return {task: asdict(counts) for task, counts in sorted(self.tasks.items())}


def nothing_left(request: Any) -> LnbenchError:
    """Return the error for a request that has no token to score, which would get the best score there is."""
    *context, answer = request.args
    behind = f" behind the prompt {_shown(context[0])}" if context else ""
    return LnbenchError(
        f"task {request.task_name!r}, document {request.doc_id}: nothing is left to score of the text "
        f"{_shown(answer)}{behind}: it has no token; leave the document out, or correct the task"
    )


def too_long(request: Any, tokens: int, max_length: int) -> LnbenchError:
    """Return the error for an answer that does not fit the model."""
    return LnbenchError(
        f"task {request.task_name!r}, document {request.doc_id}: a continuation of {tokens} tokens, "
        f"{_shown(request.args[-1])}, does not fit the model's max_length={max_length}"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"…{text[-_SHOWN:]}")
