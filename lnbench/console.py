"""Where things are printed."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

_LEAST_WIDTH = 160


def console(*, stderr: bool = False) -> Console:
    """As wide as the terminal, but never so narrow that a table's columns would be cut off."""
    own = Console(stderr=stderr)
    return own if own.is_terminal and own.width >= _LEAST_WIDTH else Console(stderr=stderr, width=_LEAST_WIDTH)


def numeric_table(title: str, first: str, *others: str, caption: str | None = None) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table
