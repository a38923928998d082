"""What a language's text turned out to be: how many documents, how many of them empty, repeated, in another script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from lnbench.corpora.scripts import scripts_of

Finding = Literal["empty", "duplicates", "wrong_script"]


class Document(NamedTuple):
    """A document that has been looked at.

    Attributes:
        text: Its text.
        finding: What is wrong with it, if anything: the field of :class:`TextReport` that counts it.
        used: Whether its text is passed on.
    """

    text: str
    finding: Finding | None = None
    used: bool = True


@dataclass
class TextReport:
    """Counts over the documents of one language.

    ``a + b`` is the report on both. Plain numbers throughout: ``asdict(report)`` is JSON, and ``TextReport(**values)``
    reads it.

    Attributes:
        documents: Documents read.
        empty: Those without any text; they are passed over.
        duplicates: Those that repeat an earlier one, dropped; 0 where nobody looked for them.
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
        """Enter one more document."""
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
        parts = [
            f"{self.documents:,} documents",
            f"{self.empty:,} empty",
            f"{self.duplicates:,} duplicates dropped",
        ]
        if scripts := scripts_of(language):
            dropped = self.documents - self.used - self.empty - self.duplicates
            named = " or ".join(filter(None, (", ".join(scripts[:-1]), scripts[-1])))
            parts.append(f"{self.wrong_script:,} not in {named}" + (", dropped" if dropped else ""))
        return f"{language}: {'; '.join(parts)}"
