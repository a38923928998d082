"""Screening documents: empty ones, repeated ones, and ones in another script."""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from hashlib import blake2b

from lnbench.corpora.scripts import mostly_other, scripts_of
from lnbench.corpora.text_report import Document


def screened(texts: Iterable[str], language: str, *, dedup: bool, drop_wrong_script: bool) -> Iterator[Document]:
    """Every document with what was found about it; those that are not to be used included."""
    scripts = scripts_of(language)
    seen = HashSet()
    for text in texts:
        if not text.strip():
            yield Document(text, "empty", used=False)
        elif dedup and not seen.add(content_hash(text)):
            yield Document(text, "duplicates", used=False)
        elif scripts and mostly_other(text, scripts):
            yield Document(text, "wrong_script", used=not drop_wrong_script)
        else:
            yield Document(text)


def content_hash(text: str) -> int:
    """Eight bytes that are equal for texts that differ only in white space or in Unicode composition (NFC)."""
    normal = " ".join(unicodedata.normalize("NFC", text).split())
    return int.from_bytes(blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class HashSet:
    """A set of 8-byte hashes in 12 to 24 bytes each (a Python set takes about 100), and half as much again as it grows.

    Open addressing with linear probing in a table of a power of two, at most two thirds full.
    """

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 * 1024))
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes that the table takes."""
        return 8 * len(self._table)

    def add(self, value: int) -> bool:
        """Enter ``value``, between 0 and 2**64 - 1; False if it was there."""
        value = value or 1  # 0 marks a free slot
        if not self._place(value):
            return False
        self._size += 1
        if 3 * self._size > 2 * len(self._table):
            old, self._table = self._table, array("Q", bytes(16 * len(self._table)))
            for one in old:
                if one:
                    self._place(one)
        return True

    def _place(self, value: int) -> bool:
        mask = len(self._table) - 1
        slot = value & mask
        while found := self._table[slot]:
            if found == value:
                return False
            slot = (slot + 1) & mask
        self._table[slot] = value
        return True
