"""Corpus files of every kind: patterns, languages, readers, order, and errors that say what to do."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections import Counter
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lnbench import files
from lnbench.corpora import shuffle
from lnbench.corpora.corpus import fingerprint, open_corpus
from lnbench.corpora.patterns import choose_languages, languages_of
from lnbench.corpora.readers import READERS
from lnbench.errors import LnbenchError
from tests.support.corpora import TEXTS, WRITERS, as_jsonl
from tests.support.messages import refused


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_file(suffix, tmp_path):
    WRITERS[suffix](tmp_path / f"hi{suffix}", [*TEXTS, "", "  "])
    pattern = f"{tmp_path}/{{lang}}{suffix}"
    corpus = open_corpus(pattern, "hi", shuffle=False)
    assert list(corpus) == TEXTS
    assert corpus.report.empty == 2
    assert list(corpus) == TEXTS and corpus.report.empty == 2
    assert languages_of(pattern) == ["hi"]
    assert list(open_corpus(f"{tmp_path}/hi{suffix}", "hi", shuffle=False)) == TEXTS


def test_every_reader_has_a_test():
    assert set(WRITERS) == set(READERS)


def test_order_depends_on_the_seed_alone(tmp_path, monkeypatch):
    texts = [f"text {number}" for number in range(50)]
    (tmp_path / "hi.jsonl").write_bytes(as_jsonl(texts))
    pattern = f"{tmp_path}/{{lang}}.jsonl"
    first = list(open_corpus(pattern, "hi"))
    assert first == list(open_corpus(pattern, "hi", seed=0)) != texts
    assert first != list(open_corpus(pattern, "hi", seed=1))
    assert first[:3] == ["text 42", "text 37", "text 20"]
    # A corpus longer than the window is still shuffled, and whole.
    monkeypatch.setattr(shuffle, "SHUFFLE_WINDOW", 7)
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
    with refused("ur", "en, hi"):
        choose_languages(f"{tmp_path}/{{lang}}.jsonl", ["ur"])


def test_relative_and_home_patterns(tmp_path, monkeypatch):
    (tmp_path / "hi.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for pattern in ("{lang}.txt", "./{lang}.txt", "~/{lang}.txt"):
        assert languages_of(pattern) == ["hi"]
        assert list(open_corpus(pattern, "hi")) == ["text"]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda p: open_corpus(f"{p}/{{lang}}.jsonl", "fr"), ["fr", "hi"]),
        (lambda p: open_corpus(f"{p}/{{lang}}.txt", "fr"), ["fr", "none"]),
        (lambda p: open_corpus(f"{p}/absent.txt", "fr"), ["absent.txt"]),
        (lambda p: open_corpus(f"{p}/{{lang}}.doc", "hi"), ["{lang}.doc", ".jsonl .ndjson"]),
        (lambda p: open_corpus(f"{p}/{{lang}}.jsonl", "../hi"), ["../hi"]),
        (lambda p: languages_of(f"{p}/{{lang}}.doc"), ["{lang}.doc"]),
        (lambda p: languages_of(f"{p}/{{lang}}.txt"), ["{lang}.txt"]),
        (lambda p: languages_of(f"{p}/hi.jsonl"), ["hi.jsonl", "languages="]),
        (lambda p: languages_of("wikimedia/wikipedia:20231101.{lang}"), ["20231101.{lang}", "languages="]),
        (lambda p: choose_languages(f"{p}/hi.jsonl", ["hi", "en"]), ["hi.jsonl", "{lang}"]),
        (lambda p: choose_languages("wikimedia/wikipedia:20231101.hi", ["hi", "en"]), ["20231101.hi", "{lang}"]),
        (lambda p: fingerprint(f"{p}/{{lang}}.jsonl", "fr"), ["fr"]),
    ],
)
def test_bad_requests_are_explained(call, named, tmp_path):
    (tmp_path / "hi.jsonl").write_bytes(as_jsonl(TEXTS))
    with refused(*named) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("hi.jsonl", b"", ["hi"]),
        ("hi.txt", b"\n  \n\n", ["hi"]),
        (
            "hi.jsonl",
            b'{"text": "a"}\n\n{"content": "b"}\n',
            ["hi.jsonl, line 3", '"text"'],
        ),
        ("hi.jsonl", b'{"text": null}\n', ["hi", "empty"]),
        ("hi.jsonl", b"[1]\n", ["line 1"]),
        ("hi.jsonl", b'{"text": "a"}\n{"te', ["line 2"]),
        ("hi.jsonl", b'{"text": "\\ud800"}\n', ["line 1"]),
        ("hi.txt", b"good\nbad \xff\n", ["hi.txt, line 2", "UTF-8"]),
        ("hi.jsonl", b'{"text": "\xff"}\n', ["line 1", "UTF-8"]),
        ("hi.jsonl.gz", gzip.compress(as_jsonl(TEXTS * 50), mtime=0)[:-20], ["truncated"]),
        ("hi.txt.gz", b"no gzip at all", ["gzip"]),
        ("hi.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:12] + b"\xff" * 40, ["truncated", "gzip"]),
        ("hi.parquet", b"no parquet", ["Parquet"]),
    ],
)
def test_bad_files_are_explained(name, content, named, tmp_path):
    (tmp_path / name).write_bytes(content)
    corpus = open_corpus(f"{tmp_path}/{name.replace('hi', '{lang}')}", "hi")
    with refused(*named) as caught:
        list(corpus)
    assert "\n" not in str(caught.value)


def test_parquet_without_text(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "hi.parquet")
    with refused("text", "body"):
        list(open_corpus(f"{tmp_path}/{{lang}}.parquet", "hi"))
    pyarrow.parquet.write_table(pyarrow.table({"text": [["a"]]}), tmp_path / "hi.parquet")
    with refused("Parquet", "text"):
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


def test_a_file_is_hashed_once_as_long_as_it_stays(tmp_path, monkeypatch):
    hashed = []
    taken = files.file_sha256
    monkeypatch.setattr(files, "file_sha256", lambda path: hashed.append(path) or taken(path))
    path = tmp_path / "hi.txt"
    path.write_text("text")
    first = open_corpus(str(path), "hi", seed=1).source
    assert first["sha256"] == hashlib.sha256(b"text").hexdigest()
    assert open_corpus(str(path), "hi", seed=2).source["sha256"] == first["sha256"]
    assert len(hashed) == 1
    path.write_text("more text")
    assert open_corpus(str(path), "hi").source["sha256"] == hashlib.sha256(b"more text").hexdigest()
    assert len(hashed) == 2


LONGEST = 9


@given(texts=st.lists(st.text("ab", max_size=LONGEST)), characters=st.integers(1, 30), window=st.integers(1, 9))
def test_shuffling_holds_no_more_than_its_window(texts, characters, window):
    arrived: list[str] = []

    def arriving():
        for text in texts:
            arrived.append(text)
            yield text

    with mock.patch.multiple(shuffle, SHUFFLE_CHARACTERS=characters, SHUFFLE_WINDOW=window):
        given_back = []
        for text in shuffle.shuffled(arriving(), seed=0):
            held = Counter(arrived) - Counter(given_back)
            # The window, of one document at least, and the newcomer that pushes another one out.
            assert held.total() <= window + 1
            assert sum(map(len, held.elements())) <= max(characters, LONGEST) + LONGEST
            given_back.append(text)
    assert Counter(given_back) == Counter(texts)


def test_importing_it_is_light():
    import subprocess

    script = "import sys, lnbench.corpora; print({'torch', 'datasets', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["\n", "a\nb", "\x1b[31m", "\u2028"])
def test_names_of_a_strangers_columns_break_no_message(name, tmp_path):
    file = tmp_path / "en.jsonl"
    file.write_text(json.dumps({name: "x"}) + "\n", encoding="utf-8")
    with pytest.raises(LnbenchError) as error:
        list(open_corpus(str(file), "en"))
    assert str(error.value).isprintable()
