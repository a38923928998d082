"""One world for all pages."""

from __future__ import annotations

import pytest

from tests.support.docs_world import World, save_model


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("docs")
    return World(folder, save_model(folder / "model"))
