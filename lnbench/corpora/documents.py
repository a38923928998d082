"""Documents of one language, screened: which are empty, repeated, or in another script, and how many there are."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, NamedTuple

from lnbench.corpora.scripts import mostly_other, scripts_of

Finding = Literal["empty", "duplicates", "wrong_script"]


class Document(NamedTuple):
    """A screened document.

    Attributes:
        text: Its text.
        finding: What is wrong with it, if anything: the field of :class:`TextReport` that counts it.
        used: Whether its text is passed on.
    """

    text: str
    finding: Finding | None = None
    used: bool = True


def screened(
    texts: Iterable[str], language: str = "", *, dedup: bool = False, drop_wrong_script: bool = False
) -> Iterator[Document]:
    """Yield every document, also those that are not to be used, with what was found about it."""
    scripts = scripts_of(language)
    seen: set[int] = set()
    for text in texts:
        if not text.strip():
            yield Document(text, "empty", used=False)
            continue
        if dedup:
            hashed = text_hash(text)
            if hashed in seen:
                yield Document(text, "duplicates", used=False)
                continue
            seen.add(hashed)
        foreign = bool(scripts) and mostly_other(text, scripts)
        yield Document(text, "wrong_script", used=not drop_wrong_script) if foreign else Document(text)


def text_hash(text: str) -> int:
    """Return eight bytes that are equal for texts that differ only in white space or in Unicode composition (NFC)."""
    normal = " ".join(unicodedata.normalize("NFC", text).split())
    return int.from_bytes(blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@dataclass
class TextReport:
    """Counts over the documents of one language.

    ``a + b`` is the report on both. Plain numbers throughout: ``asdict(report)`` is JSON, and ``TextReport(**values)``
    reads it.

    Attributes:
        documents: Documents read.
        empty: Those without any text; they are passed over.
        duplicates: Those that repeat an earlier one, dropped; 0 without ``dedup``.
        wrong_script: Those whose letters are mostly not of the language's scripts; 0 where these are not known.
        used: Those passed on.
        characters: Characters in the documents passed on.
    """

    documents: int = 0
    empty: int = 0
    duplicates: int = 0
    wrong_script: int = 0
    used: int = 0
    characters: int = 0

    def count(self, document: Document) -> None:
        """Count one more document."""
        self.documents += 1
        if document.finding is not None:
            setattr(self, document.finding, getattr(self, document.finding) + 1)
        if document.used:
            self.used += 1
            self.characters += len(document.text)

    def __add__(self, other: TextReport) -> TextReport:
        return TextReport(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def sentence(self, language: str) -> str:
        """Return one line: ``hi: 1,763 documents; 0 empty; 12 duplicates dropped; 3 not in Devanagari``."""
        counts = f"{self.documents:,} documents; {self.empty:,} empty; {self.duplicates:,} duplicates dropped"
        if scripts := scripts_of(language):
            dropped = self.documents - self.used - self.empty - self.duplicates
            named = " or ".join(filter(None, (", ".join(scripts[:-1]), scripts[-1])))
            counts += f"; {self.wrong_script:,} not in {named}" + (", dropped" if dropped else "")
        return f"{language}: {counts}"
