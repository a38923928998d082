"""The one exception users meet: a sentence that says what is wrong and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable


class LnbenchError(ValueError):
    """Bad input or an impossible request. The command line prints the message alone and exits with code 2."""


def unknown(kind: str, name: object, known: Iterable[object], hint: str = "") -> LnbenchError:
    """The error for a name that does not exist, listing the names that do.

    Args:
        kind: What was looked for, in the words of the documentation (``selector``, ``language`` …).
        name: The name that was not found.
        known: The names that exist.
        hint: A closing sentence, e.g. how to add one.
    """
    names = ", ".join(map(str, known)) or "none"
    return LnbenchError(f"unknown {kind} {str(name)!r}; known: {names}" + (f". {hint}" if hint else ""))
