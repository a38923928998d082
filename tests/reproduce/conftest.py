"""The data that tables are measured on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.reproduce import write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that LNBENCH_DATA names."""
    return write_data(tmp_path_factory.mktemp("data"))
