"""Corpora: files of every kind to texts, texts to blocks, and errors that say what to do."""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lnbench import corpora
from lnbench.corpora import blocks, choose_languages, fingerprint, languages_of, open_corpus
from lnbench.errors import LnbenchError

TEXTS = ["नमस्ते दुनिया", "second text", "третий текст", "第四", "five\u2028still five"]
BOS, EOS = 0, 1


def write_parquet(path: Path, texts: list[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "id": list(range(len(texts)))}), path)


def as_jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def as_lines(texts: list[str]) -> bytes:
    return "".join(text + "\r\n" for text in texts).encode("utf-8-sig")


WRITERS = {
    ".jsonl": lambda path, texts: path.write_bytes(as_jsonl(texts)),
    ".jsonl.gz": lambda path, texts: path.write_bytes(gzip.compress(as_jsonl(texts))),
    ".txt": lambda path, texts: path.write_bytes(as_lines(texts)),
    ".txt.gz": lambda path, texts: path.write_bytes(gzip.compress(as_lines(texts))),
    ".parquet": write_parquet,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_file(suffix, tmp_path):
    WRITERS[suffix](tmp_path / f"hi{suffix}", [*TEXTS, "", "  "])
    pattern = f"{tmp_path}/{{lang}}{suffix}"
    corpus = open_corpus(pattern, "hi", shuffle=False)
    assert list(corpus) == TEXTS
    assert corpus.skipped == 2
    assert list(corpus) == TEXTS and corpus.skipped == 2
    assert languages_of(pattern) == ["hi"]
    assert list(open_corpus(f"{tmp_path}/hi{suffix}", "hi", shuffle=False)) == TEXTS


def test_every_reader_has_a_test():
    assert set(WRITERS) == set(corpora._READERS)


def test_order_depends_on_the_seed_alone(tmp_path, monkeypatch):
    texts = [f"text {number}" for number in range(50)]
    (tmp_path / "hi.jsonl").write_bytes(as_jsonl(texts))
    pattern = f"{tmp_path}/{{lang}}.jsonl"
    first = list(open_corpus(pattern, "hi"))
    assert first == list(open_corpus(pattern, "hi", seed=0)) != texts
    assert first != list(open_corpus(pattern, "hi", seed=1))
    assert first[:3] == ["text 42", "text 37", "text 20"]
    # A corpus longer than the window is still shuffled, and whole.
    monkeypatch.setattr(corpora, "SHUFFLE_WINDOW", 7)
    window = list(open_corpus(pattern, "hi"))
    assert Counter(window) == Counter(texts) and window != texts
    assert window == list(open_corpus(pattern, "hi"))


def test_languages_are_found_by_the_pattern(tmp_path):
    for name in ("en.jsonl", "hi.jsonl", "zh-Hans.jsonl", "en.train.jsonl", "hi.txt", "hi.jsonl.bak"):
        (tmp_path / name).touch()
    (tmp_path / "ur.jsonl").mkdir()
    assert languages_of(f"{tmp_path}/{{lang}}.jsonl") == ["en", "hi", "zh-Hans"]
    nested = tmp_path / "a [1]"
    for name in ("en/en.txt", "hi/hi.txt", "ur/other.txt"):
        (nested / name).parent.mkdir(parents=True)
        (nested / name).touch()
    assert languages_of(f"{nested}/{{lang}}/{{lang}}.txt") == ["en", "hi"]
    assert choose_languages(f"{tmp_path}/{{lang}}.jsonl") == ["en", "hi", "zh-Hans"]
    assert choose_languages(f"{tmp_path}/{{lang}}.jsonl", ["hi", "en"]) == ["hi", "en"]
    with pytest.raises(LnbenchError, match="has no file for ur; it has: en, hi"):
        choose_languages(f"{tmp_path}/{{lang}}.jsonl", ["ur"])


def test_relative_and_home_patterns(tmp_path, monkeypatch):
    (tmp_path / "hi.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for pattern in ("{lang}.txt", "./{lang}.txt", "~/{lang}.txt"):
        assert languages_of(pattern) == ["hi"]
        assert list(open_corpus(pattern, "hi")) == ["text"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: open_corpus(f"{p}/{{lang}}.jsonl", "fr"), "no file for fr; it has: hi"),
        (lambda p: open_corpus(f"{p}/{{lang}}.txt", "fr"), "no file for fr; it has: none"),
        (lambda p: open_corpus(f"{p}/absent.txt", "fr"), "no such corpus file"),
        (lambda p: open_corpus(f"{p}/{{lang}}.csv", "hi"), r"neither a file of a known kind \(.jsonl .jsonl.gz .txt"),
        (lambda p: open_corpus(f"{p}/{{lang}}.jsonl", "../hi"), "not the name of a language"),
        (lambda p: languages_of(f"{p}/{{lang}}.csv"), "neither a file"),
        (lambda p: languages_of(f"{p}/{{lang}}.txt"), "no file matches"),
        (lambda p: languages_of(f"{p}/hi.jsonl"), "name its language with languages="),
        (lambda p: languages_of("wikimedia/wikipedia:20231101.{lang}"), "name them with languages="),
        (lambda p: choose_languages(f"{p}/hi.jsonl", ["hi", "en"]), "cannot serve several languages"),
        (lambda p: choose_languages("wikimedia/wikipedia:20231101.hi", ["hi", "en"]), "cannot serve several"),
        (lambda p: fingerprint(f"{p}/{{lang}}.jsonl", "fr"), "no file for fr"),
    ],
)
def test_bad_requests_are_explained(call, message, tmp_path):
    (tmp_path / "hi.jsonl").write_bytes(as_jsonl(TEXTS))
    with pytest.raises(LnbenchError, match=message) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("hi.jsonl", b"", "has no text for hi"),
        ("hi.txt", b"\n  \n\n", "has no text for hi"),
        (
            "hi.jsonl",
            b'{"text": "a"}\n\n{"content": "b"}\n',
            r'hi.jsonl, line 3: not a JSON object with a valid "text"',
        ),
        ("hi.jsonl", b'{"text": null}\n', "line 1"),
        ("hi.jsonl", b"[1]\n", "line 1"),
        ("hi.jsonl", b'{"text": "a"}\n{"te', "line 2"),
        ("hi.jsonl", b'{"text": "\\ud800"}\n', "line 1"),
        ("hi.txt", b"good\nbad \xff\n", "hi.txt, line 2: not valid UTF-8"),
        ("hi.jsonl", b'{"text": "\xff"}\n', "line 1: not valid UTF-8"),
        ("hi.jsonl.gz", gzip.compress(as_jsonl(TEXTS * 50))[:-20], "truncated"),
        ("hi.txt.gz", b"no gzip at all", "not gzip data"),
        ("hi.txt.gz", gzip.compress(b"text" * 99)[:12] + b"\xff" * 40, "truncated or is not gzip"),
        ("hi.parquet", b"no parquet", "not a readable Parquet file"),
    ],
)
def test_bad_files_are_explained(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    corpus = open_corpus(f"{tmp_path}/{name.replace('hi', '{lang}')}", "hi")
    with pytest.raises(LnbenchError, match=message) as caught:
        list(corpus)
    assert "\n" not in str(caught.value)


def test_parquet_without_text(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "hi.parquet")
    with pytest.raises(LnbenchError, match="no column text; it has: body"):
        list(open_corpus(f"{tmp_path}/{{lang}}.parquet", "hi"))
    pyarrow.parquet.write_table(pyarrow.table({"text": [["a"]]}), tmp_path / "hi.parquet")
    with pytest.raises(LnbenchError, match="not a readable Parquet file with a column text"):
        list(open_corpus(f"{tmp_path}/{{lang}}.parquet", "hi"))


def test_fingerprints_follow_the_content(tmp_path):
    for name in ("en", "hi"):
        (tmp_path / f"{name}.txt").write_text("same")
    (tmp_path / "ur.txt").write_text("other")
    pattern = f"{tmp_path}/{{lang}}.txt"
    assert fingerprint(pattern, "en") == fingerprint(pattern, "hi") != fingerprint(pattern, "ur")
    corpus = open_corpus(pattern, "en")
    assert corpus.fingerprint == open_corpus(pattern, "hi").fingerprint
    assert corpus.fingerprint != open_corpus(pattern, "en", seed=1).fingerprint
    unshuffled = [open_corpus(pattern, "en", seed=seed, shuffle=False).fingerprint for seed in (0, 1)]
    assert unshuffled[0] == unshuffled[1] != corpus.fingerprint


def test_hub_dataset(monkeypatch):
    import datasets

    asked = []

    def load(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_dict({"text": [*TEXTS, " "]}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(corpora, "_hub_revision", lambda repo: "c0ffee")
    pattern = "wikimedia/wikipedia:20231101.{lang}"
    corpus = open_corpus(pattern, "hi", seed=3)
    assert Counter(corpus) == Counter(TEXTS) and corpus.skipped == 1
    assert list(corpus) == list(open_corpus(pattern, "hi", seed=3))
    assert list(open_corpus(pattern, "hi", shuffle=False)) == TEXTS
    assert asked[0] == (
        ("wikimedia/wikipedia", "20231101.hi"),
        {"split": "train", "streaming": True, "revision": "c0ffee"},
    )
    known = fingerprint(pattern, "hi")
    assert known != fingerprint(pattern, "en")
    monkeypatch.setattr(corpora, "_hub_revision", lambda repo: None)
    assert known != fingerprint(pattern, "hi")

    def fail(*args, **kwargs):
        raise ConnectionError("offline\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(LnbenchError, match=r"cannot read 20231101.hi of .*wikipedia \(offline\); files can") as caught:
        list(open_corpus(pattern, "hi"))
    assert "\n" not in str(caught.value)


def test_hub_revision_is_unknown_offline(monkeypatch):
    import huggingface_hub

    def fail(self, *args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    assert corpora._hub_revision("wikimedia/wikipedia") is None


def make_tokenizer(bos: bool = True, eos: bool = True) -> PreTrainedTokenizerFast:
    words = ["<bos>", "<eos>", "<unk>", *"abcdefgh"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>"} | ({"bos_token": "<bos>"} if bos else {}) | ({"eos_token": "<eos>"} if eos else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


TOKENIZERS = {(bos, eos): make_tokenizer(bos, eos) for bos in (True, False) for eos in (True, False)}
DOCUMENTS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=12).map(" ".join), max_size=12)


def stream_of(texts: list[str], eos: bool) -> list[int]:
    """The token stream, written down plainly."""
    stream: list[int] = []
    for text in texts:
        if text.strip():
            stream += [EOS] if eos and stream else []
            stream += ["abcdefgh".index(word) + 3 for word in text.split()]
    return stream


@given(
    texts=DOCUMENTS,
    bos=st.booleans(),
    eos=st.booleans(),
    length=st.integers(2, 9),
    batch_size=st.integers(1, 4),
    tokens=st.none() | st.integers(1, 40),
    drop_last=st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_blocks_hold_the_stream(texts, bos, eos, length, batch_size, tokens, drop_last):
    stream = stream_of(texts, eos)[:tokens]
    body = length - bos
    rest = len(stream) % body
    if drop_last or rest + bos < 2:
        stream = stream[: len(stream) - rest]
    packed = blocks(texts, TOKENIZERS[bos, eos], length, batch_size, tokens, drop_last)
    if not stream:
        with pytest.raises(LnbenchError, match="too few for one block"):
            list(packed)
        return
    batches = list(packed)
    assert all(batch.dtype == torch.long and 1 <= len(batch) <= batch_size for batch in batches)
    assert all(batch.shape[1] == length for batch in batches[:-1]) and batches[-1].shape[1] >= 2
    rows = [row for batch in batches for row in batch.tolist()]
    if bos:
        assert all(row[0] == BOS for row in rows)
    assert [token for row in rows for token in row[bos:]] == stream
    assert len(batches) == -(-(len(stream) // body) // batch_size) + (len(stream) % body > 0)


def test_blocks_are_streamed():
    def endless():
        while True:
            yield "a b c d"

    tokenizer = TOKENIZERS[True, True]
    assert sum(batch.numel() - len(batch) for batch in blocks(endless(), tokenizer, 8, 2, tokens=1001)) == 1001
    assert next(blocks(endless(), tokenizer, 8, 2)).shape == (2, 8)


@pytest.mark.parametrize("argument", [{"length": 1}, {"batch_size": 0}, {"tokens": 0}])
def test_impossible_blocks_are_refused_at_once(argument):
    with pytest.raises(LnbenchError, match=f"{next(iter(argument))} must be at least"):
        blocks(["a"], TOKENIZERS[True, True], **argument)


def test_a_corpus_goes_straight_into_blocks(tmp_path):
    (tmp_path / "hi.txt").write_text("a b c\nd e\nf\n")
    corpus = open_corpus(f"{tmp_path}/{{lang}}.txt", "hi", shuffle=False)
    (batch,) = blocks(corpus, TOKENIZERS[True, True], length=9)
    assert batch.tolist() == [[BOS, 3, 4, 5, EOS, 6, 7, EOS, 8]]


def test_importing_it_is_light():
    import subprocess

    script = "import sys, lnbench.corpora; print({'torch', 'datasets', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
