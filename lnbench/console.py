"""Where things are printed."""

from __future__ import annotations

import sys

from rich.console import Console, RenderableType
from rich.measure import Measurement

_LEAST_WIDTH, _MOST_WIDTH = 160, 10_000


def never_fail() -> None:
    """Let characters that stdout or stderr cannot encode, as in a C locale, be printed as ``?``, not fail."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def console(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, but never so narrow that a table's columns would be cut off."""
    never_fail()
    own = Console(stderr=stderr)
    return own if own.is_terminal and own.width >= _LEAST_WIDTH else Console(stderr=stderr, width=_LEAST_WIDTH)


def print_whole(renderable: RenderableType) -> None:
    """Print something on stdout, in lines longer than the terminal's where it would be cut off."""
    own = console()
    needed = Measurement.get(own, own.options.update(max_width=_MOST_WIDTH), renderable).minimum
    (own if needed <= own.width else Console(width=needed)).print(renderable)


def duration(seconds: float) -> str:
    """Return a time in one unit, the largest of which there is at least one and a half: ``85 s``, ``4 min``."""
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 1.5:
        return f"{hours:.1f} h"
    return f"{minutes:.0f} min" if minutes >= 1.5 else f"{seconds:.0f} s"
