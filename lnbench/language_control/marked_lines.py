"""The lines of an answer, each with its language."""

from __future__ import annotations

from typing import NamedTuple

from lnbench.corpora.identification import UNKNOWN
from lnbench.language_control.lcb import language_of


class MarkedLine(NamedTuple):
    """A line and its language by fastText's ``lid.176``; ``und`` where none is likely enough, or it has no letter."""

    language: str
    text: str


def marked_lines(text: str) -> list[MarkedLine]:
    """Return the lines of a text that are not blank, each with its language; of short lines it is a guess."""
    lines = [line.strip() for line in text.splitlines()]
    return [MarkedLine(language_of(line) if any(map(str.isalpha, line)) else UNKNOWN, line) for line in lines if line]
