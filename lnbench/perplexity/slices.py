"""The text whose perplexity is measured: one fixed slice per language, as blocks of tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lnbench.corpora.corpus import Corpus
from lnbench.corpora.documents import Document
from lnbench.corpora.packing import blocks
from lnbench.errors import LnbenchError
from lnbench.files import fingerprint
from lnbench.perplexity.matrix import SliceAccount
from lnbench.perplexity.token_bytes import byte_lengths
from lnbench.special_tokens import Frame, frame_tokens
from lnbench.statistics import Statistics

_ORDER = ("seed", "dedup", "drop_wrong_script")
"""What decides which documents come when, as Statistics record it."""
AHEAD = {"next": 1, "paper": 2}
"""Choices of ``labels`` → how far after a position the token is that is scored there."""
_CHARACTERS_PER_TOKEN = 64
"""More than a token has, averaged over a block."""


@dataclass(frozen=True)
class Slice:
    """One language's text in blocks, with what is counted of it."""

    language: str
    blocks: tuple[Tensor, ...]
    """``LongTensor[length]`` each; the last may be shorter, and so may all in mode ``truncate``."""
    counted: tuple[Tensor, ...]
    """``BoolTensor[length − ahead]`` each: which of the tokens after a block's first ``ahead`` are text. Marks between
    documents are not."""
    sizes: NDArray[np.float64]
    """``[blocks]``: UTF-8 bytes of the counted tokens."""
    corpus: str
    documents: int
    overlap: float | None
    """Share of the documents that Statistics were collected from as well; None where that is not known."""
    ahead: int = 1
    """How far after a position the token is that is scored there: 1, the next one."""

    @cached_property
    def tokens(self) -> NDArray[np.float64]:
        """``[blocks]``: counted tokens."""
        return np.array([int(text.sum()) for text in self.counted], dtype=np.float64)

    def account(self) -> SliceAccount:
        """Return what it is, for ``perplexity.json``."""
        return SliceAccount(
            corpus=self.corpus,
            documents=self.documents,
            blocks=len(self.blocks),
            tokens=int(self.tokens.sum()),
            bytes=int(self.sizes.sum()),
            fingerprint=fingerprint([block.tolist() for block in self.blocks]),
            overlap=self.overlap,
        )


@dataclass
class HeldOut(Corpus):
    """A corpus whose documents come so that those that Statistics read come last.

    Files are read from the end of their (shuffled) order backwards, since Statistics are collected from its start. A
    dataset of the hub has no end within reach: its first ``passed_over`` documents are left out.

    Attributes:
        passed_over: Documents at the start that Statistics were collected from.
        enough: Characters after which no more documents are needed.
        longest: Characters of a document that count towards ``enough``, at most.
        total: Documents in the corpus; None for a dataset of the hub. Known once iterated over.
    """

    passed_over: int = 0
    enough: int = 2**62
    longest: int = 2**62
    total: int | None = None

    def native_documents(self) -> Iterator[Document]:
        """Yield the documents, in this order."""
        if self.files is None:
            yield from islice(super().native_documents(), self.passed_over, None)
            return
        held: deque[Document] = deque()
        characters = self.total = 0
        for document in super().native_documents():
            self.total += 1
            held.append(document)
            characters += self._size(document)
            while characters - (first := self._size(held[0])) > self.enough:
                characters -= first
                held.popleft()
        yield from reversed(held)

    def _size(self, document: Document) -> int:
        return min(len(document.text), self.longest) if document.used else 0


