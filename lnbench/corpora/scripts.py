"""The scripts that languages are written in, and whether a text is in them."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
from numpy.typing import NDArray

#: Characters of a document that are looked at.
SAMPLE = 2_000

# Unicode script → its ISO 15924 codes, and the languages written in it. A language in several rows uses several.
_SCRIPTS: dict[str, tuple[str, str]] = {
    "Latin": (
        "Latn",
        "af ak an ast ay az bm br bs ca ceb co cs cy da de ee en eo es et eu fi fil fo fr fy ga gd gl gn ha haw hr ht "
        "hu id ig is it jv kl ku la lb lg ln lt lv mg mi ms mt nl nn nb no ny oc om pap pl pt qu rm rn ro rw sc se sk "
        "sl sm sn so sq sr st su sv sw tk tl tn to tr ts tw uz ve vi wo xh yo za zh-min-nan zu simple",
    ),
    "Cyrillic": ("Cyrl", "av az ba be bg bs ce cv kk ky mk mn os ru sah sr tg tt uk uz"),
    "Arabic": ("Arab", "ar arz azb ckb fa ks ku pnb ps sd skr ug ur"),
    "Devanagari": ("Deva", "awa bh bho brx doi gom hi hne kok ks mag mai mr ne new sa sat sd"),
    "Bengali": ("Beng", "as bn bpy mni"),
    "Gurmukhi": ("Guru", "pa"),
    "Gujarati": ("Gujr", "gu"),
    "Oriya": ("Orya", "or"),
    "Tamil": ("Taml", "ta"),
    "Telugu": ("Telu", "te"),
    "Kannada": ("Knda", "kn tcy"),
    "Malayalam": ("Mlym", "ml"),
    "Sinhala": ("Sinh", "si"),
    "Meetei_Mayek": ("Mtei", "mni"),
    "Ol_Chiki": ("Olck", "sat"),
    "Thaana": ("Thaa", "dv"),
    "Thai": ("Thai", "th"),
    "Lao": ("Laoo", "lo"),
    "Myanmar": ("Mymr", "my shn"),
    "Khmer": ("Khmr", "km"),
    "Tibetan": ("Tibt", "bo dz"),
    "Han": ("Hani Hans Hant Jpan Kore", "gan hak ja lzh wuu yue zh zh-classical zh-yue"),
    "Hiragana": ("Hira Jpan", "ja"),
    "Katakana": ("Kana Jpan", "ja"),
    "Hangul": ("Hang Kore", "ko"),
    "Hebrew": ("Hebr", "he yi"),
    "Greek": ("Grek", "el"),
    "Armenian": ("Armn", "hy"),
    "Georgian": ("Geor", "ka xmf"),
    "Ethiopic": ("Ethi", "am ti"),
    "Mongolian": ("Mong", ""),
    "Tifinagh": ("Tfng", "zgh"),
}


def scripts_of(language: str) -> tuple[str, ...]:
    """Return the Unicode scripts of a language code, or none where they are not known.

    A script in the code counts for more than the language: ``sr-Latn``, ``hin_Deva``, ``zh-Hans``.
    """
    primary, *others = re.split("[-_]", language)
    for code in (part.title() for part in others if len(part) == 4):
        if named := tuple(script for script, (codes, _) in _SCRIPTS.items() if code in codes.split()):
            return named
    for name in (language.lower().replace("_", "-"), primary.lower()):
        if named := tuple(script for script, (_, languages) in _SCRIPTS.items() if name in languages.split()):
            return named
    return ()


def mostly_other(text: str, scripts: tuple[str, ...]) -> bool:
    """Return whether more than half of the letters among the text's first characters are of none of ``scripts``.

    Letters that scripts share (Unicode's *Common* and *Inherited*) do not count, nor do digits and punctuation.
    """
    points = np.frombuffer(text[:SAMPLE].encode("utf-32-le", "surrogatepass"), dtype="<u4")
    _, other, expected = np.bincount(_kinds(scripts)[points], minlength=3).tolist()
    return bool(other > expected)


def main_script(text: str) -> str | None:
    """Return the script of most of a text's letters, of those known here; None where it has no such letter."""
    counts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if script := _script_of(character):
            counts[script] += count
    return counts.most_common(1)[0][0] if counts else None


@cache
def _script_of(character: str) -> str | None:
    import regex

    if not character.isalpha():
        return None
    return next((script for script in _SCRIPTS if regex.match(rf"\p{{Script={script}}}", character)), None)


@cache
def _kinds(scripts: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return per code point: 2 for a letter of ``scripts``, 1 for a letter of another one, 0 for anything else."""
    import regex

    points = np.arange(0x110000, dtype="<u4")
    points[0xD800:0xE000] = 0  # surrogates are no characters
    characters = points.tobytes().decode("utf-32-le")
    kinds = np.zeros(len(points), dtype=np.uint8)
    own = "".join(rf"\p{{Script={script}}}" for script in scripts)
    for kind, expression in ((1, r"[\p{L}--[\p{Script=Common}\p{Script=Inherited}]]+"), (2, rf"[\p{{L}}&&[{own}]]+")):
        for run in regex.finditer(expression, characters, regex.V1):
            kinds[slice(*run.span())] = kind
    return kinds
