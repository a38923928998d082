"""Compiled loops over neurons, in threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch


def run_threaded(kernel: Callable[..., None], arguments: Sequence[Any], neurons: int, *, at_once: int) -> None:
    """Call ``kernel(*arguments, begin, end)`` for all neurons, in as many threads as torch has.

    Args:
        kernel: A compiled function that releases the interpreter.
        arguments: Its arrays.
        neurons: How many there are.
        at_once: Neurons that a thread takes at a time.
    """
    shares = [(begin, min(neurons, begin + at_once)) for begin in range(0, neurons, at_once)]
    threads = torch.get_num_threads()
    if threads == 1 or len(shares) == 1:
        kernel(*arguments, 0, neurons)
    else:
        list(_pool(os.getpid(), threads).map(lambda share: kernel(*arguments, *share), shares))


@cache
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    """Return threads of this process: those of a parent do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="lnbench-statistics")
