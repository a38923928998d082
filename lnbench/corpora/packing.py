"""Texts to blocks of tokens: packed, or one document per row; all of them, a shard, or from some row on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lnbench.corpora.corpus import Corpus
from lnbench.corpora.documents import Document, TextReport, screened
from lnbench.errors import LnbenchError, unknown
from lnbench.special_tokens import adds_bos, frame_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    TokenRow = NDArray[np.int64]

MODES = ("pack", "truncate")
BOS_PLACES = ("block", "document")

# What the tokenizer gets in one call: enough to keep its threads busy.
_CALL_CHARACTERS = 200_000
_CALL_PIECES = 1_000
# Tokenizers take time out of proportion to the length of a text, and hundreds of bytes of memory per character.
_PIECE_CHARACTERS = 100_000
# More than a token has, averaged over a row.
_CHARACTERS_PER_TOKEN = 64


def blocks(
    texts: Iterable[str],
    tokenizer: Any,
    length: int = 512,
    batch_size: int = 8,
    tokens: int | None = None,
    drop_last: bool = False,
    *,
    mode: str = "pack",
    bos: str = "block",
    chat: bool = False,
    shard: tuple[int, int] = (0, 1),
    start: int = 0,
    on_skip: Callable[[int], None] | None = None,
) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
    """Cut texts into rows of tokens, and these into batches.

    Documents are tokenised without special tokens. Each row starts with BOS where the tokenizer puts one before
    a text (:mod:`lnbench.special_tokens`).

    ``pack``: the documents are joined to one stream, with EOS between two of them where the tokenizer has one, and the
    stream is cut into rows without any padding. Documents of more than 100,000 characters are tokenised in pieces.
    With ``bos="document"`` BOS begins each document, in place of each row and of EOS between two documents: the
    packing of the published code of *Language-specific Neurons Do Not Facilitate Cross-Lingual Transfer*.

    ``truncate``: each document is a row of its own, in the documents' order, cut to ``length``.

    Args:
        texts: The documents, e.g. :func:`open_corpus`; blank ones are passed over. A :class:`Corpus` has its ``report``
            filled with the documents that the rows are made of.
        tokenizer: A Hugging Face tokenizer.
        length: Positions in a row, BOS included; at least 2.
        batch_size: Rows in a batch. It does not change the rows.
        tokens: Stop after as many tokens (EOS, or BOS of a document, counts; BOS of a row and padding do not); all by
            default.
        drop_last: Drop rows shorter than ``length``: when packed, that is the rest of the stream.
        mode: ``pack`` or ``truncate``.
        bos: What BOS begins: each ``block`` (row), or each ``document``; in mode ``truncate`` the two are one.
        chat: Put each document into the tokenizer's chat template, as a user's turn. Its tokens count as the text's;
            packed, it is what lies between two documents.
        shard: ``(index, count)``, from 0: of all rows, only the rows k with k mod count = index. Budget and order are
            those of the whole, so the shards' rows together are exactly its rows. Each shard reads and tokenises all
            of the text; its report counts every count-th document, so that the reports add up to that of the whole.
        start: Rows of the shard to pass over, to go on where an earlier run stopped. The text before them is read and
            tokenised once more.
        on_skip: Called as each row is passed over, with their number so far.

    Yields:
        ``pack``: ``LongTensor[batch_size, length]``; the last full rows may be a smaller batch, and the rest of the
        stream is a shorter row ``LongTensor[1, n]``.
        ``truncate``: ``(input_ids, attention_mask)``, both ``LongTensor[batch_size, n]`` with n of the batch's longest
        row; shorter ones are padded on the right, where the mask is 0.
        Rows of less than two positions are left out.

    Raises:
        LnbenchError: an argument is out of range, or there is not enough text for one row.
    """
    index, count = shard
    for name, value, least in (
        ("length", length, 2),
        ("batch_size", batch_size, 1),
        ("tokens", tokens, 1),
        ("start", start, 0),
    ):
        if value is not None and value < least:
            raise LnbenchError(f"{name} must be at least {least}, not {value}")
    if not 0 <= index < count:
        raise LnbenchError(f"shard must be (index, count) with 0 ≤ index < count, not {shard}")
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    if bos not in BOS_PLACES:
        raise unknown("bos", bos, BOS_PLACES)

    head = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []
    frame = frame_tokens(tokenizer) if chat else None
    if frame is not None and frame.begins_with_bos:
        head = [tokenizer.bos_token_id]
    shortest = length if drop_last else 2
    if mode == "pack":
        pieces = _tokenised(texts, tokenizer, shard, _PIECE_CHARACTERS, whole=True)
        separator = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        marks = _Marks([], head, head) if bos == "document" else _Marks(head, [], separator)
        if frame is not None:
            again = head if bos == "document" else []
            marks = _Marks(marks.row, [*marks.first, *frame.before], [*frame.after, *again, *frame.before])
        rows = _packed(pieces, marks, length, tokens, shortest)
        padding = None
    else:
        characters = max(_PIECE_CHARACTERS, length * _CHARACTERS_PER_TOKEN)
        pieces = _tokenised(texts, tokenizer, shard, characters, whole=False)
        before, after = (frame.before, frame.after) if frame is not None else ([], [])
        rows = _truncated(pieces, [*head, *before], after, length, tokens, shortest)
        padding = 0  # never read, and every model has it
    return _batches(_skipped(islice(rows, index, None, count), start, on_skip), batch_size, padding)


class _Marks(NamedTuple):
    """Special tokens of a packed stream, each none or one."""

    row: list[int]
    """Before each row, outside of the stream."""
    first: list[int]
    """Before the first document."""
    between: list[int]
    """Between two documents."""


class _Piece(NamedTuple):
    """Part of a document's text; none of it where the document is not used."""

    document: Document
    text: str
    first: bool


