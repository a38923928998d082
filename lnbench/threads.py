"""How many threads compute, chosen by the cores that are free, and compiled loops over neurons in them.

By default torch takes a thread per core, and a thread that waits for the others spins. Where other programs run, those
that spin keep the one that is waited for from running: on a busy machine of two cores, two threads were six times
slower than one. So waiting threads sleep here, and there are no more threads than free cores. ``OMP_NUM_THREADS`` and
``OMP_WAIT_POLICY`` are respected where they are set.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

VARIABLE = "OMP_NUM_THREADS"
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Of GNU's OpenMP, and of LLVM's and Intel's."""
_LOOK = 0.2
"""Seconds for which the cores are watched."""
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


class Cores(NamedTuple):
    """The cores that this process may use, and how many of them are free; a quota may be a part of a core."""

    allowed: float
    free: float

    @property
    def threads(self) -> int:
        """How many threads to compute with: one for each free core, at least one."""
        return max(1, min(math.floor(self.allowed), math.floor(self.free + 0.5)))


def wait_passively() -> None:
    """Let threads that wait sleep, not spin; works until torch is imported."""
    for variable, value in _PASSIVE.items():
        os.environ.setdefault(variable, value)


def choose() -> str:
    """Choose the number of threads of this process and those that it starts; return it in words, with the reason."""
    wait_passively()
    if given := os.environ.get(VARIABLE):
        return f"threads: {given}, as {VARIABLE} says"
    cores = watch_cores()
    os.environ[VARIABLE] = str(cores.threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(cores.threads)
    return f"threads: {cores.threads}, as {cores.free:.1f} of {cores.allowed:g} cores are free"


def watch_cores(seconds: float = _LOOK) -> Cores:
    """Watch for a moment how busy the cores are that this process may use.

    The load average would count what ran a minute ago as well, such as the user's last command.
    """
    import psutil

    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    before, used = psutil.cpu_times(percpu=True), _used_by_cgroup()
    started = time.monotonic()
    time.sleep(seconds)
    after, used_then = psutil.cpu_times(percpu=True), _used_by_cgroup()
    passed = time.monotonic() - started
    free = sum(_idle(before[core], after[core]) for core in own if core < len(after))
    allowed = float(len(own))
    if (quota := cpu_quota()) is not None and quota < allowed:
        busy = 0.0 if used is None or used_then is None else (used_then - used) / passed
        allowed, free = quota, min(free, quota - busy)
    return Cores(allowed, max(0.0, free))


def _idle(before: Any, after: Any) -> float:
    """Return the share of the time between two readings in which a core had nothing to do."""
    total = sum(after[:8]) - sum(before[:8])  # what follows, guests' time, is part of the others
    idle = sum(getattr(after, name, 0.0) - getattr(before, name, 0.0) for name in ("idle", "iowait"))
    return float(min(1.0, max(0.0, idle / total))) if total > 0 else 1.0


def cpu_quota(root: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> float | None:
    """Return the cores that the control groups of this process allow, the least of all levels; None: no limit.

    Args:
        root: Where control groups are mounted.
        own: The file that names those of this process.
    """
    limits = []
    for folder in _folders(root, own):
        with suppress(OSError, ValueError, ZeroDivisionError):
            if (folder / "cpu.max").is_file():
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if float(quota) > 0:
                limits.append(float(quota) / float(period))
    return min(limits, default=None)


def _used_by_cgroup() -> float | None:
    """Return the seconds that this process's innermost control group has computed; None where it is not known."""
    for folder in _folders(_CGROUPS, _OWN_CGROUPS):
        with suppress(OSError, ValueError):
            words = (folder / "cpu.stat").read_text().split()
            return int(words[words.index("usage_usec") + 1]) / 1e6
    return None


def _folders(root: Path, own: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups, of either version, from the innermost outwards."""
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            mount = root / controllers if (root / controllers).is_dir() else root / "cpu" if controllers else root
            inside = Path(path.lstrip("/"))
            yield from (mount / part for part in (inside, *inside.parents))


def run_threaded(kernel: Callable[..., None], arguments: Sequence[Any], neurons: int, *, at_once: int) -> None:
    """Call ``kernel(*arguments, begin, end)`` for all neurons, in as many threads as torch has.

    Args:
        kernel: A compiled function that releases the interpreter.
        arguments: Its arrays.
        neurons: How many there are.
        at_once: Neurons that a thread takes at a time.
    """
    import torch

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
