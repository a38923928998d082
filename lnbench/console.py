"""Where things are printed."""

from __future__ import annotations

from rich.console import Console

_LEAST_WIDTH = 160


def console(*, stderr: bool = False) -> Console:
    """As wide as the terminal, but never so narrow that a table's columns would be cut off."""
    own = Console(stderr=stderr)
    return own if own.is_terminal and own.width >= _LEAST_WIDTH else Console(stderr=stderr, width=_LEAST_WIDTH)
