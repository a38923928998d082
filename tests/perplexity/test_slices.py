"""The text that is read: fixed, apart from that of the Statistics, and counted in tokens and bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from lnbench.corpora.corpus import open_corpus
from lnbench.demo import CORPUS
from lnbench.perplexity import slices as module
from lnbench.perplexity.slices import HeldOut, Slice, cut
from lnbench.perplexity.token_bytes import byte_lengths
from lnbench.statistics import Statistics
from tests.support.messages import refused
from tests.support.samples import with_rates


def decoded(tokenizer: Any, text: Slice) -> str:
    return "".join(tokenizer.decode(block[1:][which]) for block, which in zip(text.blocks, text.counted, strict=True))


def collected(pattern: str, language: str, documents: int, **changes: Any) -> Statistics:
    """Statistics of the first documents of a corpus."""
    corpus = open_corpus(pattern, language)
    provenance = {"corpus": corpus.fingerprint, "corpus_source": corpus.source, "text": {"documents": documents}}
    return replace(with_rates(torch.zeros(1, 1), language=language), provenance=provenance | changes)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """Ten documents of ten characters, of which the last to be read are known by their order."""
    lines = [json.dumps({"text": f"document {number}"}) for number in range(10)]
    (tmp_path / "en.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(tmp_path / "{lang}.jsonl")


def test_a_slice_is_the_same_every_time(tokenizer: Any, slices: dict[str, Slice]) -> None:
    again = cut(tokenizer, CORPUS, "hi", tokens=300, length=32)
    assert [block.tolist() for block in again.blocks] == [block.tolist() for block in slices["hi"].blocks]
    assert again.account() == slices["hi"].account()


def test_blocks_tokens_and_bytes(tokenizer: Any, corpus: str) -> None:
    text = cut(tokenizer, corpus, "en", tokens=54, length=16)
    assert [len(block) for block in text.blocks] == [16, 16, 16, 10]
    order = list(open_corpus(corpus, "en"))[::-1]
    assert decoded(tokenizer, text) == "".join(order[:5])
    # Fifty characters, and four marks between the documents, which are no text.
    assert (text.tokens.sum(), text.sizes.sum()) == (50, 50)
    assert text.documents == 5


def test_documents_as_blocks_of_their_own(tokenizer: Any, corpus: str) -> None:
    text = cut(tokenizer, corpus, "en", tokens=28, length=9, mode="truncate")
    assert [len(block) for block in text.blocks] == [9, 9, 9, 5]
    assert decoded(tokenizer, text) == "".join(one[:8] for one in list(open_corpus(corpus, "en"))[::-1][:3]) + "docu"


def test_a_budget_beyond_the_text_reads_all_of_it(tokenizer: Any, corpus: str) -> None:
    text = cut(tokenizer, corpus, "en", tokens=10**9, length=16)
    assert text.documents == 10
    assert text.sizes.sum() == 100


def test_only_the_end_of_a_corpus_is_held(corpus: str) -> None:
    held = HeldOut(corpus, "en", enough=25)
    assert list(held) == list(open_corpus(corpus, "en"))[::-1][:3]
    assert held.total == 10


@pytest.mark.parametrize(("read", "overlap"), [(5, 0.0), (6, 0.2), (8, 0.6), (10, 1.0)])
def test_overlap_with_the_text_of_statistics(tokenizer: Any, corpus: str, read: int, overlap: float) -> None:
    known = {"en": collected(corpus, "en", read)}
    assert cut(tokenizer, corpus, "en", tokens=54, length=16, statistics=known).overlap == pytest.approx(overlap)


def test_overlap_where_it_is_not_known_or_impossible(tokenizer: Any, corpus: str) -> None:
    def overlap(known: dict[str, Statistics] | None) -> float | None:
        return cut(tokenizer, corpus, "en", tokens=54, length=16, statistics=known).overlap

    assert overlap(None) is None
    assert overlap({}) == 0
    assert overlap({"en": collected(corpus, "en", 10, corpus="another order")}) is None
    assert overlap({"en": collected(corpus, "en", 10, corpus="other", corpus_source={"sha256": "other"})}) == 0
    assert overlap({"en": with_rates(torch.zeros(1, 1))}) is None


def test_the_order_is_that_of_the_statistics(tokenizer: Any, corpus: str) -> None:
    other = open_corpus(corpus, "en", seed=1, dedup=True)
    known = collected(corpus, "en", 8, corpus=other.fingerprint, seed=1, dedup=True, drop_wrong_script=False)
    text = cut(tokenizer, corpus, "en", tokens=54, length=16, statistics={"en": known})
    assert decoded(tokenizer, text) == "".join(list(other)[::-1][:5])
    assert text.overlap == pytest.approx(0.6)


def test_of_the_hub_the_documents_that_statistics_read_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lnbench.corpora.corpus.resolve_revision", lambda *_: "0" * 40)
    monkeypatch.setattr("lnbench.corpora.corpus.read_hub", lambda *_: (f"article {one}" for one in range(10**9)))
    held = HeldOut("some/where:{lang}", "en", passed_over=3)
    assert list(islice(held, 2)) == ["article 3", "article 4"]


def test_text_that_is_not_there(tokenizer: Any, corpus: str) -> None:
    with refused("hi", "en"):
        cut(tokenizer, corpus, "hi")


# Bytes of tokens


def test_bytes_of_a_byte_level_tokenizer(tokenizer: Any) -> None:
    ids = tokenizer("नदी 中, a\n", add_special_tokens=False)["input_ids"]
    assert [byte_lengths(tokenizer, ids)[token] for token in ids] == [1] * len("नदी 中, a\n".encode())
    assert byte_lengths(tokenizer, [tokenizer.eos_token_id]) == {tokenizer.eos_token_id: 0}


def test_bytes_of_a_sentencepiece_tokenizer() -> None:
    words = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "नदी", "\n\n"]
    backend = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [], byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    tokenizer.add_tokens(["\n\n"])
    ids = tokenizer("a 中\n\na", add_special_tokens=False)["input_ids"]
    lengths = byte_lengths(tokenizer, [*ids, words.index("नदी"), 1])
    assert [lengths[token] for token in ids] == [1, 1, 1, 1, 1, 2, 1]
    assert lengths[words.index("नदी")] == 9
    assert lengths[1] == 0


def test_enough_is_more_characters_than_any_tokenizer_needs(tokenizer: Any, corpus: str) -> None:
    # With fewer characters held than asked for in tokens, a slice would silently be too short.
    assert module._CHARACTERS_PER_TOKEN >= 16
    assert int(cut(tokenizer, corpus, "en", tokens=90, length=16).tokens.sum()) == 82
