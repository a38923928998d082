"""Corpus patterns: what they name, and the languages that files exist for."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from lnbench.corpora.pseudo_languages import joined, split_forms
from lnbench.corpora.readers import READERS
from lnbench.errors import LnbenchError

_PLACE = "{lang}"
_KINDS = ".jsonl .ndjson .json .txt .csv .tsv, each also with .gz .zst .bz2 .xz; .parquet"
_LANGUAGE = r"[A-Za-z0-9_\-]+"
_CLONE = re.compile(r"(?P<repo>(?:[~./]|[^:/]+/[^:/]+/)[^:]*):(?P<config>[^/\\\\@:]+)")
"""A folder on this machine that holds a dataset as the hub does."""
_HUB = re.compile(r"(?P<repo>[\w.{}\-]+(/[\w.{}\-]+)?):(?P<config>[^/\\@]+)(@(?P<revision>[\w./\-]+))?")


def expand(pattern: str) -> str:
    """Return a pattern with its ``{lang}`` written out: for ``*``, and for a folder of files named by language.

    Raises:
        LnbenchError: the folder holds no such files, or files of several kinds; an unknown form behind ``|``.
    """
    native, forms = split_forms(pattern)
    return joined(_expanded(native), forms)


def _expanded(pattern: str) -> str:
    if _PLACE in pattern:
        return pattern
    if Path(pattern).expanduser().is_dir():
        patterns = {suffix: f"{pattern.rstrip('/')}/{_PLACE}{suffix}" for suffix in READERS}
        kinds = [suffix for suffix, inside in patterns.items() if _matching(inside)]
        if not kinds and _matching(folders := f"{pattern.rstrip('/')}/{_PLACE}"):
            return folders
        if len(kinds) != 1:
            raise LnbenchError(
                f"the corpus folder {pattern} should hold files {{lang}}.jsonl.gz (or of one other kind: {_KINDS}), or "
                f"a folder of them per language; it has {', '.join(kinds) or 'no such files'}"
            )
        return patterns[kinds[0]]
    return pattern.replace("*", _PLACE)


def languages_of(pattern: str) -> list[str]:
    """Return the languages that a corpus has files for, sorted.

    Raises:
        LnbenchError: no file matches, or the pattern does not show the languages, so they must be named.
    """
    pattern, _ = split_forms(expand(pattern))
    if is_hub(pattern):
        raise LnbenchError(f"the languages of the hub dataset {pattern} cannot be listed: name them with languages=")
    _check_kind(pattern)
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
            files_of(pattern, language)
    return list(languages)


def is_hub(pattern: str) -> bool:
    """Return whether an expanded pattern names a dataset of the Hugging Face hub, or a clone of one."""
    pattern, _ = split_forms(pattern)
    return not pattern.endswith(tuple(READERS)) and bool(_HUB.fullmatch(pattern) or _CLONE.fullmatch(pattern))


def hub_parts(pattern: str, language: str) -> tuple[str, str, str | None]:
    """Return repository, configuration and, where one is pinned, revision of a hub pattern."""
    pattern, _ = split_forms(pattern)
    named = pattern.replace(_PLACE, language)
    if not re.fullmatch(_LANGUAGE, language) or not (match := _HUB.fullmatch(named) or _CLONE.fullmatch(named)):
        raise LnbenchError(f"{language!r} is not the name of a language: letters, digits, - and _ only")
    return match["repo"], match["config"], match.groupdict().get("revision")


def files_of(pattern: str, language: str) -> list[Path]:
    """Return the files of ``language``: one, the shards that ``*`` names, or those of a folder, in order.

    Of a folder with files named by splits, those of the split ``train`` are read, as from the hub.

    Raises:
        LnbenchError: there is none, they are of several kinds, or the pattern is of an unknown kind.
    """
    pattern, _ = split_forms(pattern)
    _check_kind(pattern)
    if not re.fullmatch(_LANGUAGE, language):
        raise LnbenchError(f"{language!r} is not the name of a language: letters, digits, - and _ only")
    path = Path(pattern.replace(_PLACE, language)).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir() and not path.name.endswith(tuple(READERS)):
        return _files_in(path)
    matches = map(Path, glob.glob(_escaped(str(path))))  # noqa: PTH207 (a pattern may be absolute)
    if files := sorted(match for match in matches if match.is_file()):
        return files
    if _PLACE not in pattern:
        raise LnbenchError(f"no such corpus file: {pattern}")
    languages = ", ".join(_matching(pattern)) or "none"
    raise LnbenchError(f"the corpus {pattern} has no file for {language}; it has: {languages}")


def _files_in(folder: Path) -> list[Path]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name.endswith(tuple(READERS))]
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    files = [path for path in files if path.name.startswith("train")] or files
    kinds = sorted({suffix_of(path.name) for path in files})
    if len(kinds) != 1:
        raise LnbenchError(
            f"the corpus folder {folder} should hold files of one kind ({_KINDS}); it has "
            f"{', '.join(kinds) or 'none'}: name them as in {folder}/*.parquet"
        )
    return files


def suffix_of(name: str) -> str:
    """Return the suffix that says how a file is read.

    Raises:
        LnbenchError: there is no reader for it.
    """
    for suffix in sorted(READERS, key=len, reverse=True):
        if name.endswith(suffix):
            return suffix
    raise LnbenchError(
        f"the corpus {name} is neither a file of a known kind ({_KINDS}), a folder, nor a hub dataset "
        "(repository:configuration)"
    )


def _check_kind(pattern: str) -> None:
    """Refuse a pattern that names neither files of a known kind nor folders."""
    if not _matching_folders(pattern):
        suffix_of(pattern)


def _matching_folders(pattern: str) -> bool:
    named = _escaped(str(Path(pattern).expanduser()).replace(_PLACE, "*"))
    return any(Path(path).is_dir() for path in glob.iglob(named))  # noqa: PTH207 (a pattern may be absolute)


def _escaped(path: str) -> str:
    """Return a path whose ``*`` alone are wildcards."""
    return glob.escape(path).replace("[*]", "*")


def _matching(pattern: str) -> list[str]:
    """Return the languages for which a file, or a folder of shards, exists, sorted."""
    first, *others = str(Path(pattern).expanduser()).split(_PLACE)
    start, *rest = (re.escape(part).replace(r"\*", "[^/]*") for part in (first, *others))
    expression = re.compile(f"{start}(?P<lang>{_LANGUAGE}){'(?P=lang)'.join(rest)}")
    paths = glob.glob("*".join(map(_escaped, [first, *others])))  # noqa: PTH207 (a pattern may be absolute)
    matches = {match["lang"] for path in paths if (match := expression.fullmatch(path)) and _holds_text(Path(path))}
    return sorted(matches)


def _holds_text(path: Path) -> bool:
    """Return whether a path is a file, or a folder of corpus files where no suffix is named."""
    if path.is_file():
        return True
    named = path.name.endswith(tuple(READERS))
    return not named and path.is_dir() and any(inside.name.endswith(tuple(READERS)) for inside in path.rglob("*"))
