"""A corpus: the documents of one language, in a fixed order, with an account of what they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from lnbench import files
from lnbench.corpora.hub import SPLIT, read_hub, resolve_revision
from lnbench.corpora.patterns import expand, file_of, hub_parts, is_hub, suffix_of
from lnbench.corpora.readers import read_file
from lnbench.corpora.screen import screened
from lnbench.corpora.shuffle import shuffled
from lnbench.corpora.text_report import Document, TextReport
from lnbench.errors import LnbenchError

_COUNTED_BYTES = 100_000_000


@dataclass
class Corpus:
    """The documents of one language: iterate over it, as often as wanted, for texts that are never blank.

    Attributes:
        pattern: The corpus pattern.
        language: The language, as it is in file names and configurations.
        seed: Seed of the order. Equal seeds give equal orders.
        shuffle: Whether the order is shuffled at all.
        dedup: Drop documents that repeat an earlier one, white space and Unicode composition aside. This holds about
            100 bytes for every document read.
        drop_wrong_script: Drop documents whose letters are mostly not of the language's scripts.
        report: What the latest iteration, or the latest :func:`lnbench.blocks` over this corpus, has met so far.
    """

    pattern: str
    language: str
    seed: int = 0
    shuffle: bool = True
    dedup: bool = False
    drop_wrong_script: bool = False
    report: TextReport = field(default_factory=TextReport, init=False, compare=False)

    def __post_init__(self) -> None:
        self.pattern = expand(self.pattern)

    @cached_property
    def source(self) -> dict[str, Any]:
        """What the text is, whatever its order: a file's ``sha256``, or a hub dataset's ``repo config split revision``.

        The revision is the commit that is read; None where the hub cannot be reached.

        Raises:
            LnbenchError: the file is missing or unreadable.
        """
        if is_hub(self.pattern):
            repo, config, revision = hub_parts(self.pattern, self.language)
            return {"repo": repo, "config": config, "split": SPLIT, "revision": resolve_revision(repo, revision)}
        return {"sha256": _sha256(file_of(self.pattern, self.language))}

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
        found = 0
        document = None
        for document in screened(
            self._read(), self.language, dedup=self.dedup, drop_wrong_script=self.drop_wrong_script
        ):
            found += document.used
            yield document
        if not found:
            why = "" if document is None else ": every document is empty or in another script"
            raise LnbenchError(f"the corpus {self.pattern} has no text for {self.language}{why}")

    def count(self) -> int | None:
        """Count the documents, empty and repeated ones included; None where that would take long."""
        if is_hub(self.pattern):
            return None
        path = file_of(self.pattern, self.language)
        if path.stat().st_size > _COUNTED_BYTES:
            return None
        return sum(1 for _ in read_file(path, suffix_of(self.pattern)))

    def _read(self) -> Iterator[str]:
        if is_hub(self.pattern):
            repo, config, revision = (self.source[name] for name in ("repo", "config", "revision"))
            return read_hub(repo, config, revision, self.seed if self.shuffle else None)
        documents = read_file(file_of(self.pattern, self.language), suffix_of(self.pattern))
        return shuffled(documents, self.seed) if self.shuffle else documents


def open_corpus(
    pattern: str,
    language: str,
    *,
    seed: int = 0,
    shuffle: bool = True,
    dedup: bool = False,
    drop_wrong_script: bool = False,
) -> Corpus:
    """Open the documents of ``language`` in a corpus.

    Files hold one document per line, ``.jsonl`` and ``.jsonl.gz`` as objects with ``text``, ``.txt`` and ``.txt.gz`` as
    they are; or one per row, ``.parquet`` in a column ``text``. A path without ``{lang}`` is the language's own file.
    The options are those of :class:`Corpus`.

    Raises:
        LnbenchError: the pattern names no file of the language, or is of an unknown kind.
    """
    corpus = Corpus(pattern, language, seed, shuffle, dedup, drop_wrong_script)
    if not is_hub(corpus.pattern):
        file_of(corpus.pattern, language)
    return corpus


def fingerprint(pattern: str, language: str) -> str:
    """Return a short hash of the text of ``language``, whatever its order and place: of :attr:`Corpus.source`.

    Raises:
        LnbenchError: the file is missing or unreadable.
    """
    return files.fingerprint(Corpus(pattern, language).source)


def _sha256(path: Path) -> str:
    try:
        state = path.stat()
        return _hashed(path.resolve(), state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise LnbenchError(f"cannot read {path}: {error.strerror or error}") from error


@cache
def _hashed(path: Path, _size: int, _modified: int) -> str:
    """Return the SHA-256 of a file, taken once in a process as long as size and time of change stay."""
    return files.file_sha256(path)
