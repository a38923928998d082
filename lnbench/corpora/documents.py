"""Documents of one language, screened: which are empty, repeated, or in another script, and how many there are."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from lnbench.corpora.identification import (
    UNKNOWN,
    is_identifiable,
    languages_of_lines,
    lines_of,
    same_language,
)
from lnbench.corpora.readers import BadLine
from lnbench.corpora.scripts import main_script, mostly_other, scripts_of
from lnbench.errors import LnbenchError

Finding = Literal["empty", "bad_lines", "duplicates", "wrong_script"]
_ENOUGH_LINES = 200
"""Lines after which shares are compared with a limit, before the end of the text."""


class Document(NamedTuple):
    """A screened document.

    Attributes:
        text: Its text.
        finding: What is wrong with it, if anything: the field of :class:`TextReport` that counts it.
        used: Whether its text is passed on.
        native: Of a pseudo-language's document, the text that it was made from.
    """

    text: str
    finding: Finding | None = None
    used: bool = True
    native: str | None = None


def screened(
    texts: Iterable[str], language: str = "", *, dedup: bool = False, drop_wrong_script: bool = False
) -> Iterator[Document]:
    """Yield every document, also those that are not to be used, with what was found about it."""
    scripts = scripts_of(language)
    seen: set[int] = set()
    for text in texts:
        if isinstance(text, BadLine):
            yield Document(text, "bad_lines", used=False)
            continue
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
        bad_lines: Lines of the file that hold no document, skipped; they count as documents.
        lines: Lines of the documents passed on, by line breaks and ends of sentences; 0 without a language code. Of a
            pseudo-language, those of the native text.
        foreign: Those mostly in other scripts than the language's, or identified as another language.
        scripts: Lines by the script of most of their letters.
        languages: Lines by identified language; ``und`` where none fits.
    """

    documents: int = 0
    empty: int = 0
    duplicates: int = 0
    wrong_script: int = 0
    used: int = 0
    characters: int = 0
    bad_lines: int = 0
    lines: int = 0
    foreign: int = 0
    scripts: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)

    def count(self, document: Document, language: str = "") -> None:
        """Count one more document; its lines too, where the code of its language is given."""
        self.documents += 1
        if document.finding is not None:
            setattr(self, document.finding, getattr(self, document.finding) + 1)
        if document.used:
            self.used += 1
            self.characters += len(document.text)
            if language:
                self._count_lines(document.text if document.native is None else document.native, language)

    def _count_lines(self, text: str, language: str) -> None:
        own, identifiable = scripts_of(language), is_identifiable(language)
        for line in lines_of(text):
            script, (identified,) = main_script(line), languages_of_lines([line])
            other_language = identifiable and identified != UNKNOWN and not same_language(language, identified)
            self.lines += 1
            self.foreign += bool(other_language or (own and script and script not in own))
            if script:
                self.scripts[script] = self.scripts.get(script, 0) + 1
            self.languages[identified] = self.languages.get(identified, 0) + 1

    def shares(self) -> dict[str, Any]:
        """Return the shares of the lines: ``foreign``, and by ``scripts`` and ``languages``, the largest first."""

        def of(counts: Mapping[str, int]) -> dict[str, float]:
            return {name: round(count / self.lines, 4) for name, count in Counter(counts).most_common()}

        foreign = round(self.foreign / self.lines, 4) if self.lines else None
        return {"lines": self.lines, "foreign": foreign, "scripts": of(self.scripts), "languages": of(self.languages)}

    def check(self, language: str, most: float | None, *, complete: bool = True) -> None:
        """Compare the share of foreign lines with a limit.

        Args:
            language: The language's code.
            most: The limit; None for no limit.
            complete: Whether the text has ended; before that, a few lines say nothing.

        Raises:
            LnbenchError: there are more.
        """
        enough = 1 if complete else _ENOUGH_LINES
        if most is not None and self.lines >= enough and self.foreign > most * self.lines:
            raise LnbenchError(
                f"{self.foreign / self.lines:.1%} of {self.lines:,} lines are not in {language} "
                f"({self._composition()}), more than the limit of {most:.1%}: clean the text, or raise --max-foreign"
            )

    def _composition(self) -> str:
        languages, scripts = (
            ", ".join(f"{count / self.lines:.1%} {name}" for name, count in Counter(counts).most_common(3))
            for counts in (self.languages, self.scripts)
        )
        return f"identified: {languages}; scripts: {scripts}"

    def __add__(self, other: TextReport) -> TextReport:
        both: dict[str, Any] = {}
        for name, value in vars(self).items():
            added = getattr(other, name)
            both[name] = dict(Counter(value) + Counter(added)) if isinstance(value, dict) else value + added
        return TextReport(**both)

    def sentence(self, language: str) -> str:
        """Return one line: ``hi: 1,763 documents; 0 empty; 12 duplicates dropped; 3 not in Devanagari …``."""
        counts = f"{self.documents:,} documents; {self.empty:,} empty; {self.duplicates:,} duplicates dropped"
        if scripts := scripts_of(language):
            dropped = self.documents - self.used - self.empty - self.duplicates - self.bad_lines
            named = " or ".join(filter(None, (", ".join(scripts[:-1]), scripts[-1])))
            counts += f"; {self.wrong_script:,} not in {named}" + (", dropped" if dropped else "")
        if self.bad_lines:
            counts += f"; {self.bad_lines:,} bad lines skipped"
        if self.lines:
            foreign = f"{self.foreign / self.lines:.1%} not in {language}"
            counts += f"; of {self.lines:,} lines {foreign} ({self._composition()})"
        return f"{language}: {counts}"
