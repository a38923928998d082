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
    """Return a time as people say it, in one unit: ``40 s``, ``12 min``, ``3.5 h``, ``4.2 days``."""
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}" if name == "h" else f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.1f} days"
