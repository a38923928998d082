"""Corpora as users have them: files of every kind and damage, shards, clones, mixed languages, a faltering hub."""

from __future__ import annotations

import errno
import json
import random
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest

from lnbench import passing_faults
from lnbench.corpora.corpus import Corpus, fingerprint, open_corpus
from lnbench.corpora.patterns import languages_of
from lnbench.errors import LnbenchError
from tests.support.corpora import TEXTS, as_jsonl, write_parquet
from tests.support.messages import refused

GOOD = b'{"text": "good"}\n'

# One bad line, in a file whose others are good → what the message names beside file and line.
BAD_LINES = {
    "byte order mark in the middle": (b'\xef\xbb\xbf{"text": "joined"}', ["U+FEFF"]),
    "null": (b"null", ["null"]),
    "NUL tail": (b"\0" * 4096, ["4,096", "NUL"]),
    "a list": (b'["text"]', ["list"]),
    "a number": (b"7", ["number"]),
    "a text": (b'"text"', ["text"]),
    "Latin-1": ('{"text": "caf\xe9"}'.encode("latin-1"), ["UTF-8", "0xE9", "14", "Latin-1"]),
    "Windows-1252": ('{"text": "“quoted”"}'.encode("cp1252"), ["UTF-8", "0x93"]),
    "lone surrogate": (b'{"text": "\\ud83d"}', ["surrogate", "ud83d"]),
    "lone low surrogate": (b'{"text": "x \\ude00"}', ["surrogate", "ude00"]),
    "CR only": (b'{"text": "a"}\r{"text": "b"}', ["CR"]),
    "cut off": (b'{"text": "half', ["JSON", "column 10", "cut off"]),
    "another key": (b'{"content": "a", "id": 1}', ["content, id", "--text-column"]),
    "text is a list": (b'{"text": ["a"]}', ["list"]),
    "text is a number": (b'{"text": 1}', ["number"]),
    "single quotes": (b"{'text': 'a'}", ["JSON", "column 2"]),
    "nested too deeply": (b"[" * 200_000, ["nested"]),
    "two objects": (b'{"text": "a"} {"text": "b"}', ["Extra data", "column 15"]),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named_with_its_cause_and_can_be_skipped(case, tmp_path):
    line, named = BAD_LINES[case]
    (tmp_path / "hi.jsonl").write_bytes(GOOD + line + b"\n" + GOOD)
    pattern = f"{tmp_path}/{{lang}}.jsonl"
    with refused("hi.jsonl, line 2", "--on-bad-line skip", *named) as caught:
        list(open_corpus(pattern, "hi", shuffle=False))
    assert "\n" not in str(caught.value)
    corpus = open_corpus(pattern, "hi", on_bad_line="skip")
    assert list(corpus) == ["good", "good"]
    assert (corpus.report.documents, corpus.report.bad_lines, corpus.report.used) == (3, 1, 2)
    assert "1 bad lines skipped" in corpus.report.sentence("hi")


def test_every_cause_has_words_of_its_own(tmp_path):
    said = {}
    for case, (line, _) in BAD_LINES.items():
        (tmp_path / "hi.jsonl").write_bytes(GOOD + line)
        with pytest.raises(LnbenchError) as caught:
            list(open_corpus(f"{tmp_path}/hi.jsonl", "hi"))
        said[case] = str(caught.value)
    assert len(set(said.values())) == len(said)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("hi.txt", b"a\rb\rc", ["line 1", "CR"]),
        ("hi.txt", b"good\n" + b"\0" * 10 + b"\n", ["line 2", "10", "NUL"]),
        ("hi.txt", "a".encode("utf-16"), ["UTF-16", "iconv"]),
        ("hi.csv", b"id,text\n1,a\n2,b,c\n", ["line 3", "3", "2"]),
        ("hi.csv", "id,text\n1,\xe9\n".encode("latin-1"), ["line 2", "UTF-8", "0xE9"]),
        ("hi.csv", b'id,text\n1,"never closed\n', ["hi.csv", "line 2", "end of data"]),
        ("hi.csv", b"id,body\n1,a\n", ["text", "id, body", "--text-column"]),
        ("hi.tsv", b"id\tbody\n1\ta\n", ["text", "id, body"]),
        ("hi.json", b'[{"text": "a"}, null]', ["entry 2", "null"]),
        ("hi.json", b'[{"text": "a"}', ["hi.json", "list"]),
        ("hi.jsonl.zst", b"(\xb5/\xfd\x04", ["truncated", "Zstandard"]),
        ("hi.txt.bz2", b"BZh9", ["truncated", "bzip2"]),
        ("hi.txt.xz", b"no xz", ["truncated", "not xz"]),
    ],
)
def test_files_of_other_kinds_name_the_cause(name, content, named, tmp_path):
    (tmp_path / name).write_bytes(content)
    with refused(*named) as caught:
        list(open_corpus(f"{tmp_path}/{name}", "hi", shuffle=False))
    assert "\n" not in str(caught.value)


