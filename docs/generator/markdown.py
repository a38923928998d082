"""Markdown: pages, tables, code, and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

_NOTICE = "<!-- Written by `python -m docs.generator` from the code: change it there, and run `make docs`. -->"
NOTHING = "–"
"""Shown where there is no default."""

_ROLE = re.compile(r":\w+:`~?([^`]+)`")


def page(title: str, body: str) -> str:
    """Return a generated page."""
    return f"{_NOTICE}\n\n# {title}\n\n{body.strip()}\n"


def docstring(text: str | None) -> str:
    """Return a docstring with reStructuredText's literals and roles as Markdown's code."""
    return _ROLE.sub(r"`\1`", inspect.cleandoc(text or "")).replace("``", "`")


def sentence(text: str, choices: Sequence[str] = ()) -> str:
    """Return a description with a capital, a full stop, and the words that can be chosen."""
    text = " ".join(docstring(text).split())
    if len(choices) > 1 and not all(choice in text for choice in choices):
        text = f"{text.removesuffix('.')} ({', '.join(map(code, choices))})"
    if not text:
        return ""
    capital = text if text.startswith("lm-eval") else text[0].upper() + text[1:]
    return capital + ("" if capital.endswith((".", "…")) else ".")


def code(text: object) -> str:
    """Return a literal."""
    return f"`{text}`"


def block(text: str, language: str = "sh") -> str:
    """Return a fenced block."""
    return f"```{language}\n{text}\n```"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; bars in cells are escaped."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def paragraphs(*parts: str) -> str:
    """Join what is not empty, with an empty line between."""
    return "\n\n".join(part for part in parts if part)
