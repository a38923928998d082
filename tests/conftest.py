"""Fixtures shared by all tests: a tiny model on disk, a small corpus, and a cache of their own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from lnbench.demo import DATA, LANGUAGES
from tests.support.tiny import SELECTOR, save_tiny

# ci: the same examples each time, so that a failure is of the change; long: for a night.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("long", deadline=None, max_examples=2_000)

USERS_CACHE = os.environ.get("LNBENCH_CACHE")

# Tiny models lose more to thread hand-over than they gain; on a busy machine, all of it.
os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Keep the user's cache, installed plugins and, unless a test is of them, data out of the tests."""
    if request.node.get_closest_marker("data") is None:
        monkeypatch.delenv("LNBENCH_DATA", raising=False)
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("LNBENCH_CACHE", str(folder))
    monkeypatch.setenv("LNBENCH_DISABLE_PLUGINS", "1")
    return folder


@pytest.fixture
def users_cache(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the user's cache, for the real model: converting it takes a minute, and a gigabyte."""
    if USERS_CACHE is None:
        monkeypatch.delenv("LNBENCH_CACHE")
    else:
        monkeypatch.setenv("LNBENCH_CACHE", USERS_CACHE)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny Llama with a byte-level tokenizer."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A corpus pattern with a little text in each of the demo's languages."""
    folder = tmp_path_factory.mktemp("corpus")
    for language in LANGUAGES:
        lines = (DATA / "corpus" / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()[:4]
        texts = [json.loads(line)["text"][:300] for line in lines]
        rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
        (folder / f"{language}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(folder / "{lang}.jsonl")


@pytest.fixture
def given(tiny_model: str, tiny_corpus: str) -> dict[str, Any]:
    """Arguments of an lnbench model that is ready for any intervention."""
    return {
        "pretrained": tiny_model,
        "corpus": tiny_corpus,
        "corpus_tokens": 400,
        "selector": SELECTOR,
        "batch_size": 4,
    }
