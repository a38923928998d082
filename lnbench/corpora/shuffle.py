"""Shuffling a stream of documents of any length in bounded memory."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

#: Documents held at a time for shuffling: a corpus of no more is shuffled wholly, a longer one within a moving window.
SHUFFLE_WINDOW = 50_000
#: Characters held at a time, which ends the window sooner where documents are long: at most 800 MB of memory.
SHUFFLE_CHARACTERS = 200_000_000


def shuffled(documents: Iterable[str], seed: int) -> Iterator[str]:
    """Yield the documents in an order that depends on ``seed`` and on the documents alone."""
    # Of Python's generators only random() is promised to give the same numbers in every version.
    draw = random.Random(seed).random
    window: list[str] = []
    held = 0

    def take() -> str:
        chosen = int(draw() * len(window))
        window[chosen], window[-1] = window[-1], window[chosen]
        return window.pop()

    for document in documents:
        window.append(document)
        held += len(document)
        while len(window) > SHUFFLE_WINDOW or (held > SHUFFLE_CHARACTERS and len(window) > 1):
            taken = take()
            held -= len(taken)
            yield taken
    while window:
        yield take()
