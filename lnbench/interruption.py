"""What is said when a run is interrupted, by Ctrl-C or SIGTERM: how far it got, and that the same command continues."""

from __future__ import annotations

import signal
from contextlib import suppress
from threading import Event
from types import FrameType
from typing import NoReturn

CTRL_C, SIGTERM = 130, 143
"""Exit codes of interrupted commands: 128 and the number of the signal."""
_progress: list[str] = []
_terminated = Event()


def reached(text: str) -> None:
    """Note how far this run got, as ``12 of 40 cells``; a later note takes the place of an earlier one."""
    _progress[:] = [text]


def words() -> str:
    """Return what to say of an interruption."""
    return f"interrupted{''.join(f' after {text}' for text in _progress)}; the same command continues"


def exit_code() -> int:
    """Return the exit code of a command that was interrupted."""
    return SIGTERM if _terminated.is_set() else CTRL_C


def begin() -> None:
    """Begin a command: nothing is reached, and SIGTERM ends this process as Ctrl-C does, with everything closed."""
    _progress.clear()
    _terminated.clear()

    def end(_signal: int, _frame: FrameType | None) -> NoReturn:
        _terminated.set()
        raise KeyboardInterrupt

    with suppress(ValueError):  # A thread other than the first cannot say so.
        signal.signal(signal.SIGTERM, end)
