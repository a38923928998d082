"""Screening documents: empty ones, repeated ones, and ones in another script."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from hashlib import blake2b

from lnbench.corpora.scripts import mostly_other, scripts_of
from lnbench.corpora.text_report import Document


def screened(texts: Iterable[str], language: str, *, dedup: bool, drop_wrong_script: bool) -> Iterator[Document]:
    """Yield every document with what was found about it; those that are not to be used included."""
    scripts = scripts_of(language)
    seen: set[int] = set()
    for text in texts:
        if not text.strip():
            yield Document(text, "empty", used=False)
            continue
        if dedup:
            hashed = content_hash(text)
            if hashed in seen:
                yield Document(text, "duplicates", used=False)
                continue
            seen.add(hashed)
        foreign = bool(scripts) and mostly_other(text, scripts)
        yield Document(text, "wrong_script", used=not drop_wrong_script) if foreign else Document(text)


def content_hash(text: str) -> int:
    """Return eight bytes that are equal for texts that differ only in white space or in Unicode composition (NFC)."""
    normal = " ".join(unicodedata.normalize("NFC", text).split())
    return int.from_bytes(blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
