"""The words of a line, as the Language Confusion Benchmark counts them: by jieba in Chinese, by MeCab in Japanese."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from lnbench.errors import LnbenchError
from lnbench.files import cache_dir

_PACKAGES = {"zh": ("jieba",), "ja": ("fugashi", "unidic_lite")}
"""Language → the packages, all of the extra ``cjk``, that split its lines."""
_MECAB = "-O wakati -b 50000"
"""As published: words between spaces; a line of at most so many bytes."""
_LONGEST_LINE = 10_000
"""Characters that MeCab is given at a time, which its buffer has room for."""


def check(language: str) -> None:
    """Check, before anything is generated, that lines of a language can be split into words.

    Raises:
        LnbenchError: a package is missing; the message names the extra.
    """
    if missing := [name for name in _PACKAGES.get(language, ()) if find_spec(name) is None]:
        raise LnbenchError(
            f"words in {language!r} are split by {' and '.join(missing).replace('_', '-')}, which "
            f"{'are' if len(missing) > 1 else 'is'} not installed: pip install 'lnbench[cjk]'"
        )


def words_of(line: str, language: str) -> list[str]:
    """Return the words of a line: by jieba (zh; a space is a word), by MeCab (ja), else between white space.

    Raises:
        LnbenchError: the extra ``cjk`` is needed, and is not installed.
    """
    split = {"zh": _chinese, "ja": _japanese}.get(language)
    return split()(line) if split else line.split()


@cache
def _chinese() -> Callable[[str], list[str]]:
    check("zh")
    with warnings.catch_warnings():
        # Of jieba's own code: escapes in patterns, and pkg_resources.
        warnings.simplefilter("ignore")
        import jieba
    jieba.setLogLevel(logging.WARNING)
    tokenizer: Any = jieba.Tokenizer()
    # By default jieba reads its cache from a folder that everybody can write to.
    folder = cache_dir("jieba")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.tmp_dir = str(folder)
    return lambda line: list(tokenizer.cut(line))


@cache
def _japanese() -> Callable[[str], list[str]]:
    check("ja")
    import unidic_lite
    from fugashi import Tagger

    tagger: Any = Tagger(f'{_MECAB} -d "{unidic_lite.DICDIR}"')

    def split(line: str) -> list[str]:
        parts = (line[start : start + _LONGEST_LINE] for start in range(0, len(line), _LONGEST_LINE))
        return [word for part in parts for word in tagger.parse(part).split()]

    return split
