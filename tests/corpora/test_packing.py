"""Texts to blocks, against a slow and obvious way to make them."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lnbench.corpora import packing
from lnbench.corpora.corpus import open_corpus
from lnbench.corpora.documents import Document, TextReport
from lnbench.corpora.packing import blocks
from lnbench.errors import LnbenchError
from tests.support.corpora import BOS, EOS, TOKENIZERS, as_jsonl
from tests.support.messages import refused

DOCUMENTS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=12).map(" ".join), max_size=12)


def ids_of(text: str) -> list[int]:
    return ["abcdefgh".index(word) + 3 for word in text.split()]


def packed(texts, bos, eos, length, tokens, shortest):
    """The rows of the packed stream, written down plainly."""
    stream = []
    for text in texts:
        if text.strip():
            stream += [EOS] if eos and stream else []
            stream += ids_of(text)
    stream = stream[:tokens]
    body = length - len(bos)
    rows = [bos + stream[begin : begin + body] for begin in range(0, len(stream), body)]
    return [row for row in rows if len(row) >= shortest]


def packed_by_document(texts, bos, eos, length, tokens, shortest):
    """The rows of the published code: BOS before each article, and nothing else between them."""
    stream = [token for text in texts if text.strip() for token in bos + ids_of(text)][:tokens]
    rows = [stream[begin : begin + length] for begin in range(0, len(stream), length)]
    return [row for row in rows if len(row) >= shortest]


def truncated(texts, bos, eos, length, tokens, shortest):
    """The rows of single documents, written down plainly."""
    rows = []
    left = 10**9 if tokens is None else tokens
    for text in texts:
        ids = ids_of(text)[: min(length - len(bos), left)]
        if ids and len(bos + ids) >= shortest:
            rows.append(bos + ids)
            left -= len(ids)
    return rows


REFERENCES = {
    ("pack", "block"): packed,
    ("pack", "document"): packed_by_document,
    ("truncate", "block"): truncated,
    ("truncate", "document"): truncated,
}


def rows_of(batches) -> list[list[int]]:
    """The rows in batches, without their padding."""
    rows = []
    for batch in batches:
        ids, mask = batch if isinstance(batch, tuple) else (batch, torch.ones_like(batch))
        rows += [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]
    return rows


def small_pieces(size: int):
    """Have the tokenizer called with very little at a time."""
    return mock.patch.multiple(packing, _CALL_CHARACTERS=size, _CALL_PIECES=3, _PIECE_CHARACTERS=size)


@given(
    texts=DOCUMENTS,
    bos=st.booleans(),
    eos=st.booleans(),
    length=st.integers(2, 9),
    batch_size=st.integers(1, 4),
    tokens=st.none() | st.integers(1, 40),
    drop_last=st.booleans(),
    mode=st.sampled_from(packing.MODES),
    begins=st.sampled_from(packing.BOS_PLACES),
    size=st.integers(2, 60),
)
@settings(deadline=None, max_examples=400)
def test_blocks_hold_the_text(texts, bos, eos, length, batch_size, tokens, drop_last, mode, begins, size):
    shortest = length if drop_last else 2
    expected = REFERENCES[mode, begins](texts, [BOS] if bos else [], eos, length, tokens, shortest)
    with small_pieces(size):
        made = blocks(texts, TOKENIZERS[bos, eos], length, batch_size, tokens, drop_last, mode=mode, bos=begins)
        if not expected:
            with refused():
                list(made)
            return
        batches = list(made)
    assert rows_of(batches) == expected
    if mode == "pack":
        assert all(batch.dtype == torch.long and 1 <= len(batch) <= batch_size for batch in batches)
        assert all(batch.shape[1] == length for batch in batches[:-1])
        full = sum(len(row) == length for row in expected)
        assert len(batches) == -(-full // batch_size) + (full < len(expected))
        return
    assert [len(ids) for ids, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
    for ids, mask in batches:
        assert ids.dtype == mask.dtype == torch.long and ids.shape == mask.shape
        assert mask.any(0).all() and (mask.diff(dim=1) <= 0).all()
        assert (ids[mask == 0] == 0).all()


@given(
    texts=DOCUMENTS,
    length=st.integers(2, 9),
    tokens=st.none() | st.integers(2, 60),
    mode=st.sampled_from(packing.MODES),
    count=st.integers(1, 5),
    start=st.integers(0, 6),
)
@settings(deadline=None, max_examples=200)
def test_shards_part_the_rows_and_start_passes_over_them(texts, length, tokens, mode, count, start):
    options = {"length": length, "batch_size": 3, "tokens": tokens, "mode": mode}
    tokenizer = TOKENIZERS[True, True]
    whole = rows_or_none(texts, tokenizer=tokenizer, **options)
    for index in range(count):
        shard = (index, count)
        skipped: list[int] = []
        if whole is None:
            with pytest.raises(LnbenchError):
                list(blocks(texts, tokenizer, **options, shard=shard))
            continue
        expected = whole[index::count]
        assert rows_of(blocks(texts, tokenizer, **options, shard=shard)) == expected
        rest = blocks(texts, tokenizer, **options, shard=shard, start=start, on_skip=skipped.append)
        assert rows_of(rest) == expected[start:]
        assert skipped == list(range(1, min(start, len(expected)) + 1))


def rows_or_none(texts, **options):
    try:
        return rows_of(blocks(texts, **options))
    except LnbenchError:
        return None


TEXTS = st.lists(st.sampled_from(["a b c", "a  b c", "d", "d d d d d d d", "   ", "", "e f"]), min_size=1, max_size=20)


@given(
    texts=TEXTS,
    tokens=st.none() | st.integers(2, 30),
    mode=st.sampled_from(packing.MODES),
    dedup=st.booleans(),
    count=st.integers(1, 4),
    size=st.integers(2, 60),
)
@settings(deadline=None, max_examples=150)
def test_the_report_is_on_the_documents_that_rows_are_made_of(
    tmp_path_factory, texts, tokens, mode, dedup, count, size
):
    path = tmp_path_factory.mktemp("report") / "hi.jsonl"
    options = {"tokenizer": TOKENIZERS[True, True], "length": 4, "batch_size": 2, "tokens": tokens, "mode": mode}

    def report(texts, **more) -> tuple[TextReport, list[list[int]]]:
        path.write_bytes(as_jsonl(texts))
        corpus = open_corpus(str(path), "hi", shuffle=False, dedup=dedup)
        rows = rows_of(blocks(corpus, **options, **more))
        return corpus.report, rows

    assume(rows_or_none(texts, **options) is not None)
    whole, rows = report(texts)
    read = texts[: whole.documents]
    kept = [text for text in read if text.strip()]
    assert whole.empty == len(read) - len(kept)
    if dedup:
        kept = list({" ".join(text.split()): text for text in reversed(kept)}.values())
    assert (whole.used, whole.characters) == (len(kept), sum(map(len, kept)))
    assert whole.duplicates == whole.documents - whole.empty - whole.used
    # These documents make all the rows, and one fewer would not.
    if whole.documents < len(texts):
        assert report(read) == (whole, rows)
        # Without screening, a document that is a duplicate here ends in a mark, too.
        assert whole.duplicates or rows_or_none(read[:-1], **options) != rows
    assert sum((report(texts, shard=(index, count))[0] for index in range(count)), TextReport()) == whole
    assert report(texts, start=2) == (whole, rows[2:])
    with small_pieces(size):
        assert report(texts) == (whole, rows)


def test_a_budget_ends_the_report_with_its_last_document(tmp_path):
    (tmp_path / "hi.txt").write_text("a b c\n\nd e f\ng h\na\n")
    corpus = open_corpus(f"{tmp_path}/{{lang}}.txt", "hi", shuffle=False)
    (batch,) = blocks(corpus, TOKENIZERS[True, False], length=5, tokens=4)
    assert batch.tolist() == [[BOS, 3, 4, 5, 6]]
    lines = {"lines": 2, "foreign": 2, "scripts": {"Latin": 2}, "languages": {"und": 2}}
    assert corpus.report == TextReport(documents=3, empty=1, wrong_script=2, used=2, characters=10, **lines)


def test_documents_of_any_length_are_tokenised_in_pieces():
    calls = []
    tokenizer = TOKENIZERS[True, True]

    def counting(texts, **options):
        calls.append(sum(map(len, texts)))
        return tokenizer(texts, **options)

    words = "a b c d e f g h " * 40_000
    wrapped = mock.Mock(side_effect=counting, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=None)
    rows = rows_of(blocks([words, "h"], wrapped, length=101, batch_size=64))
    assert [token for row in rows for token in row[1:]] == [*range(3, 11)] * 40_000 + [EOS, 10]
    assert len(calls) >= 3 and max(calls) <= packing._CALL_CHARACTERS + packing._PIECE_CHARACTERS
    calls.clear()
    (batch,) = blocks([words, "h"], wrapped, length=5, mode="truncate")
    assert batch[0].tolist() == [[BOS, 3, 4, 5, 6], [BOS, 10, 0, 0, 0]]
    assert sum(calls) <= packing._PIECE_CHARACTERS + 2  # with the word that shows whether BOS is added


def test_text_without_white_space_is_cut_anyway():
    assert [piece.text for piece in packing._pieces([Document("x" * 25)], 10, whole=True)] == [
        "x" * 10,
        "x" * 10,
        "x" * 5,
    ]
    pieces = list(packing._pieces([Document("ab cd ef")], 4, whole=True))
    assert [piece.text for piece in pieces] == ["ab", " cd", " ef"]
    assert [piece.first for piece in pieces] == [True, False, False]


@pytest.mark.parametrize("pad", [None, 10_000], ids=["none", "an id that no model has"])
def test_padding_is_a_token_that_every_model_has(pad):
    tokenizer = mock.Mock(wraps=TOKENIZERS[True, True], bos_token_id=BOS, eos_token_id=EOS, pad_token_id=pad)
    tokenizer.side_effect = TOKENIZERS[True, True]
    ((ids, mask),) = blocks(["a b", "c"], tokenizer, length=4, mode="truncate")
    assert ids.tolist() == [[BOS, 3, 4], [BOS, 5, 0]] and mask.tolist() == [[1, 1, 1], [1, 1, 0]]


@pytest.mark.parametrize("mode", packing.MODES)
def test_blocks_are_streamed(mode):
    def endless():
        while True:
            yield "a b c d"

    tokenizer = TOKENIZERS[True, True]
    rows = rows_of(blocks(endless(), tokenizer, 8, 2, tokens=1001, mode=mode))
    assert sum(len(row) - 1 for row in rows) == 1001
    assert len(rows_of([next(blocks(endless(), tokenizer, 8, 2, mode=mode))])) == 2


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ({"length": 1}, ["length", "2", "1"]),
        ({"batch_size": 0}, ["batch_size", "1", "0"]),
        ({"tokens": 0}, ["tokens", "1", "0"]),
        ({"start": -1}, ["start", "0", "-1"]),
        ({"shard": (2, 2)}, ["shard", "0 ≤ index < count", "(2, 2)"]),
        ({"shard": (0, 0)}, ["shard", "(0, 0)"]),
        ({"shard": (-1, 2)}, ["shard", "(-1, 2)"]),
        ({"mode": "pad"}, ["pad", "pack, truncate"]),
        ({"bos": "article"}, ["bos", "article", "block, document"]),
    ],
)
def test_impossible_blocks_are_refused_at_once(argument, named):
    with refused(*named):
        blocks(["a"], TOKENIZERS[True, True], **argument)


def test_a_corpus_goes_straight_into_blocks(tmp_path):
    (tmp_path / "hi.txt").write_text("a b c\nd e\nf\n")
    corpus = open_corpus(f"{tmp_path}/{{lang}}.txt", "hi", shuffle=False)
    (batch,) = blocks(corpus, TOKENIZERS[True, True], length=9)
    assert batch.tolist() == [[BOS, 3, 4, 5, EOS, 6, 7, EOS, 8]]


def test_a_corpus_without_text_says_so(tmp_path):
    (tmp_path / "hi.txt").write_text("\n \n")
    corpus = open_corpus(f"{tmp_path}/{{lang}}.txt", "hi")
    with refused("hi", "empty"):
        list(blocks(corpus, TOKENIZERS[True, True]))
