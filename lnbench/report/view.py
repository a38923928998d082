"""The pieces that a page is made of, as plain data for its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Table:
    """A table in text.

    Attributes:
        caption: What it shows, its unit, and what rows and columns are.
        columns: Headings.
        rows: Each as long as ``columns``.
        labels: How many of the first columns name the row; the others are numbers.
        notes: What stands under it.
        quiet: Numbers of the rows that stand back, as what others are compared with.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1
    notes: Sequence[str] = ()
    quiet: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Finding:
    """What a table of numbers comes to, in sentences."""

    title: str
    verdict: str
    details: Sequence[str] = ()


@dataclass(frozen=True)
class Caveat:
    """What a reader should know before believing a number."""

    title: str
    texts: Sequence[str]


@dataclass(frozen=True)
class Picture:
    """A figure in the page and the files of it beside the page.

    Attributes:
        name: File stem.
        title: A line above it.
        caption: How to read it.
        image: The element that shows it.
        files: Format → address, relative to the page.
        table: The numbers.
    """

    name: str
    title: str
    caption: str
    image: Markup
    files: Mapping[str, str]
    table: Table | None = None
