"""A corpus: the documents of one language, in a fixed order, with a report on what they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from lnbench import files
from lnbench.corpora.documents import Document, TextReport, screened
from lnbench.corpora.hub import SPLIT, read_hub, resolve_revision
from lnbench.corpora.patterns import expand, file_of, hub_parts, is_hub, suffix_of
from lnbench.corpora.readers import read_file
from lnbench.corpora.shuffle import shuffled
from lnbench.errors import LnbenchError

_COUNTED_BYTES = 100_000_000


@dataclass
class Corpus:
    """The documents of one language: iterate over it, as often as needed, for texts that are never blank.

    Files hold one document per line, ``.jsonl`` and ``.jsonl.gz`` as objects with ``text``, ``.txt`` and ``.txt.gz`` as
    they are; or one per row, ``.parquet`` in a column ``text``. A path without ``{lang}`` is the language's own file.

    Attributes:
        pattern: The corpus pattern.
        language: The language, as it is in file names and configurations.
        seed: Seed of the order. Equal seeds give equal orders.
        shuffle: Whether the order is shuffled at all.
        dedup: Drop documents that repeat an earlier one, white space and Unicode composition aside. This holds about
            100 bytes for every document read.
        drop_wrong_script: Drop documents whose letters are mostly not of the language's scripts.
        path: The language's file; None for a dataset of the hub.
        report: What the latest iteration, or the latest :func:`lnbench.blocks` over this corpus, has met so far.

    Raises:
        LnbenchError: the pattern names no file of the language, or is of an unknown kind.
    """

    pattern: str
    language: str
    _: KW_ONLY
    seed: int = 0
    shuffle: bool = True
    dedup: bool = False
    drop_wrong_script: bool = False
    path: Path | None = field(init=False, compare=False)
    report: TextReport = field(default_factory=TextReport, init=False, compare=False)

    def __post_init__(self) -> None:
        self.pattern = expand(self.pattern)
        self.path = None if is_hub(self.pattern) else file_of(self.pattern, self.language)

    @cached_property
    def source(self) -> dict[str, Any]:
        """What the text is, whatever its order: a file's ``sha256``, or a hub dataset's ``repo config split revision``.

        The revision is the commit that is read; None where the hub cannot be reached.

        Raises:
            LnbenchError: the file is unreadable.
        """
        if self.path is None:
            repo, config, revision = hub_parts(self.pattern, self.language)
            return {"repo": repo, "config": config, "split": SPLIT, "revision": resolve_revision(repo, revision)}
        try:
            state = self.path.stat()
            return {"sha256": _sha256(self.path.resolve(), state.st_size, state.st_mtime_ns)}
        except OSError as error:
            raise LnbenchError(f"cannot read {self.path}: {error.strerror or error}") from error

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of the content, its order, and which of it is dropped."""
        order = self.seed if self.shuffle else None
        dropped = [name for name in ("dedup", "drop_wrong_script") if getattr(self, name)]
        return files.fingerprint({"content": files.fingerprint(self.source), "order": order, "dropped": dropped})

    def __iter__(self) -> Iterator[str]:
        """Yield the texts.

        Raises:
            LnbenchError: the text cannot be read, or there is none.
        """
        self.report = report = TextReport()
        for document in self.documents():
            report.count(document)
            if document.used:
                yield document.text

    def documents(self) -> Iterator[Document]:
        """Yield every document, also those that are not to be used, with what was found about it.

        Raises:
            LnbenchError: the text cannot be read, or there is none to be used.
        """
        used = 0
        document = None
        for document in screened(
            self._read(), self.language, dedup=self.dedup, drop_wrong_script=self.drop_wrong_script
        ):
            used += document.used
            yield document
        if not used:
            why = "" if document is None else ": every document is empty or in another script"
            raise LnbenchError(f"the corpus {self.pattern} has no text for {self.language}{why}")

    def count(self) -> int | None:
        """Count the documents, empty and repeated ones included; None where that would take long."""
        if self.path is None or self.path.stat().st_size > _COUNTED_BYTES:
            return None
        return sum(1 for _ in read_file(self.path, suffix_of(self.pattern)))

    def _read(self) -> Iterator[str]:
        if self.path is None:
            repo, config, revision = (self.source[name] for name in ("repo", "config", "revision"))
            return read_hub(repo, config, revision, self.seed if self.shuffle else None)
        documents = read_file(self.path, suffix_of(self.pattern))
        return shuffled(documents, self.seed) if self.shuffle else documents


open_corpus = Corpus
"""The documents of a language in a corpus, under the name that says what calling it does."""


def fingerprint(pattern: str, language: str) -> str:
    """Return a short hash of the text of ``language``, whatever its order and place: of :attr:`Corpus.source`.

    Raises:
        LnbenchError: the file is missing or unreadable.
    """
    return files.fingerprint(Corpus(pattern, language).source)


@cache
def _sha256(path: Path, _size: int, _modified: int) -> str:
    """Return the SHA-256 of a file, taken once per process as long as size and time of change stay."""
    return files.file_sha256(path)