def test_null_is_an_empty_document_everywhere(tmp_path):
    rows = [{"text": "a"}, {"text": None}]
    (tmp_path / "hi.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "hi.json").write_text(json.dumps(rows))
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "hi.parquet")
    (tmp_path / "clone").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "clone" / "train.parquet")
    patterns = [*(f"{tmp_path}/hi{suffix}" for suffix in (".jsonl", ".json", ".parquet")), f"{tmp_path}/clone:default"]
    for pattern in patterns:
        corpus = open_corpus(pattern, "hi")
        assert list(corpus) == ["a"] and corpus.report.empty == 1, pattern


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".json.gz"])
def test_another_column_is_named(suffix, tmp_path):
    rows = [{"id": str(number), "body": text} for number, text in enumerate(TEXTS)]
    path, pattern = tmp_path / f"hi{suffix}", f"{tmp_path}/{{lang}}{suffix}"
    table = datasets.Dataset.from_list(rows)
    if suffix == ".csv":
        table.to_csv(path)
    elif suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_json(path, compression="infer")
    with refused("text", "id, body", "--text-column"):
        Corpus(pattern, "hi").check()
    named = open_corpus(pattern, "hi", shuffle=False, text_column="body")
    named.check()
    assert list(named) == TEXTS
    assert fingerprint(pattern, "hi") != fingerprint(pattern, "hi", "body") != fingerprint(pattern, "hi", "id")


def shards(folder, *parts):
    folder.mkdir(parents=True)
    for number, texts in enumerate(parts):
        write_parquet(folder / f"train-{number:05}-of-{len(parts):05}.parquet", texts)


# Where the shards of a clone are, and patterns that read them.
PLACES = {
    "a folder per language": "{root}/20231101.{lang}",
    "shards by a star": "{root}/20231101.{lang}/train-*.parquet",
    "the clone of a dataset": "{root}:20231101.{lang}",
}


@pytest.mark.parametrize("case", PLACES)
@pytest.mark.parametrize("relative", [False, True])
def test_shards_and_clones_are_read_and_known_by_content(case, relative, tmp_path, monkeypatch):
    root = tmp_path / "org" / "data" / "wikipedia"
    shards(root / "20231101.hi", TEXTS[:2], TEXTS[2:])
    shards(root / "20231101.en", ["english"])
    write_parquet(root / "20231101.hi" / "test-00000-of-00001.parquet", ["not this"])
    configs = [
        {"config_name": f"20231101.{language}", "data_files": f"20231101.{language}/train-*"}
        for language in ("hi", "en")
    ]
    (root / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: pytest.fail("the hub is asked"))
    pattern = PLACES[case].replace("{root}", "org/data/wikipedia" if relative else str(root))
    assert list(open_corpus(pattern, "hi", shuffle=False)) == TEXTS
    if case != "the clone of a dataset":
        assert languages_of(pattern) == ["en", "hi"]
    before = open_corpus(pattern, "hi")
    assert len(before.source["sha256"]) == 2
    write_parquet(root / "20231101.hi" / "train-00001-of-00002.parquet", ["changed", *TEXTS[3:]])
    after = open_corpus(pattern, "hi")
    assert after.fingerprint != before.fingerprint and "changed" in list(after)
    english = fingerprint(pattern, "en")
    write_parquet(root / "20231101.hi" / "train-00000-of-00002.parquet", ["more"])
    assert fingerprint(pattern, "en") == english
    # The place is no part of it.
    root.rename(tmp_path / "org" / "data" / "moved")
    moved = pattern.replace("wikipedia", "moved")
    if case != "the clone of a dataset":
        assert fingerprint(moved, "en") == english


def test_a_clone_that_is_missing_is_not_looked_for_on_the_hub(tmp_path):
    with refused(tmp_path / "absent"):
        list(open_corpus(f"{tmp_path}/absent:20231101.{{lang}}", "hi"))


HINDI = ["भारत एक विशाल देश है जहाँ कई भाषाएँ बोली जाती हैं।", "दिल्ली भारत की राजधानी और एक बहुत बड़ा शहर है।"]
ENGLISH = [
    "The weather in the mountains was cold and rainy all week.",
    "She opened a small bookshop near the river last year.",
]
FRENCH = [
    "Le musée est fermé le mardi pendant toute la saison d'hiver.",
    "Nous avons mangé du pain frais près de la rivière.",
]
JAPANESE = [
    "東京は日本の首都であり、世界でも有数の大都市である。",
    "この本はとても面白いので、ぜひ読んでみてください。",
]


