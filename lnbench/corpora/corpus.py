"""A corpus: the documents of one language, in a fixed order, with a report on what they are."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cache, cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from lnbench import files
from lnbench.corpora.documents import Document, TextReport, screened
from lnbench.corpora.hub import SPLIT, clone_files, is_clone, read_hub, resolve_revision
from lnbench.corpora.patterns import expand, files_of, hub_parts, is_hub, suffix_of
from lnbench.corpora.pseudo_languages import account, rewriting, split_forms
from lnbench.corpora.readers import TEXT, BadLine, read_file
from lnbench.corpora.shuffle import shuffled
from lnbench.data_folder import name_of_text
from lnbench.errors import LnbenchError

log = logging.getLogger(__name__)
_COUNTED_BYTES = 100_000_000
_LOGGED_LINES = 3
"""Bad lines that are logged one by one."""
_CHECKED_LINES = 2_000
"""Lines of a text whose languages are looked at before a model is loaded."""
OnBadLine = Literal["stop", "skip"]


@dataclass
class Corpus:
    """The documents of one language: iterate over it, as often as needed, for texts that are never blank.

    Files hold one document per line, ``.jsonl`` (also ``.ndjson``, ``.json``) as objects with ``text``, ``.txt`` as
    they are; or one per row, ``.parquet``, ``.csv`` and ``.tsv`` in a column ``text``; all but ``.parquet`` may be
    compressed (``.gz .zst .bz2 .xz``). A path without ``{lang}`` is the language's own file. Where it names a folder,
    or has a ``*`` beside ``{lang}``, they are read one after the other.

    Attributes:
        pattern: The corpus pattern. ``|romanised`` or ``|shuffled`` behind it puts the text into that form, once it
            is screened.
        language: The language, as it is in file names and configurations.
        seed: Seed of the order. Equal seeds give equal orders.
        shuffle: Whether the order is shuffled at all.
        dedup: Drop documents that repeat an earlier one, white space and Unicode composition aside. This holds about
            100 bytes for every document read.
        drop_wrong_script: Drop documents whose letters are mostly not of the language's scripts.
        text_column: Column, or entry of an object, with the text.
        on_bad_line: ``stop`` at a line that holds no document, or ``skip`` it, counted in the report.
        max_foreign: Share of lines in another language or script above which reading stops; no limit if None.
        half: 0 or 1: every other document alone, in the order in which they are read; all if None.
        files: The language's files; None for a dataset of the hub or a clone of one.
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
    text_column: str = TEXT
    on_bad_line: OnBadLine = "stop"
    max_foreign: float | None = None
    half: int | None = None
    files: tuple[Path, ...] | None = field(init=False, compare=False)
    report: TextReport = field(default_factory=TextReport, init=False, compare=False)

    def __repr__(self) -> str:
        return f"Corpus({self.language!r}, {name_of_text(self.pattern)!r})"

    def __post_init__(self) -> None:
        self.pattern = expand(self.pattern)
        if is_hub(self.pattern):
            self.files = None
            hub_parts(self.pattern, self.language)
        else:
            self.files = tuple(files_of(self.pattern, self.language))

    @cached_property
    def source(self) -> dict[str, Any]:
        """What the text is, whatever its order and place.

        For files the ``sha256`` of each; for a hub dataset its ``repo config split revision``, where the revision is
        the commit that is read, None where the hub cannot be reached; for a local clone of one, ``config split`` and
        the ``sha256`` of its files. ``text_column``, where it is not ``text``; ``forms`` of a pseudo-language, and the
        version of ``uroman`` that romanises.

        Raises:
            LnbenchError: a file is unreadable.
        """
        column = {} if self.text_column == TEXT else {"text_column": self.text_column}
        column |= account(split_forms(self.pattern)[1])
        if self.files is not None:
            return {"sha256": checksums[0] if len(checksums := _checksums(self.files)) == 1 else checksums, **column}
        repo, config, revision = hub_parts(self.pattern, self.language)
        read = {"config": config, "split": SPLIT, **column}
        if is_clone(repo):
            return {"repo": Path(repo).name, **read, "sha256": _checksums(clone_files(repo, config))}
        return {"repo": repo, **read, "revision": resolve_revision(repo, revision)}

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of the content, its order, and which of it is dropped."""
        order = self.seed if self.shuffle else None
        dropped = [name for name in ("dedup", "drop_wrong_script") if getattr(self, name)]
        half = {} if self.half is None else {"half": self.half}
        return files.fingerprint({"content": files.fingerprint(self.source), "order": order, "dropped": dropped} | half)

    def __iter__(self) -> Iterator[str]:
        """Yield the texts.

        Raises:
            LnbenchError: the text cannot be read, or there is none.
        """
        self.report = report = TextReport()
        for document in self.documents():
            report.count(document, self.language)
            report.check(self.language, self.max_foreign, complete=False)
            if document.used:
                yield document.text
        report.check(self.language, self.max_foreign)

    def check(self) -> None:
        """Look at the beginning of the text: whether it can be read as asked, and is in its language if that matters.

        Raises:
            LnbenchError: not so.
        """
        if self.files is None and not is_clone(hub_parts(self.pattern, self.language)[0]):
            return  # Reading a stream twice is not worth it.
        begun = replace(self, shuffle=self.shuffle and self.max_foreign is not None)
        for _ in begun:
            if self.max_foreign is None or begun.report.lines > _CHECKED_LINES:
                break
        begun.report.check(self.language, self.max_foreign)

    def documents(self) -> Iterator[Document]:
        """Yield every document, also those that are not to be used, with what was found about it.

        Raises:
            LnbenchError: the text cannot be read, or there is none to be used; uroman is needed and is not installed.
        """
        if not (forms := split_forms(self.pattern)[1]):
            yield from self.native_documents()
            return
        rewrite = rewriting(forms, self.language)
        for document in self.native_documents():
            text = rewrite(document.text) if document.used else document.text
            yield document._replace(text=text, native=document.text)

    def native_documents(self) -> Iterator[Document]:
        """Yield the documents of :meth:`documents` as they are before they are put into other forms."""
        used = 0
        document = None
        for document in screened(
            self._read(), self.language, dedup=self.dedup, drop_wrong_script=self.drop_wrong_script
        ):
            used += document.used
            yield document
        if not used:
            why = "" if document is None else ": every document is empty, bad or in another script"
            raise LnbenchError(f"the corpus {self.pattern} has no text for {self.language}{why}")

    def count(self) -> int | None:
        """Count the documents, empty and repeated ones included; None where that would take long."""
        if self.files is None or sum(file.stat().st_size for file in self.files) > _COUNTED_BYTES:
            return None
        return sum(1 for _ in self._documents_of_files())

    def _read(self) -> Iterator[str]:
        return self._ordered() if self.half is None else islice(self._ordered(), self.half, None, 2)

    def _ordered(self) -> Iterator[str]:
        if self.files is None:
            repo, config, _ = hub_parts(self.pattern, self.language)
            seed = self.seed if self.shuffle else None
            return read_hub(repo, config, self.source.get("revision"), seed, self.text_column)
        documents = self._judged(self._documents_of_files())
        return shuffled(documents, self.seed) if self.shuffle else documents

    def _documents_of_files(self) -> Iterator[str]:
        return chain.from_iterable(read_file(file, suffix_of(file.name), self.text_column) for file in self.files or ())

    def _judged(self, documents: Iterator[str]) -> Iterator[str]:
        """Yield the documents; a bad line stops this, or is logged."""
        bad = 0
        for document in documents:
            if isinstance(document, BadLine):
                bad += 1
                if self.on_bad_line == "stop":
                    raise LnbenchError(f"{document.reason}; --on-bad-line skip leaves such lines out and counts them")
                if bad <= _LOGGED_LINES:
                    log.warning("%s; skipped", document.reason)
            yield document


open_corpus = Corpus

"""The documents of a language in a corpus, under the name that says what calling it does."""


def check_texts(pattern: str, languages: Sequence[str], **options: Any) -> None:
    """Look at the beginning of each language's text, before minutes are spent on loading a model.

    Args:
        pattern: Corpus pattern.
        languages: Whose text.
        options: How it is read, see :class:`Corpus`.

    Raises:
        LnbenchError: one cannot be read as asked.
    """
    for language in languages:
        Corpus(pattern, language, **options).check()


def fingerprint(pattern: str, language: str, text_column: str = TEXT) -> str:
    """Return a short hash of the text of ``language``, whatever its order and place: of :attr:`Corpus.source`.

    Raises:
        LnbenchError: the file is missing or unreadable.
    """
    return files.fingerprint(Corpus(pattern, language, text_column=text_column).source)


def _checksums(paths: Iterable[Path]) -> list[str]:
    checksums = []
    for path in paths:
        try:
            state = path.stat()
            checksums.append(_sha256(path.resolve(), state.st_size, state.st_mtime_ns))
        except OSError as error:
            raise LnbenchError(f"cannot read {path}: {error.strerror or error}") from error
    return checksums


@cache
def _sha256(path: Path, _size: int, _modified: int) -> str:
    """Return the SHA-256 of a file, taken once per process as long as size and time of change stay."""
    return files.file_sha256(path)
