"""Messages to users: tests name the values that an error must tell, and each sentence is kept once, in a snapshot."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lnbench.errors import LnbenchError


def lacks(text: str, *values: object) -> list[str]:
    """Return the values that the text does not hold as whole words."""
    return [str(value) for value in values if not re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", text)]


@contextmanager
def refused(
    *values: object, error: type[BaseException] | tuple[type[BaseException], ...] = LnbenchError
) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """Assert that the block raises ``error`` with a message that names every value.

    Values are what a reader acts on, and what distinguishes one error from another: names, paths, numbers, options,
    technical terms. The sentence around them is in the snapshot of ``tests/test_messages.py``.
    """
    with pytest.raises(error) as caught:
        yield caught
    message = str(caught.value)
    missing = lacks(message, *values)
    assert not missing, f"{missing} not named in: {message}"


WORD = re.compile(r"(?<!\S)[a-z]{2,}[,;:.]?(?!\S)")

DOCUMENTATION = {"description", "help", "epilog", "short_help"}
"""Keyword arguments with the documentation of options and fields, which the reference shows."""


def sentences(source: str) -> set[str]:
    """Return the texts of three words or more in a module's code, whole, with ``{…}`` for the values put into them.

    Docstrings and the documentation of options are left out.
    """
    texts = (" ".join(text.split()) for text in _texts(ast.parse(source)))
    return {text for text in texts if len(text.split()) > 2 and len(WORD.findall(text)) > 1}


def _texts(node: ast.AST) -> Iterator[str]:
    template, others = _template(node)
    if template is not None:
        yield template
    for child in others:
        docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        if not docstring and not (isinstance(child, ast.keyword) and child.arg in DOCUMENTATION):
            yield from _texts(child)


def _template(node: ast.AST) -> tuple[str | None, list[ast.AST]]:
    """Return the text that an expression makes, if it makes one, and the expressions to search further."""
    match node:
        case ast.Constant(value=str(text)):
            return text, []
        case ast.JoinedStr(values=parts):
            text = "".join(part.value if isinstance(part, ast.Constant) else "{…}" for part in parts)
            return text, [part.value for part in parts if isinstance(part, ast.FormattedValue)]
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            halves = [(_template(half), half) for half in (left, right)]
            if any(text is not None for (text, _), _ in halves):
                whole = "".join("{…}" if text is None else text for (text, _), _ in halves)
                return whole, [other for (text, others), half in halves for other in (others if text else [half])]
    return None, list(ast.iter_child_nodes(node))
