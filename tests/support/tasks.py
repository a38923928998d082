from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

TASKS = Path(__file__).resolve().parents[2] / "tasks"

Rows = list[dict[str, Any]]


class Oracle(LM):
    """Knows the right answer of every row, and remembers what it was asked."""

    def __init__(self, answer: str | None = None) -> None:
        super().__init__()
        self.answer = answer
        self.asked: list[Instance] = []

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        self.asked += requests
        return [(-1.0, True) if request.idx == request.doc["label"] else (-2.0, False) for request in requests]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self.asked += requests
        return [
            f" {request.doc['answers']['text'][-1]}" if self.answer is None else self.answer for request in requests
        ]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError


def languages_of(family: str) -> list[str]:
    """The languages that have a file in a folder of tasks."""
    return sorted(file.stem for file in (TASKS / family).glob("[!_]*.yaml"))


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def load_metrics(folder: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{folder}_metrics", TASKS / folder / "metrics.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
