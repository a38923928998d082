"""Items made ahead: the same items, the same errors, and no thread left behind."""

from __future__ import annotations

import subprocess
import sys
import threading
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench.corpora.prefetch import prefetch
from tests.support.messages import refused


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "lnbench-prefetch"]


@given(items=st.lists(st.integers()), depth=st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_items_are_the_same(items, depth):
    assert list(prefetch(items, depth)) == items
    assert threads() == []


@given(items=st.lists(st.integers(), max_size=8), depth=st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_an_error_comes_after_the_items_before_it(items, depth):
    def failing():
        yield from items
        raise KeyError("broken")

    made = prefetch(failing(), depth)
    assert [next(made) for _ in items] == items
    with refused("broken", error=KeyError):
        next(made)
    assert threads() == []


def endless(closed: list[bool]):
    try:
        yield from count()
    finally:
        closed.append(True)


def test_the_thread_lives_from_the_first_item_to_the_end():
    closed: list[bool] = []
    made = prefetch(endless(closed), 2)
    assert threads() == []
    assert next(made) == 0 and threads() == ["lnbench-prefetch"]
    made.close()
    assert threads() == [] and closed == [True]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_consumer_that_stops_stops_the_thread(error):
    closed: list[bool] = []

    def consume() -> None:
        for item in prefetch(endless(closed), 3):
            if item == 5:
                raise error

    with pytest.raises(error):
        consume()
    assert threads() == [] and closed == [True]


def test_it_stays_within_its_depth():
    made = []
    reached = threading.Event()

    def watched():
        for number in range(10):
            made.append(number)
            if number == 4:
                reached.set()
            yield number

    items = prefetch(watched(), 3)
    assert next(items) == 0
    # One with the consumer, three in the queue, one waiting for its place.
    assert reached.wait(10) and made == [0, 1, 2, 3, 4]
    assert list(items) == [*range(1, 10)]


@pytest.mark.parametrize("last", ["items.close()", "raise KeyboardInterrupt", "sys.exit(0)", "pass"])
def test_the_interpreter_ends_with_items_left(last):
    first = "import itertools, sys; from lnbench.corpora.prefetch import prefetch"
    script = f"{first}\nitems = prefetch(itertools.count(), 2); next(items)\n{last}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "Fatal" not in done.stderr
    assert (done.returncode != 0) == ("Interrupt" in last)
