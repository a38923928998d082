"""Leaderboards and perplexity matrices of cells in which nothing differs but by chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lnbench.leaderboard import Row, build
from lnbench.leaderboard.merged_records import Result
from lnbench.perplexity.changes import SliceNats, cells_and_selectivity
from lnbench.significance import LEAST_DRAWS
from lnbench.sweeps.records import Record

DOCUMENTS = (12, 24, 100, 500)
DRAWS = (1, 3, 8)
_Values = Any
_BY_DOCUMENT, _BY_DRAW = 0.032, 0.004
"""Standard deviations fitted to bits per byte under random neurons."""
_SCORES = np.array([0, 0, 0, 1 / 3, 0.5, 0.8, 1])


def _accuracy(random: np.random.Generator, runs: int, n: int, _: float) -> _Values:
    """Every run, the unchanged one too, turns one answer in seven of the same model."""
    right = random.random(n) < 0.5
    return (right ^ (random.random((runs, n)) < 1 / 7)).astype(float)


def _f1(random: np.random.Generator, runs: int, n: int, _: float) -> _Values:
    """Every run answers a quarter of the questions in another way."""
    return np.where(random.random((runs, n)) < 0.25, random.choice(_SCORES, (runs, n)), random.choice(_SCORES, n))


def _bits(random: np.random.Generator, runs: int, n: int, by_run: float) -> _Values:
    """Documents differ; beside that, a run differs by document (0.032, as was fitted) and as a whole."""
    return random.gamma(8, 0.15, n) + random.normal(0, _BY_DOCUMENT, (runs, n)) + random.normal(0, by_run, (runs, 1))


METRICS: dict[str, Callable[[np.random.Generator, int, int, float], _Values]] = {
    "accuracy": _accuracy,
    "F1": _f1,
    "bits per byte": _bits,
}
_NAMES = {"accuracy": "acc", "F1": "f1", "bits per byte": "bits_per_byte"}


def leaderboard_rates(metric: str, documents: int, draws: int, samples: int) -> tuple[float, float, float | None]:
    """Return shares of simulated cells: differs from its baseline, interval holds 0, differs from random neurons.

    Draws of random neurons differ as a whole, and so do the neurons in question, as one more draw; with too few draws
    for a test, there is a baseline, from which nothing differs but by document. Each cell is of its own model, so that
    nothing is corrected for others.
    """
    random = np.random.default_rng([documents, draws, list(METRICS).index(metric)])
    results: list[Result] = []
    for number in range(samples):
        runs = METRICS[metric](random, draws + 2, documents, _BY_DRAW if draws >= LEAST_DRAWS else 0.0)
        model, name = f"m{number}", _NAMES[metric]
        if draws < LEAST_DRAWS:
            results.append(_result(model, name, runs[0], number, intervention="none", selector="-"))
        results.append(_result(model, name, runs[1], number, intervention="zero", selector="lape"))
        for seed, values in enumerate(runs[2:]):
            drawn = {"selector": f"random:like=lape:seed={seed}", "control_of": "lape", "control_seed": seed}
            results.append(_result(model, name, values, number, intervention="zero", **drawn))
    rows = [row for row in build(results) if row.selector == "lape"]
    assert len(rows) == samples
    return (
        _share(rows, "significant"),
        _covered(rows),
        _share(rows, "control_significant") if draws >= LEAST_DRAWS else None,
    )


def _share(rows: list[Row], mark: str) -> float:
    return float(np.mean([bool(getattr(row, mark)) for row in rows]))


def _covered(rows: list[Row]) -> float:
    known = [(row.ci_low, row.ci_high) for row in rows if row.ci_low is not None and row.ci_high is not None]
    return float(np.mean([low <= 0 <= high for low, high in known])) if known else math.nan


def _result(model: str, metric: str, values: _Values, number: int, **given: Any) -> Result:
    record = Record(
        cell=f"{number:016x}",
        model=model,
        language="hi",
        task="quiz_hi",
        metric=metric,
        value=float(values.mean()),
        n=len(values),
        command="",
        **given,
    )
    documents = tuple((place, "", None) for place in range(len(values)))
    return Result(record, documents, np.asarray(values, dtype=float), run=Path())


def matrix_rates(blocks: int, draws: int, samples: int) -> tuple[float, float, float | None]:
    """Return the same shares of a perplexity matrix's cells, one matrix each: nats per token, over blocks of text."""
    random = np.random.default_rng([blocks, draws, 9])
    differs, covers, marked = [], [], []
    for _ in range(samples):
        tokens = random.integers(100, 128, blocks).astype(float)
        unchanged = tokens * random.gamma(30, 0.1, blocks)
        as_a_whole = random.normal(0, _BY_DRAW if draws >= LEAST_DRAWS else 0.0, (draws + 1, 1))
        added = tokens * (random.normal(0, _BY_DOCUMENT, (draws + 1, blocks)) + as_a_whole)
        nats = SliceNats(
            tokens=tokens,
            sizes=4 * tokens,
            unchanged=unchanged,
            changed={"hi": unchanged + added[0]},
            controls={"hi": [unchanged + draw for draw in added[1:]]},
            outside={},
        )
        (cell,), _ = cells_and_selectivity({"hi": nats}, ["hi"])
        differs.append(cell.p_holm < 0.05)
        covers.append(cell.delta_nats_low is not None and cell.delta_nats_low <= 0 <= (cell.delta_nats_high or 0))
        marked.append(cell.control_p_holm is not None and cell.control_p_holm < 0.05)
    return float(np.mean(differs)), float(np.mean(covers)), float(np.mean(marked)) if draws >= LEAST_DRAWS else None
