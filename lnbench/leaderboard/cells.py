"""Results of ``lm_eval.simple_evaluate`` → rows, without a sweep's records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel

from lnbench.leaderboard.rows import Row
from lnbench.significance import compare


class Cell(BaseModel):
    """One lm-eval invocation's identity and its per-document values."""

    model: str
    selector: str
    intervention: str
    language: str
    command: str
    finetune: str = "none"
    versions: dict[str, Any] = {}
    tasks: dict[str, dict[str, list[float]]]
    """Task → metric → one value per document, in document order."""
    documents: dict[str, list[str]]
    """Task → the hash of each document, so that only the same documents are paired."""


def cell_values(results: Mapping[str, Any]) -> tuple[dict[str, dict[str, list[float]]], dict[str, list[str]]]:
    """Per-document values and document hashes of one lm-eval result with samples.

    Args:
        results: What ``lm_eval.simple_evaluate(…, log_samples=True)`` returns.
    """
    values: dict[str, dict[str, list[float]]] = {}
    documents: dict[str, list[str]] = {}
    for task, samples in results["samples"].items():
        ordered = sorted(samples, key=lambda sample: sample["doc_id"])
        metrics = {name for sample in ordered for name in sample["metrics"] if _is_number(sample.get(name))}
        values[task] = {name: [float(sample[name]) for sample in ordered] for name in sorted(metrics)}
        documents[task] = [str(sample["doc_hash"]) for sample in ordered]
    return values, documents


def rows_of(cell: Cell, baseline: Cell | None) -> list[Row]:
    """The rows of one cell, compared with ``baseline`` where both saw the same documents."""
    rows = []
    for task, metrics in cell.tasks.items():
        same = baseline is not None and baseline.documents.get(task) == cell.documents[task]
        for metric, values in metrics.items():
            before = baseline.tasks[task].get(metric) if baseline is not None and same else None
            rows.append(_row(cell, task, metric, values, before if cell is not baseline else None))
    return rows


def _row(cell: Cell, task: str, metric: str, values: list[float], before: list[float] | None) -> Row:
    own = np.asarray(values)
    stderr = float(own.std(ddof=1) / math.sqrt(len(own))) if len(own) > 1 else None
    compared: dict[str, Any] = {}
    if before is not None:
        found = compare(before, values)
        compared = {"baseline": found.before, "delta": found.delta, "p_value": found.p_value, "mde": found.mde}
        compared |= {"ci_low": found.ci_low, "ci_high": found.ci_high}
    told = cell.model_dump(include={"model", "selector", "finetune", "intervention", "language", "command"})
    measured = {"task": task, "metric": metric, "value": float(own.mean()), "stderr": stderr, "n": len(own)}
    return Row.model_validate({**told, **measured, **compared, **cell.versions})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