def mixed(own: list[str], other: list[str], share: float) -> list[str]:
    """Passages of ten sentences, some of another language."""
    draw = random.Random(0)
    return [" ".join(draw.choice(other if n < share * 10 else own) for n in range(10)) for _ in range(60)]


# Language, its sentences, others' → least and most share of foreign lines.
MIXTURES = {
    "Hindi with 20 % English sentences": ("hi", HINDI, ENGLISH, 0.2, "en"),
    "French that passes as English": ("en", FRENCH, FRENCH, 1.0, "fr"),
    "English in a French file": ("fr", FRENCH, ENGLISH, 0.3, "en"),
    "Japanese with Chinese-like English": ("ja", JAPANESE, ENGLISH, 0.1, "en"),
    "clean Hindi": ("hi", HINDI, HINDI, 0.0, "hi"),
    "clean Hindi by another code": ("hin_Deva", HINDI, HINDI, 0.0, "hi"),
}


@pytest.mark.parametrize("case", MIXTURES)
def test_shares_of_lines_are_counted_and_limited(case, tmp_path):
    language, own, other, share, identified = MIXTURES[case]
    (tmp_path / f"{language}.jsonl").write_bytes(as_jsonl(mixed(own, other, share)))
    pattern = f"{tmp_path}/{{lang}}.jsonl"
    corpus = open_corpus(pattern, language)
    assert len(list(corpus)) == 60
    shares = corpus.report.shares()
    assert shares["lines"] == 600 and shares["foreign"] == pytest.approx(share, abs=0.02)
    assert shares["languages"][identified] == pytest.approx(share or 1.0, abs=0.02)
    assert sum(shares["scripts"].values()) == pytest.approx(1.0)
    limited = open_corpus(pattern, language, max_foreign=0.05)
    if share > 0.05:
        with refused(language, identified, "5.0%", "--max-foreign"):
            list(limited)
        with refused(language):
            limited.check()
    else:
        limited.check()
        list(limited)


class Falters:
    """A stream that raises once at a document."""

    def __init__(self, texts, error, at, times=1):
        self.texts, self.error, self.at, self.left = texts, error, at, times

    def load(self, *args, **options):
        stream = self

        def rows():
            for number, text in enumerate(stream.texts):
                if number == stream.at and stream.left:
                    stream.left -= 1
                    raise stream.error
                yield {"text": text}

        return datasets.IterableDataset.from_generator(rows)


def http_error(status):
    error = OSError("busy")
    error.response = SimpleNamespace(status_code=status)
    return error


def _from(cause):
    error = RuntimeError("wrapped")
    error.__cause__ = cause
    return error


PASSING = {
    "read time-out": lambda: TimeoutError("The read operation timed out"),
    "connection reset": lambda: ConnectionResetError(errno.ECONNRESET, "reset"),
    "server disconnected": lambda: ConnectionError("Server Disconnected"),
    "503": lambda: http_error(503),
    "429": lambda: http_error(429),
    "a time-out inside another error": lambda: _from(TimeoutError("read")),
}
MANY = [f"document {number}" for number in range(60)]


@pytest.fixture
def waits(monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: (_ for _ in ()).throw(OSError("offline")))
    return waited


@pytest.mark.parametrize("case", PASSING)
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_passing_fault_of_the_hub_is_waited_for(case, shuffle, waits, monkeypatch):
    whole = Falters(MANY, None, -1)
    monkeypatch.setattr(datasets, "load_dataset", whole.load)
    expected = list(open_corpus("a/b:{lang}", "hi", shuffle=shuffle))
    faltering = Falters(MANY, PASSING[case](), 30, times=2)
    monkeypatch.setattr(datasets, "load_dataset", faltering.load)
    assert list(open_corpus("a/b:{lang}", "hi", shuffle=shuffle)) == expected
    assert faltering.left == 0 and waits


def test_a_fault_that_stays_says_that_the_same_command_continues(waits, monkeypatch):
    faltering = Falters(MANY, TimeoutError("The read operation timed out"), 30, times=99)
    monkeypatch.setattr(datasets, "load_dataset", faltering.load)
    with refused("a/b", "30 documents", "timed out", "the same command continues"):
        list(open_corpus("a/b:{lang}", "hi", shuffle=False))
    assert tuple(waits) == passing_faults.WAITS


@pytest.mark.parametrize("error", [http_error(404), ValueError("no such config"), _from(KeyError("x"))])
def test_other_faults_are_final(error, waits, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", Falters(MANY, error, 30, times=99).load)
    with refused("a/b"):
        list(open_corpus("a/b:{lang}", "hi", shuffle=False))
    assert waits == []
