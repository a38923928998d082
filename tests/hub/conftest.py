"""The hub's client pointed at a stand-in, with a cache of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import datasets.config
import huggingface_hub.hf_api
import pytest
from huggingface_hub import constants

from lnbench import passing_faults
from lnbench.corpora import hub as reading
from lnbench.hub_neurons import download
from tests.support.hub import Hub, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """One address for all tests: parts of the client keep the first that they see."""
    with serving(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def repo(tmp_path: Path) -> str:
    """A name of its own for each test: the client keeps in memory which commit a name stands for."""
    return f"somebody/{tmp_path.name}"


@pytest.fixture
def hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = server
    served.asked.clear()
    served.faults.clear()
    served.tokens = None
    download.cache_clear()
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", served.endpoint)
    monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name, value in {
        "HF_ENDPOINT": served.endpoint,
        "HUB_DATASETS_URL": served.endpoint + "/datasets/{repo_id}/resolve/{revision}/{path}",
        "HF_HUB_OFFLINE": False,
        "HF_DATASETS_OFFLINE": False,
        "HF_DATASETS_CACHE": tmp_path / "datasets",
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
    }.items():
        if hasattr(datasets.config, name):
            monkeypatch.setattr(datasets.config, name, value)
    monkeypatch.setattr(passing_faults, "WAITS", (0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(reading, "WAITS", (0.0, 0.0, 0.0, 0.0))
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    reading._commit.cache_clear()
    yield served
    reading._commit.cache_clear()
