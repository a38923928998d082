"""Two runs over the same documents: the difference, its interval, its p-value, and the minimal detectable effect.

Pure numbers: nothing here knows of models, tasks or files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from lnbench.errors import LnbenchError

LEVEL = 0.05
"""Two-sided level of tests; intervals have the confidence 1 − LEVEL."""
POWER = 0.8
"""Of :attr:`Comparison.mde`."""
_RESAMPLES = 5_000
_PERMUTATIONS = 9_999
_EXACT = 20_000
"""All permutations are tried where there are no more than these."""
_CHUNK = 2**18
"""Numbers drawn at a time, so that they stay in the processor's cache."""
_SEED = 0
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """What one run changed against another over the same documents."""

    before: float
    """Mean of the run that it is compared with; of the means, where there are several."""
    delta: float
    """Mean of after − before."""
    ci_low: float | None
    ci_high: float | None
    """95 % interval of ``delta``; None for a single document whose values are not 0 or 1."""
    p_value: float
    """Two-sided."""
    mde: float | None
    """Minimal detectable effect: the smallest difference that so many documents show with 80 % power at the 5 % level;
    None where the sample does not say, or where no difference could have been shown."""


def compare(before: ArrayLike, after: ArrayLike) -> Comparison:
    """Return the paired difference of two runs; or of one and the average of several.

    Values that are all 0 or 1, in two runs, are tested by McNemar's exact test, and have Tango's score interval.
    Anything else is tested by :func:`exchange_test`, and has a bootstrap interval.

    Args:
        before: One value per document, ``[n]``; or one row per run, ``[runs, n]``.
        after: The same documents' values under what is tested, ``[n]``.

    Raises:
        LnbenchError: no documents, other numbers of documents, or values that are not finite.
    """
    second = np.asarray(after, dtype=float)
    first = np.atleast_2d(np.asarray(before, dtype=float))
    if second.ndim != 1 or first.ndim != 2 or first.shape[1] != len(second) or second.size == 0 or first.size == 0:
        raise LnbenchError(
            f"cannot compare runs of shapes {first.shape} and {second.shape}: pass one score per document, [n] or "
            "[runs, n]"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise LnbenchError("cannot compare values that are not finite numbers")
    difference = second - first.mean(axis=0)
    interval: tuple[float | None, float | None]
    if len(first) == 1 and np.isin(first, (0.0, 1.0)).all() and np.isin(second, (0.0, 1.0)).all():
        gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
        interval = tango_interval(gained, lost, len(second))
        p_value = mcnemar(gained, lost)
        mde = detectable_proportion(gained + lost, len(second))
    else:
        interval = bootstrap_interval(difference)
        p_value = exchange_test(np.vstack([second, first]))
        mde = detectable_mean(difference)
    return Comparison(float(first.mean()), float(difference.mean()), interval[0], interval[1], p_value, mde)


def mcnemar(gained: int, lost: int) -> float:
    """Return the p-value of McNemar's exact test: two-sided binomial, of gained against lost documents."""
    return float(stats.binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def exchange_test(values: _Floats) -> float:
    """Return the two-sided p-value of a permutation test of the first run against the others, within documents.

    The statistic is the first run's mean less the mean of all. With two runs, the test flips the signs of the
    differences. It is exact where there are few permutations, else takes random ones.

    Args:
        values: ``[runs, n]``.
    """
    runs = len(values)
    scores = values - values.mean(axis=0)
    scores = scores[:, (values != values[0]).any(axis=0)]
    documents = scores.shape[1]
    observed = abs(scores[0].sum()) * (1 - 1e-9)
    flat, first = scores.T.ravel(), np.arange(documents) * runs
    if runs**documents <= _EXACT:
        codes = np.arange(runs**documents)[:, None] // runs ** np.arange(documents)
        return float((np.abs(flat[first + codes % runs].sum(axis=1)) >= observed).mean())
    random, rows = np.random.default_rng(_SEED), max(1, _CHUNK // documents)
    extreme = 0
    for start in range(0, _PERMUTATIONS, rows):
        chosen = random.integers(runs, size=(min(rows, _PERMUTATIONS - start), documents), dtype=np.uint16)
        extreme += int((np.abs(flat[first + chosen].sum(axis=1)) >= observed).sum())
    return (extreme + 1) / (_PERMUTATIONS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's step-down correction (1979), which controls the family-wise error rate."""
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return list(map(float, corrected))


def bootstrap_interval(difference: _Floats) -> tuple[float, float] | tuple[None, None]:
    """Return the percentile bootstrap interval of a mean, widened for small samples, see :func:`widened_tail`."""
    n = len(difference)
    if n < 2:
        return None, None
    if np.ptp(difference) == 0:
        return float(difference[0]), float(difference[0])
    interval = stats.bootstrap(
        (difference,),
        np.mean,
        method="percentile",
        confidence_level=1 - 2 * widened_tail(n),
        n_resamples=_RESAMPLES,
        batch=max(1, _CHUNK // n),
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def widened_tail(n: int) -> float:
    """Return the level of a percentile interval's lower end for ``n`` ≥ 2 values; the upper end's is 1 minus it.

    It makes the interval wider than a normal one as a t-interval is: Hesterberg (2015), https://arxiv.org/abs/1411.5279.
    """
    return float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf(LEVEL / 2, n - 1)))


def tango_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """Return Tango's (1998) score interval of the difference of two paired proportions.

    Unlike the bootstrap's, it has a width where no document changed.
    """
    bound = stats.norm.ppf(1 - LEVEL / 2)

    def score(delta: float) -> float:
        linear = (2 * n - gained + lost) * delta - gained - lost
        root = math.sqrt(max(0.0, linear**2 + 8 * n * lost * delta * (1 - delta)))
        variance = n * ((root - linear) / (2 * n) + delta * (1 - delta))
        return float((gained - lost - n * delta) / math.sqrt(max(variance, 1e-300)))

    centre, edge = (gained - lost) / n, 1 - 1e-12
    low, high = -1.0, 1.0
    if centre > -edge and score(-edge) > bound:
        low = optimize.brentq(lambda delta: score(delta) - bound, -edge, centre)
    if centre < edge and score(edge) < -bound:
        high = optimize.brentq(lambda delta: score(delta) + bound, centre, edge)
    return float(low), float(high)


def detectable_mean(difference: _Floats) -> float | None:
    """Return the MDE of a paired t-test on a sample of this spread and size."""
    n = len(difference)
    if n < 2 or np.ptp(difference) == 0:
        return None
    quantiles = stats.t.ppf(1 - LEVEL / 2, n - 1) + stats.t.ppf(POWER, n - 1)
    return float(quantiles * difference.std(ddof=1) / math.sqrt(n))


def detectable_proportion(changed: int, n: int) -> float | None:
    """Return the MDE of McNemar's exact test, in a difference of two paired proportions.

    Documents are taken to change as often as ``changed`` of ``n`` did, or as often as the difference needs if that is
    more.
    """
    if mcnemar_power(1.0, 1.0, n) < POWER:
        return None
    rate = changed / n
    return float(optimize.brentq(lambda delta: mcnemar_power(delta, max(rate, delta), n) - POWER, 1e-9, 1.0, xtol=1e-6))


def mcnemar_power(delta: float, discordance: float, n: int) -> float:
    """Return the power of McNemar's exact test: how often it finds a true difference, in its direction.

    Args:
        delta: The difference of the proportions, above 0.
        discordance: Share of documents that change, at least ``delta``.
        n: Documents.
    """
    changed = np.arange(n + 1)
    against = (discordance - delta) / (2 * discordance)
    weights = stats.binom.pmf(changed, n, discordance)
    return float((weights * stats.binom.cdf(_most_against(n), changed, against)).sum())


@lru_cache(maxsize=64)
def _most_against(n: int) -> _Floats:
    """Return, for 0 … n changed documents, how many may have gone the other way for the test to reject."""
    changed = np.arange(n + 1)
    most: _Floats = stats.binom.ppf(LEVEL / 2, changed, 0.5)
    most -= stats.binom.cdf(most, changed, 0.5) > LEVEL / 2
    return most
