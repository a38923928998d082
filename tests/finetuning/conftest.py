"""A tiny model, its neurons, and data for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lnbench.lm import LNBenchLM
from lnbench.neurons import NeuronSet
from tests.support.finetuning import SETTINGS, write_data


@pytest.fixture(scope="session")
def training_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def training_data(training_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``LNBENCH_DATA`` with a few English rows."""
    monkeypatch.setenv("LNBENCH_DATA", str(training_folder))
    return training_folder


@pytest.fixture(scope="session")
def neurons_file(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    mask = torch.zeros(3, 24, dtype=torch.bool)
    mask[:, ::5] = True
    path = tmp_path_factory.mktemp("neurons") / "neurons.json"
    NeuronSet.from_masks(tiny_model, {"en": mask, "hi": ~mask}).save(path)
    return path


@pytest.fixture
def lm(tiny_model: str) -> LNBenchLM:
    return LNBenchLM(tiny_model, device="cpu")


@pytest.fixture
def job_fields(tiny_model: str, neurons_file: Path, tmp_path: Path) -> dict[str, Any]:
    """A request that trains for four steps."""
    return {
        "finetuner": "masked_lora:rank=4",
        "out": tmp_path / "adapter",
        "model": tiny_model,
        "neurons": neurons_file,
        "languages": "en",
        "data": "xnli",
        "settings": dict(SETTINGS),
    }