def _tokenised(
    texts: Iterable[str], tokenizer: Any, shard: tuple[int, int], characters: int, whole: bool
) -> Iterator[tuple[bool, list[int]]]:
    """Yield the tokens of each piece of text, and whether it is the first of its document.

    A document is counted when its tokens are asked for: whatever was tokenised ahead leaves no trace in the report.
    """
    report = TextReport()
    if isinstance(texts, Corpus):
        texts.report = report
    documents = texts.documents() if isinstance(texts, Corpus) else screened(texts)
    language, most = (texts.language, texts.max_foreign) if isinstance(texts, Corpus) else ("", None)
    number = -1
    for call in _calls(_pieces(documents, characters, whole)):
        used = [piece.text for piece in call if piece.text]
        options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        encoded = iter(tokenizer(used, **options)["input_ids"] if used else [])
        for document, text, first in call:
            number += first
            if first and number % shard[1] == shard[0]:
                report.count(document, language)
                report.check(language, most, complete=False)
            yield first, next(encoded) if text else []


def _pieces(documents: Iterable[Document], characters: int, whole: bool) -> Iterator[_Piece]:
    """Yield documents in pieces of up to ``characters``, or only the first piece of each."""
    for document in documents:
        if not document.used:
            yield _Piece(document, "", first=True)
            continue
        text = document.text
        end = _cut(text, 0, characters)
        yield _Piece(document, text[:end], first=True)
        while whole and end < len(text):
            begin, end = end, _cut(text, end, characters)
            yield _Piece(document, text[begin:end], first=False)


def _cut(text: str, begin: int, characters: int) -> int:
    """Return where the piece that begins at ``begin`` ends: before white space, if there is some near its end."""
    end = begin + characters
    if end >= len(text):
        return len(text)
    for space in "\n ":
        if (place := text.rfind(space, max(begin + 1, end - 1_000), end)) > 0:
            return place
    return end


def _calls(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Yield pieces by the call of the tokenizer that they go into."""
    call: list[_Piece] = []
    characters = 0
    for piece in pieces:
        call.append(piece)
        characters += len(piece.text)
        if characters >= _CALL_CHARACTERS or len(call) == _CALL_PIECES:
            yield call
            call, characters = [], 0
    if call:
        yield call


def _packed(
    pieces: Iterable[tuple[bool, list[int]]], marks: _Marks, length: int, tokens: int | None, shortest: int
) -> Iterator[TokenRow]:
    """Yield the stream in rows of ``length``, and a last one if it has at least ``shortest`` positions."""
    head = marks.row
    body = length - len(head)
    stream: list[int] = []
    seen = 0
    between = False
    for first, ids in pieces:
        between |= first
        if not ids:
            continue
        mark = (marks.between if seen else marks.first) if between else []
        joined = mark + ids
        between = False
        taken = joined if tokens is None else joined[: tokens - seen]
        stream += taken
        seen += len(taken)
        whole = len(stream) // body * body
        for begin in range(0, whole, body):
            yield np.array(head + stream[begin : begin + body], dtype=np.int64)
        del stream[:whole]
        if seen == tokens:
            break
    if stream and len(head) + len(stream) >= shortest:
        yield np.array(head + stream, dtype=np.int64)
    elif seen < body:
        raise LnbenchError(f"the text has {seen} tokens, too few for one block")


def _truncated(
    pieces: Iterable[tuple[bool, list[int]]],
    head: list[int],
    tail: list[int],
    length: int,
    tokens: int | None,
    shortest: int,
) -> Iterator[TokenRow]:
    """Yield the beginning of each document as a row, where it has at least ``shortest`` positions.

    ``tail`` ends the rows that hold a whole document.
    """
    body = length - len(head) - len(tail)
    if body < 1:
        raise LnbenchError(f"length={length} leaves no room for text: a chat template's own tokens are {length - body}")
    seen = 0
    for _, ids in pieces:
        taken = ids[: body if tokens is None else min(body, tokens - seen)]
        if not taken or len(head) + len(taken) < shortest:
            continue
        seen += len(taken)
        yield np.array(head + taken + (tail if len(taken) == len(ids) else []), dtype=np.int64)
        if tokens is not None and (seen == tokens or len(head) + tokens - seen < shortest):
            return
    if not seen:
        raise LnbenchError(f"no document has at least {shortest - len(head)} tokens")


def _skipped(rows: Iterator[TokenRow], start: int, on_skip: Callable[[int], None] | None) -> Iterator[TokenRow]:
    for number, _ in enumerate(islice(rows, start), start=1):
        if on_skip is not None:
            on_skip(number)
    yield from rows


def _batches(rows: Iterator[TokenRow], size: int, padding: int | None) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
    """Yield batches of rows: of equal length, or of any length with ``padding`` and a mask."""
    import torch

    from lnbench.model.logits import pad_right

    while batch := list(islice(rows, size)):
        if padding is None:
            for _, alike in groupby(batch, key=len):
                yield torch.from_numpy(np.stack(list(alike)))
        else:
            ids, real = pad_right([torch.from_numpy(row) for row in batch], padding)
            yield ids, real.long()
