"""Text from files and models, made fit for a page; numbers as they are written in it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_LANGUAGE_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_PICTURES = 0x2400
"""Where Unicode has a visible sign for each of the first 32 control characters."""


def visible(value: Any) -> Any:
    """Text without what a page may not hold: control characters become signs, halves of characters ``�``.

    Markup is left alone, as it is made of text that went through here.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _LONE_SURROGATE.sub("\ufffd", _CONTROL.sub(_sign, value))


def _sign(found: re.Match[str]) -> str:
    code = ord(found.group())
    return chr(_PICTURES + code) if code < 0x20 else "\ufffd"


def language_tag(language: str) -> str | None:
    """What ``lang=`` takes, or None where a language is not called by a code."""
    return language if _LANGUAGE_TAG.fullmatch(language) else None


def number(value: float | None, digits: int = 3) -> str:
    """A plain number; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A change, with its sign."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def brief(value: float | None) -> str:
    """A number of any size, in two digits that count."""
    return "–" if value is None else f"{value:.2g}".replace("-", "−")


def p_value(value: float | None) -> str:
    """A p-value; those that are too small to tell apart are not told apart."""
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def percent(share: float | None) -> str:
    """A share in per cent; a small one does not become nothing."""
    if share is None:
        return "–"
    return "< 0.1\u00a0%" if 0 < share < 0.001 else f"{share:.1%}".replace(".0%", "%").replace("%", "\u00a0%")


def counted(count: int, one: str, many: str | None = None) -> str:
    """``1 cell``, ``2 cells``, ``1,200 cells``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(items: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *most, last = list(items) or ["none"]
    return f"{', '.join(most)} and {last}" if most else last


def span(low: float | None, high: float | None, digits: int = 3) -> str:
    """An interval, or nothing where one end is not known."""
    return "–" if low is None or high is None else f"{signed(low, digits)} to {signed(high, digits)}"
