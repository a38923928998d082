"""Pseudo-languages: the same text in another form, by a suffix of the corpus pattern, as ``{lang}.txt|romanised``.

They are controls: neurons that a language keeps when it is romanised do not follow its script, and those that it keeps
when its words are shuffled do not follow their order (Verma et al. 2026).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from random import Random
from typing import Any

from lnbench.errors import LnbenchError, unknown

Rewrite = Callable[[str], str]
_SUFFIXES = re.compile(r"(?:\|\w+)+$")
_UNSPACED = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Myanmar", "Khmer", "Tibetan")
"""Scripts that are written without spaces between words: a character is shuffled in place of a word."""


def split_forms(pattern: str) -> tuple[str, tuple[str, ...]]:
    """Return a corpus pattern without its suffixes, and these: the forms that its text is put into, in this order.

    Raises:
        LnbenchError: there is no such form.
    """
    match = _SUFFIXES.search(pattern)
    if match is None:
        return pattern, ()
    forms = tuple(match[0].removeprefix("|").split("|"))
    for form in forms:
        if form not in FORMS:
            raise unknown("form of a corpus's text", form, FORMS, "It is written behind the pattern, as |romanised")
    return pattern[: match.start()], forms


def joined(pattern: str, forms: Sequence[str]) -> str:
    """Return a pattern with suffixes, the inverse of :func:`split_forms`."""
    return "|".join([pattern, *forms])


def rewriting(forms: Sequence[str], language: str) -> Rewrite:
    """Return the function that puts a text of ``language`` into all of ``forms``, one after the other.

    Raises:
        LnbenchError: uroman is needed and is not installed.
    """
    functions = [FORMS[form](language) for form in forms]

    def rewrite(text: str) -> str:
        for function in functions:
            text = function(text)
        return text

    return rewrite


def account(forms: Sequence[str]) -> dict[str, Any]:
    """Return what decides the text beside the native one, for manifests: the forms, and uroman's version."""
    romaniser = {"uroman": version("uroman")} if "romanised" in forms else {}
    return {"forms": list(forms), **romaniser} if forms else {}


def _romanised(language: str) -> Rewrite:
    uroman, code = _uroman(), _three_letters(language)

    def romanise(text: str) -> str:
        return "\n".join(str(uroman.romanize_string(line, lcode=code)) for line in text.split("\n"))

    return romanise


@cache
def _uroman() -> Any:
    try:
        import uroman
    except ImportError as error:
        raise LnbenchError(f"|romanised needs uroman ({error}): pip install 'lnbench[romanised]'") from error
    return uroman.Uroman()


def _three_letters(language: str) -> str | None:
    """Return a code of ISO 639-3, by which uroman knows a language's own rules; None where there is none."""
    import langcodes

    try:
        return str(langcodes.Language.get(language).to_alpha3())
    except (LookupError, ValueError):
        return None


def _shuffled(_language: str) -> Rewrite:
    return shuffle_words


def shuffle_words(text: str) -> str:
    """Return a text's words in another order, which depends on the text alone; white space keeps its places.

    A word is what white space surrounds; in scripts without spaces between words (Chinese, Japanese, Thai …) it is a
    character with its marks. Words and such characters each stay among themselves, so that no two words become one.
    """
    import regex

    unspaced = "".join(rf"\p{{Script={script}}}" for script in _UNSPACED)
    expression = rf"(?P<space>\s+)|(?P<character>[{unspaced}]\p{{M}}*)|(?P<word>[^\s{unspaced}]+)"
    matches = list(regex.finditer(expression, text))
    parts = [match[0] for match in matches]
    seed = int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
    # Of Python's generators only random() is promised to give the same numbers in every version.
    draw = Random(seed).random
    for kind in ("character", "word"):
        places = [number for number, match in enumerate(matches) if match.lastgroup == kind]
        for last in range(len(places) - 1, 0, -1):
            here, there = places[last], places[int(draw() * (last + 1))]
            parts[here], parts[there] = parts[there], parts[here]
    return "".join(parts)


FORMS: dict[str, Callable[[str], Rewrite]] = {"romanised": _romanised, "shuffled": _shuffled}
"""Suffix → what makes the function that rewrites the text of a language."""
