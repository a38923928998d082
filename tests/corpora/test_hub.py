"""Datasets of the hub, which the tests replace by one in memory."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest

from lnbench.corpora import hub
from lnbench.corpora.corpus import fingerprint, open_corpus
from lnbench.corpora.patterns import languages_of
from tests.support.corpora import TEXTS
from tests.support.messages import refused

PATTERN = "wikimedia/wikipedia:20231101.{lang}"
COMMIT, OTHER = "0123456789" * 4, "abcdef0123" * 4


class Hub:
    """A hub with one dataset; ``loaded`` and ``asked`` are what it was asked for."""

    def __init__(self) -> None:
        self.columns = {"text": [*TEXTS, " ", None], "id": [*range(len(TEXTS) + 2)]}
        self.commits = {None: COMMIT, "v1": OTHER}
        self.loaded: list[tuple] = []
        self.asked: list[tuple] = []

    def load_dataset(self, *args, **options):
        self.loaded.append((*args, options))
        return datasets.Dataset.from_dict(self.columns).to_iterable_dataset()

    def dataset_info(self, repo, revision=None, timeout=None):
        self.asked.append((repo, revision))
        if revision not in self.commits:
            raise OSError("offline")
        return SimpleNamespace(sha=self.commits[revision])


@pytest.fixture
def fake(monkeypatch) -> Hub:
    fake = Hub()
    monkeypatch.setattr(datasets, "load_dataset", fake.load_dataset)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    hub._commit.cache_clear()
    return fake


def test_a_dataset_is_read_like_a_file(fake):
    corpus = open_corpus(PATTERN, "hi", seed=3)
    assert Counter(corpus) == Counter(TEXTS) and corpus.report.empty == 2
    assert list(corpus) == list(open_corpus(PATTERN, "hi", seed=3))
    assert list(open_corpus(PATTERN, "hi", shuffle=False)) == TEXTS
    options = {"split": "train", "streaming": True, "revision": COMMIT}
    assert fake.loaded[0] == ("wikimedia/wikipedia", "20231101.hi", options)
    with refused("languages="):
        languages_of(f"{PATTERN}@v1")


def test_the_commit_is_asked_for_once(fake):
    corpora = [open_corpus(PATTERN, language) for language in ("hi", "en")]
    assert fake.asked == []
    for corpus in corpora:
        list(corpus)
        assert corpus.source == {
            "repo": "wikimedia/wikipedia",
            "config": f"20231101.{corpus.language}",
            "split": "train",
            "revision": COMMIT,
        }
    assert corpora[0].fingerprint != corpora[1].fingerprint
    assert fake.asked == [("wikimedia/wikipedia", None)]


@pytest.mark.parametrize(
    ("pinned", "commit"), [("v1", OTHER), (COMMIT, COMMIT), ("refs/convert/parquet", "refs/convert/parquet")]
)
def test_a_revision_can_be_pinned(fake, pinned, commit):
    corpus = open_corpus(f"{PATTERN}@{pinned}", "hi")
    list(corpus)
    assert corpus.source["revision"] == fake.loaded[0][-1]["revision"] == commit
    assert corpus.source["config"] == "20231101.hi"
    same = fingerprint(PATTERN, "hi") == fingerprint(f"{PATTERN}@{pinned}", "hi")
    assert same == (commit == COMMIT)


def test_without_the_hub_the_commit_is_unknown(fake):
    fake.commits = {}
    corpus = open_corpus(PATTERN, "hi")
    assert sorted(corpus) == sorted(TEXTS)
    assert corpus.source["revision"] is None
    # A commit that is found out later does not change what this corpus is.
    known = corpus.fingerprint
    fake.commits = {None: COMMIT}
    assert corpus.fingerprint == known != open_corpus(PATTERN, "hi").fingerprint


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"content": ["a"]}, ["text", "content"]),
        ({"text": [1]}, ["text", "it has: text"]),
    ],
)
def test_a_dataset_without_text_is_explained(fake, columns, named):
    fake.columns = columns
    with refused(*named):
        list(open_corpus(PATTERN, "hi"))


def test_a_dataset_that_cannot_be_read_is_explained(fake, monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("offline\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with refused("20231101.hi", "wikimedia/wikipedia", "offline") as caught:
        list(open_corpus(PATTERN, "hi"))
    assert "\n" not in str(caught.value)
