"""Work on the next items of an iterator while the last one is in use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, TypeVar

Item = TypeVar("Item")

#: Seconds that a consumer who stops early waits for the thread to end: a download cannot be interrupted.
_PATIENCE = 5.0


def prefetch(items: Iterable[Item], depth: int = 4) -> Iterator[Item]:
    """Yield the same items in the same order, up to ``depth`` of them made in advance by a thread.

    It pays where making them releases the interpreter, as tokenizers and reading do. The thread begins with the first
    item asked for. It ends with the items, with an error, which the consumer gets in the item's place, or when the
    consumer stops; ``items`` is then closed.
    """
    queue: Queue[Any] = Queue(depth)
    stopped = Event()
    # A daemon: one that waits for the network holds up neither Ctrl-C nor the interpreter's end.
    thread = Thread(target=_produce, args=(items, queue, stopped), name="lnbench-prefetch", daemon=True)
    thread.start()
    try:
        while isinstance(made := queue.get(), tuple):
            yield made[0]
        if not isinstance(made, StopIteration):
            raise made
    finally:
        stopped.set()
        # The thread puts at most one more item, for which this makes room.
        with suppress(Empty):
            while True:
                queue.get_nowait()
        thread.join(_PATIENCE)


def _produce(items: Iterable[Item], queue: Queue[Any], stopped: Event) -> None:
    end: BaseException = StopIteration()
    try:
        iterator = iter(items)
        try:
            for item in iterator:
                queue.put((item,))
                if stopped.is_set():
                    break
        finally:
            if (close := getattr(iterator, "close", None)) is not None:
                close()
    except BaseException as raised:  # It is the consumer's, whatever it is.
        end = raised
    if not stopped.is_set():
        queue.put(end)
