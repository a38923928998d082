"""lm-eval's ``--use_cache`` for answers that depend on an intervention.

lm-eval keys an answer by its request alone, so the same file would serve one intervention's answers to another. Here
an answer is also keyed by everything else that it depends on: the model, the intervention, and the language whose
neurons are overridden.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

from lm_eval.api.model import CacheHook
from sqlitedict import SqliteDict

from lnbench.lm.compat import hash_args, readable, silence

_FORMS: dict[str, Callable[[Any], bool]] = {
    "loglikelihood": lambda answer: (
        isinstance(answer, list) and list(map(type, answer)) == [float, bool] and math.isfinite(answer[0])
    ),
    "loglikelihood_rolling": lambda answer: isinstance(answer, float) and math.isfinite(answer),
    "generate_until": lambda answer: isinstance(answer, str),
}
"""Kind of request → whether something is an answer to it."""


class AnswerCache(CacheHook):  # type: ignore[misc]
    """Answers by configuration and request, in a table of their own inside lm-eval's cache file."""

    def __init__(self, store: SqliteDict) -> None:
        super().__init__(None)
        self.configuration = ""
        # JSON, as a file that someone hands over must not be able to run code; sqlitedict's default is pickle.
        codec = {"encode": json.dumps, "decode": json.loads}
        self._path = str(store.filename)
        with readable(self._path):
            self._table = SqliteDict(store.filename, tablename="lnbench", autocommit=True, **codec)
        silence(store)

    def find(self, kind: str, request: Iterable[Any]) -> Any | None:
        """Return the answer kept for a request under the present configuration, or None."""
        with readable(self._path):
            answer = self._table.get(self._key(kind, request))
            if answer is not None and not _FORMS[kind](answer):
                raise ValueError(f"it holds {str(answer)[:40]!r} for a request of {kind}")
        return tuple(answer) if isinstance(answer, list) else answer

    def add_partial(self, attr: str, req: Iterable[Any], res: Any) -> None:
        """Keep an answer; lm-eval's models call this as they go."""
        with readable(self._path):
            self._table[self._key(attr, req)] = res

    def _key(self, kind: str, request: Iterable[Any]) -> str:
        return str(hash_args(kind, [self.configuration, *request]))
