"""Results of cells → ``leaderboard.json``: every metric beside its baseline, with a paired test of the difference."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import stats

from lnbench.errors import LnbenchError
from lnbench.files import read_json, write_json

log = logging.getLogger(__name__)
FORMAT = "lnbench.leaderboard/1"
_CONFIDENCE = 0.95
_RESAMPLES = 2000


class Row(BaseModel):
    """One cell, task and metric, and its difference to the same without intervention."""

    model_config = ConfigDict(extra="allow")

    model: str
    selector: str
    finetune: str
    intervention: str
    language: str
    task: str
    metric: str
    value: float
    stderr: float | None = None
    n: int
    baseline: float | None = None
    delta: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    command: str


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

    @property
    def paired_with(self) -> tuple[str, ...]:
        """What a cell shares with its baseline."""
        return (self.model, self.finetune, self.language)


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


def build(cells: Sequence[Cell]) -> list[Row]:
    """Rows of all cells; each is compared with the cell of the same model and language without intervention."""
    baselines = {cell.paired_with: cell for cell in cells if cell.intervention == "none"}
    return [row for cell in cells for row in rows_of(cell, baselines.get(cell.paired_with))]


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
    compared = compare(before, values) if before is not None else {}
    return Row(
        model=cell.model,
        selector=cell.selector,
        finetune=cell.finetune,
        intervention=cell.intervention,
        language=cell.language,
        task=task,
        metric=metric,
        value=float(own.mean()),
        stderr=stderr,
        n=len(own),
        command=cell.command,
        **compared,
        **cell.versions,
    )


def compare(before: Sequence[float], after: Sequence[float]) -> dict[str, float]:
    """The paired difference of two runs over the same documents.

    For values that are all 0 or 1 the p-value is McNemar's exact test, else a paired sign-flipping permutation test
    of the mean. The interval is a paired bootstrap's, 95 %.

    Args:
        before: One value per document, of the baseline.
        after: The same documents' values under the intervention.

    Returns:
        ``baseline``, ``delta`` (mean of after − before), ``ci_low``, ``ci_high``, ``p_value``.

    Raises:
        LnbenchError: the two runs have different numbers of documents.
    """
    if len(before) != len(after):
        raise LnbenchError(f"cannot pair {len(before)} documents with {len(after)}")
    first, second = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    difference = second - first
    result = {"baseline": float(first.mean()), "delta": float(difference.mean())}
    if not difference.any():
        return result | {"ci_low": 0.0, "ci_high": 0.0, "p_value": 1.0}
    if len(difference) < 2:
        return result
    if np.isin([first, second], (0.0, 1.0)).all():
        gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
        p_value = stats.binomtest(gained, gained + lost, 0.5).pvalue
    else:
        test = stats.permutation_test(
            (difference,),
            np.mean,
            permutation_type="samples",
            n_resamples=_RESAMPLES * 5,
            vectorized=True,
            rng=np.random.default_rng(0),
        )
        p_value = test.pvalue
    means = np.random.default_rng(0).choice(difference, (_RESAMPLES, len(difference))).mean(axis=1)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return result | {"ci_low": float(low), "ci_high": float(high), "p_value": float(p_value)}


def save(rows: Iterable[Row], path: str | Path) -> None:
    """Write ``leaderboard.json``."""
    write_json(path, {"format": FORMAT, "rows": [row.model_dump() for row in rows]})


def load(path: str | Path) -> list[Row]:
    """Read ``leaderboard.json``.

    Raises:
        LnbenchError: missing, truncated, or of another format.
    """
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise LnbenchError(f"{path} is not a leaderboard of format {FORMAT}")
    return [Row.model_validate(row) for row in found["rows"]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
