"""The device that these tests run on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder ``gpu``, and skip it where there is no device for it."""
    there = torch.cuda.is_available() or "TEST_DEVICE" in os.environ
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not there:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device (make gpu DEVICE=cpu rehearses it)"))


@pytest.fixture(scope="session")
def device() -> str:
    """``cuda``, or what TEST_DEVICE names."""
    return os.environ.get("TEST_DEVICE", "cuda")
