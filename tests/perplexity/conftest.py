from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from lnbench.demo import CORPUS
from lnbench.neurons import NeuronSet
from lnbench.perplexity.request import PerplexityRequest
from lnbench.perplexity.slices import Slice, cut
from tests.support.tiny import SELECTOR

LANGUAGES = ("en", "hi", "ur")


@pytest.fixture(scope="session")
def model(tiny_model: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model)


@pytest.fixture(scope="session")
def tokenizer(tiny_model: str) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="session")
def slices(tokenizer: Any) -> dict[str, Slice]:
    """A few blocks of text each; the last one is shorter."""
    return {language: cut(tokenizer, CORPUS, language, tokens=300, length=32) for language in LANGUAGES}


@pytest.fixture(scope="session")
def neurons() -> NeuronSet:
    """Some neurons each, but for Urdu; two are shared."""
    chosen: dict[str, dict[int, list[int]]] = {"en": {0: [1, 2, 3], 1: [4]}, "hi": {0: [2, 3, 9], 2: [5, 6]}, "ur": {}}
    return NeuronSet("tiny-llama", 3, 24, chosen)


@pytest.fixture
def request_of(tiny_model: str, own_cache: Path) -> Any:
    def make(**changes: Any) -> PerplexityRequest:
        given = {
            "model": tiny_model,
            "selector": SELECTOR,
            "languages": "en+hi",
            "tokens": 300,
            "length": 32,
            "corpus_tokens": 400,
            "controls": 1,
            "batch_size": 4,
        }
        return PerplexityRequest(**(given | changes))

    return make
