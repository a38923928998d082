"""One sweep that nothing disturbed, for all tests that compare another with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.sweeps import spec_of, sweep


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "cache"


@pytest.fixture(scope="session")
def undisturbed(
    tiny_model: str, tiny_corpus: str, tmp_path_factory: pytest.TempPathFactory, shared_cache: Path
) -> Path:
    """The folder of a finished sweep of :func:`sweep_helpers.spec_of`."""
    given: dict[str, Any] = {
        "pretrained": tiny_model,
        "corpus": tiny_corpus,
        "corpus_tokens": 400,
        "selector": "act_prob:fraction=0.15",
    }
    out = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LNBENCH_CACHE", str(shared_cache))
        patch.setenv("LNBENCH_DISABLE_PLUGINS", "1")
        outcome = sweep(spec_of(given), out)
    assert (outcome.cells, outcome.failed) == (10, {})
    return out
