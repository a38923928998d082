"""Corpus patterns: what they name, and the languages that files exist for."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from lnbench.corpora.readers import READERS
from lnbench.errors import LnbenchError

_PLACE = "{lang}"
_LANGUAGE = r"[A-Za-z0-9_\-]+"
_HUB = re.compile(r"(?P<repo>[\w.{}\-]+(/[\w.{}\-]+)?):(?P<config>[^/\\@]+)(@(?P<revision>[\w./\-]+))?")


def expand(pattern: str) -> str:
    """Return a pattern with its ``{lang}`` written out: for ``*``, and for a folder of files named by language.

    Raises:
        LnbenchError: the folder holds no such files, or files of several kinds.
    """
    if _PLACE in pattern:
        return pattern
    if Path(pattern).expanduser().is_dir():
        patterns = {suffix: f"{pattern.rstrip('/')}/{_PLACE}{suffix}" for suffix in READERS}
        kinds = [suffix for suffix, inside in patterns.items() if _matching(inside)]
        if len(kinds) != 1:
            raise LnbenchError(
                f"the corpus folder {pattern} should hold files {{lang}}{' or {lang}'.join(READERS)} of one kind; it "
                f"has {', '.join(kinds) or 'no files'}"
            )
        return patterns[kinds[0]]
    return pattern.replace("*", _PLACE)


def languages_of(pattern: str) -> list[str]:
    """Return the languages that a corpus has files for, sorted.

    Raises:
        LnbenchError: no file matches, or the pattern does not show the languages, so they must be named.
    """
    pattern = expand(pattern)
    if is_hub(pattern):
        raise LnbenchError(f"the languages of the hub dataset {pattern} cannot be listed: name them with languages=")
    suffix_of(pattern)
    if _PLACE not in pattern:
        raise LnbenchError(f"the corpus {pattern} has no {{lang}} in it: name its language with languages=")
    languages = _matching(pattern)
    if not languages:
        raise LnbenchError(f"no file matches the corpus pattern {pattern}")
    return languages


def choose_languages(pattern: str, languages: Sequence[str] | None = None) -> list[str]:
    """Return ``languages`` if the corpus can serve them, and all that it has without them.

    Raises:
        LnbenchError: several languages for a pattern without ``{lang}``, or a file is missing.
    """
    if languages is None:
        return languages_of(pattern)
    pattern = expand(pattern)
    if len(set(languages)) > 1 and _PLACE not in pattern:
        raise LnbenchError(
            f"the corpus {pattern} has no {{lang}} in it, so it cannot serve several languages ({', '.join(languages)})"
        )
    for language in languages:
        if not is_hub(pattern):
            file_of(pattern, language)
    return list(languages)


def is_hub(pattern: str) -> bool:
    """Return whether an expanded pattern names a dataset of the Hugging Face hub."""
    return not pattern.endswith(tuple(READERS)) and _HUB.fullmatch(pattern) is not None


def hub_parts(pattern: str, language: str) -> tuple[str, str, str | None]:
    """Return repository, configuration and, where one is pinned, revision of a hub pattern."""
    match = _HUB.fullmatch(pattern.replace(_PLACE, language))
    if match is None:
        raise LnbenchError(f"{language!r} is not the name of a language: letters, digits, - and _ only")
    return match["repo"], match["config"], match["revision"]


def file_of(pattern: str, language: str) -> Path:
    """Return the file of ``language``.

    Raises:
        LnbenchError: there is none, or the pattern is of an unknown kind.
    """
    suffix_of(pattern)
    if not re.fullmatch(_LANGUAGE, language):
        raise LnbenchError(f"{language!r} is not the name of a language: letters, digits, - and _ only")
    path = Path(pattern.replace(_PLACE, language)).expanduser()
    if path.is_file():
        return path
    if _PLACE not in pattern:
        raise LnbenchError(f"no such corpus file: {pattern}")
    languages = ", ".join(_matching(pattern)) or "none"
    raise LnbenchError(f"the corpus {pattern} has no file for {language}; it has: {languages}")


def suffix_of(pattern: str) -> str:
    """Return the suffix that says how the pattern's files are read.

    Raises:
        LnbenchError: there is no reader for it.
    """
    for suffix in sorted(READERS, key=len, reverse=True):
        if pattern.endswith(suffix):
            return suffix
    raise LnbenchError(
        f"the corpus {pattern} is neither a file of a known kind ({' '.join(READERS)}) nor a hub dataset "
        "(repository:configuration)"
    )


def _matching(pattern: str) -> list[str]:
    """Return the languages for which a file exists, sorted."""
    first, *others = str(Path(pattern).expanduser()).split(_PLACE)
    middle = [re.escape(others[0]), *("(?P=lang)" + re.escape(part) for part in others[1:])]
    expression = re.compile(f"{re.escape(first)}(?P<lang>{_LANGUAGE}){''.join(middle)}")
    paths = glob.glob("*".join(map(glob.escape, [first, *others])))  # noqa: PTH207 (a pattern may be absolute)
    return sorted(match["lang"] for path in paths if (match := expression.fullmatch(path)) and Path(path).is_file())
