"""Coverage of intervals where few documents change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from lnbench.significance import compare

_CHANGES: dict[str, tuple[Callable[[np.random.Generator, int], Any], float]] = {
    "as often up as down": (lambda random, n: random.uniform(-1, 1, n), 0.0),
    "all down, by any amount": (lambda random, n: -random.uniform(0, 1, n), -0.5),
    "all down, mostly by little": (lambda random, n: -random.beta(0.7, 1.5, n), -0.7 / 2.2),
    "all down, by 0.3": (lambda random, n: np.full(n, -0.3), -0.3),
}
"""What a change is → how changes are drawn, and their mean."""
TAIL = 0.05
RATES, DOCUMENTS = (0.02, 0.05, 0.2), (12, 48, 238)


def covered_by_few_changes(samples: int) -> dict[tuple[str, float], list[float]]:
    """Return kind of change and share of documents that change → coverage by number of documents."""
    return {
        (name, rate): [coverage(name, rate, documents, samples) for documents in DOCUMENTS]
        for name in _CHANGES
        for rate in RATES
    }


def coverage(name: str, rate: float, documents: int, samples: int) -> float:
    """Return how often the interval of an F1-like difference holds the true one."""
    random = np.random.default_rng([documents, int(100 * rate), list(_CHANGES).index(name)])
    draw, mean = _CHANGES[name]
    covered = 0
    for _ in range(samples):
        changes = np.where(random.random(documents) < rate, draw(random, documents), 0.0)
        # Scores from 0 to 1 between which such changes are possible.
        lowest, highest = np.maximum(0, -changes), np.minimum(1, 1 - changes)
        before = lowest + (highest - lowest) * random.integers(2, size=documents)
        found = compare(before, before + changes)
        covered += found.ci_low is not None and found.ci_low <= rate * mean <= (found.ci_high or 0.0)
    return covered / samples


def attainable(rate: float, documents: int) -> dict[str, float]:
    """Return the coverages next to 95 %, below and above, that an interval can have where all changes are of one size.

    Such a sample is the number of documents that changed, so that an interval holds the truth at some of these numbers
    and not at others. At 0 it does: an interval of no changes would else leave out a change of few documents.
    """
    held = stats.binom.cdf(np.arange(documents + 1), documents, rate)
    from_more = (
        [
            stats.binom.cdf(most, documents, rate) - stats.binom.cdf(least, documents, rate)
            for least in range(documents)
            for most in range(least + 1, documents + 1)
        ]
        if held[0] < TAIL
        else []
    )
    shares = np.concatenate([held, from_more])
    return {"below": float(shares[shares < 0.95].max()), "above": float(shares[shares >= 0.95].min())}
