"""The exceptions users meet: a sentence that says what is wrong and what to do about it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

DEPRECATION_GUIDE = "docs/howto/plugins.md"
"""Where deprecations of the plugin contract are explained; each warning ends with it."""


class LnbenchError(ValueError):
    """Bad input or an impossible request. The command line prints the message alone and exits with code 2."""


def unknown(kind: str, name: object, known: Iterable[object], hint: str = "") -> LnbenchError:
    """Return the error for a name that does not exist, listing the names that do.

    Args:
        kind: What was looked for, in the words of the documentation (``selector``, ``language`` …).
        name: The name that was not found.
        known: The names that exist.
        hint: A closing sentence, e.g. how to add one.
    """
    names = ", ".join(map(str, known)) or "none"
    return LnbenchError(f"unknown {kind} {str(name)!r}; known: {names}" + (f". {hint}" if hint else ""))


class PluginError(LnbenchError):
    """A plugin failed; the message names it, and the original exception is its cause."""


def one_line_error(error: BaseException) -> str:
    """Return an error in one line: one of ours as it is, another with its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, LnbenchError) else f"{type(error).__name__}: {text}"


@contextmanager
def plugin_errors(kind: str, name: object) -> Iterator[None]:
    """Turn any exception inside the block into a :class:`PluginError` that names the plugin's ``kind`` and ``name``.

    An :class:`LnbenchError` passes through: it is a message to the user already.
    """
    try:
        yield
    except LnbenchError:
        raise
    except Exception as error:
        raise PluginError(f"{kind} {str(name)!r} failed: {one_line_error(error)}") from error


@contextmanager
def plugin_call(kind: str, name: object) -> Iterator[None]:
    """Name the plugin in every exception inside the block, where it is called and what it returned is checked.

    An :class:`LnbenchError` keeps its type and its words, which get ``kind`` and ``name`` before them if they lack
    them. Any other becomes a :class:`PluginError`.
    """
    try:
        with plugin_errors(kind, name):
            yield
    except LnbenchError as error:
        if f"{kind} '{str(name).partition(':')[0]}" not in str(error):
            error.args = (f"{kind} {str(name)!r}: {error}",)
        raise


def returned(value: Any, expected: Any) -> Any:
    """Return what a plugin returned, if it is of the ``expected`` type.

    Raises:
        LnbenchError: it is not.
    """
    if isinstance(value, expected):
        return value
    public = "lnbench." if expected.__module__.startswith("lnbench.") else ""
    raise LnbenchError(f"returned {type(value).__name__} ({_short(value)}), not {public}{expected.__name__}")


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"


def show_deprecations() -> None:
    """Let lnbench's own deprecations be seen: by default, Python hides those that a library gives."""
    warnings.filterwarnings("default", f".*{DEPRECATION_GUIDE}", DeprecationWarning)
