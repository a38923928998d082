"""Budgets of tokens and shards as they are written on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from lnbench.errors import LnbenchError, unknown

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_NUMBER = re.compile(rf"(?P<number>[0-9]+(\.[0-9]+)?)(?P<unit>[{''.join(_UNITS)}]?)")
_SHARD = re.compile(r"(?P<number>[0-9]+)/(?P<count>[0-9]+)")


AUTO = "auto"
"""As many tokens as are needed."""


def parse_auto(text: str | None) -> tuple[bool, str | None]:
    """Return whether a budget is ``auto``, or ``auto:`` with a budget behind it; and that budget."""
    word, colon, most = (text or "").partition(":")
    return (True, most if colon else None) if word == AUTO else (False, text)


def parse_tokens(text: str | None, languages: Sequence[str]) -> dict[str, int | None]:
    """Parse the budget of tokens of each of ``languages``; None is all of the text.

    ``100M`` is the budget of each language, ``en=2M+hi=500k`` names each one's own, and ``1M+en=2M`` is for English 2M
    and for each other language 1M. Units are ``k``, ``M`` and ``G``, thousands, millions and thousands of millions.

    Raises:
        LnbenchError: not such a text, a language that is not among ``languages`` or is left without a budget.
    """
    budgets: dict[str, int | None] = {}
    if text is None:
        return dict.fromkeys(languages)
    for part in text.split("+"):
        language, equals, number = part.rpartition("=")
        if equals and language not in languages:
            raise unknown("language in the budget of tokens", language, languages)
        if language in budgets:
            raise LnbenchError(f"the budget of tokens {text!r} has two numbers for {language or 'all languages'}")
        budgets[language] = _number(number, text)
    missing = [language for language in languages if language not in budgets]
    if missing and "" not in budgets:
        raise LnbenchError(
            f"the budget of tokens {text!r} has none for {', '.join(missing)}; name one for all others, as in 1M+en=2M"
        )
    return {language: budgets.get(language, budgets.get("")) for language in languages}


def _number(text: str, whole: str) -> int:
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise LnbenchError(f"a budget of tokens is a number as 1000000, 500k, 1.5M or en=2M+hi=1M, not {whole!r}")
    tokens = Fraction(match["number"]) * _UNITS[match["unit"]]
    if tokens < 1 or tokens.denominator != 1:
        raise LnbenchError(f"a budget of tokens is a whole number above 0, not {text.strip()!r}")
    return tokens.numerator


def parse_shard(text: str) -> tuple[int, int]:
    """Parse ``3/8``, the third of eight shards, as ``(index, count)`` with the index from 0: ``(2, 8)``.

    Raises:
        LnbenchError: not such a text, or no shard of that number.
    """
    match = _SHARD.fullmatch(text.strip())
    if match is None:
        raise LnbenchError(f"a shard is written number/count, as 3/8 for the third of eight, not {text!r}")
    number, count = int(match["number"]), int(match["count"])
    if not 1 <= number <= count:
        raise LnbenchError(f"there is no shard {text.strip()}: shards are numbered from 1 to their count")
    return number - 1, count