def cut(
    tokenizer: Any,
    corpus: str,
    language: str,
    *,
    tokens: int = 10_000,
    length: int = 256,
    mode: str = "pack",
    bos: str = "block",
    chat: bool = False,
    labels: str = "next",
    statistics: Mapping[str, Statistics] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Slice:
    """Cut one language's slice.

    Where Statistics come from the same text, its documents are read in the same order, without those that they read.
    Beyond that, the blocks of a file depend on the other arguments alone.

    Args:
        tokenizer: A Hugging Face tokenizer.
        corpus: Corpus pattern.
        language: Language code, as in the corpus.
        tokens: Tokens to read; what the corpus has, if that is less.
        length: Tokens in a block, BOS included.
        mode: ``pack`` or ``truncate``, see :func:`lnbench.blocks`.
        bos: ``block`` or ``document``, see :func:`lnbench.blocks`.
        chat: Put each document into the chat template, see :func:`lnbench.blocks`; the template's tokens are read, not
            scored.
        labels: What is scored at each position: the ``next`` token; or, as in the ``paper``'s code, the one after it.
        statistics: All Statistics that neurons and new values come from, by language, whose text is to be left out;
            None if they are not known.
        options: How the corpus is read: ``text_column``, ``on_bad_line``, ``max_foreign``.

    Raises:
        LnbenchError: the corpus has no text of the language, or too little for one block.
    """
    enough, longest = tokens * _CHARACTERS_PER_TOKEN, length * _CHARACTERS_PER_TOKEN
    held = HeldOut(corpus, language, enough=enough, longest=longest, **dict(options or {}))
    provenance = statistics[language].provenance if statistics and language in statistics else None
    if provenance and provenance.get("corpus_source") == held.source:
        held = replace(held, **{name: provenance[name] for name in _ORDER if name in provenance})
    read = _documents_read(held, provenance) if statistics is not None else None
    held.passed_over = read or 0
    ahead = AHEAD[labels]
    special = (tokenizer.eos_token_id, tokenizer.bos_token_id if bos == "document" else None)
    marks = torch.tensor([mark for mark in special if mark is not None], dtype=torch.long)
    batches = blocks(held, tokenizer, length, tokens=tokens, mode=mode, bos=bos, chat=chat)
    frame = frame_tokens(tokenizer) if chat else None
    # The budget can end on the mark after a document.
    all_rows = (row for batch in batches for row in _without_padding(batch))
    read_rows = ((row, ~(torch.isin(row, marks) | in_frame(row, frame))[ahead:]) for row in all_rows)
    kept = [(row, text) for row, text in read_rows if text.any()]
    held.report.check(language, held.max_foreign)
    if not kept:
        raise LnbenchError(f"no block of the text of {language!r} has a token to score: read longer blocks")
    rows, counted = [row for row, _ in kept], [text for _, text in kept]
    size = byte_lengths(tokenizer, set(torch.cat(rows).tolist()))
    sizes = [sum(size[token] for token in row[ahead:][text].tolist()) for row, text in zip(rows, counted, strict=True)]
    overlap = None
    if read is not None:
        past_end = 0 if held.total is None else max(0, read + held.report.documents - held.total)
        overlap = past_end / held.report.documents
    return Slice(
        language=language,
        blocks=tuple(rows),
        counted=tuple(counted),
        sizes=np.array(sizes, dtype=np.float64),
        corpus=held.pattern,
        documents=held.report.documents,
        overlap=overlap,
        ahead=ahead,
    )


def in_frame(row: Tensor, frame: Frame | None) -> Tensor:
    """Return which tokens of a row are a chat template's, whole or cut by the row's ends."""
    found = torch.zeros_like(row, dtype=torch.bool)
    if frame is None:
        return found
    tokens = row.tolist()
    for part in (frame.before, frame.after):
        for begin in range(1 - len(part), len(tokens)):
            first, last = max(0, begin), min(len(tokens), begin + len(part))
            if tokens[first:last] == part[first - begin : last - begin]:
                found[first:last] = True
    return found


def _without_padding(batch: Tensor | tuple[Tensor, Tensor]) -> Iterator[Tensor]:
    ids, mask = batch if isinstance(batch, tuple) else (batch, torch.ones_like(batch))
    return (row[real.bool()] for row, real in zip(ids, mask, strict=True))


def _documents_read(held: Corpus, provenance: Mapping[str, Any] | None) -> int | None:
    """Return how many of the corpus's first documents Statistics were collected from; None where that is not known."""
    if provenance is None:
        return 0
    if provenance.get("corpus") == held.fingerprint and "text" in provenance:
        return int(provenance["text"]["documents"])
    return None if provenance.get("corpus_source") in (None, held.source) else 0
