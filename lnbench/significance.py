"""Two runs over the same documents: the difference, its interval, its p-value, and the minimal detectable effect.

Pure numbers: nothing here knows of models, tasks or files.
"""

from __future__ import annotations

import math
from collections import defaultdict
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
LEAST_DRAWS = 3
"""Draws of random neurons from which something can be said of random neurons at large."""
_RESAMPLES = 5_000
_PERMUTATIONS = 9_999
"""At least so many random ones are drawn."""
_FINENESS = 4
"""The least p-value of random permutations, corrected for its family, is ``LEVEL`` over this or less."""
_STILL_OPEN = 20
"""Of the first random permutations as extreme as the sample, fewer than these: a smaller p-value is still possible."""
_PSEUDO_CHANGES = 0.5
"""Changes as large as the range of the scores that :func:`scaled_tango_interval` adds to those that were seen."""
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
    """95 % interval of ``delta``; None where the sample has no spread to make one from."""
    p_value: float | None
    """Two-sided; None where there is no test."""
    mde: float | None
    """Minimal detectable effect: the smallest difference that so many documents show with 80 % power at the 5 % level;
    None where the sample does not say, or where no difference could have been shown."""
    least_p: float | None = None
    """The smallest p-value that any change of so many documents could have had; None for a test without a limit."""


def compare(before: ArrayLike, after: ArrayLike, *, family: int = 1) -> Comparison:
    """Return the paired difference of two runs, see :func:`compare_all`.

    Args:
        before: One value per document, ``[n]``.
        after: The same documents' values under what is tested, ``[n]``.
        family: How many tests the p-value will be corrected for together.

    Raises:
        LnbenchError: no documents, other numbers of documents, or values that are not finite.
    """
    return compare_all([(before, after)], [family])[0]


def compare_all(pairs: Sequence[tuple[ArrayLike, ArrayLike]], families: Sequence[int]) -> list[Comparison]:
    """Return the paired difference of each pair of runs.

    Values that are all 0 or 1 are tested by McNemar's exact test, and have Tango's score interval. Anything else is
    tested by :func:`sign_flip_tests`, and has a bootstrap interval; where most documents did not change at all,
    :func:`scaled_tango_interval`.

    Args:
        pairs: Before and after, each one value per document, ``[n]``.
        families: For each pair, how many tests its p-value will be corrected for together.

    Raises:
        LnbenchError: no documents, other numbers of documents, or values that are not finite.
    """
    runs = [_checked(before, after) for before, after in pairs]
    shared: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, ((first, second), family) in enumerate(zip(runs, families, strict=True)):
        if not _is_binary(first, second):
            shared[len(first), family].append(place)
    p_values: dict[int, float] = {}
    for (_, family), places in shared.items():
        differences = np.stack([runs[place][1] - runs[place][0] for place in places])
        p_values |= zip(places, sign_flip_tests(differences, family=family), strict=True)
    return [
        _comparison(*run, p_values.get(place), family)
        for place, (run, family) in enumerate(zip(runs, families, strict=True))
    ]


def _comparison(first: _Floats, second: _Floats, p_value: float | None, family: int) -> Comparison:
    """Return one comparison; by its p-value of :func:`sign_flip_tests`, or None for values that are all 0 or 1."""
    difference = second - first
    low: float | None
    high: float | None
    if p_value is None:
        gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
        p_value, (low, high) = mcnemar(gained, lost), tango_interval(gained, lost, len(second))
        mde, least = detectable_proportion(gained + lost, len(second)), 2.0 ** (1 - len(second))
    else:
        mostly_unchanged = 2 * np.count_nonzero(difference) < len(difference)
        span = float(np.ptp([first, second]))
        low, high = scaled_tango_interval(difference, span) if mostly_unchanged else bootstrap_interval(difference)
        mde, least = detectable_mean(difference), least_p(len(second), family)
    return Comparison(float(first.mean()), float(difference.mean()), low, high, p_value, mde, min(1.0, least))


def _checked(before: ArrayLike, after: ArrayLike) -> tuple[_Floats, _Floats]:
    first, second = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if second.ndim != 1 or first.shape != second.shape or second.size == 0:
        raise LnbenchError(
            f"cannot compare runs of shapes {first.shape} and {second.shape}: pass one score per document, [n]"
        )
    _check_finite(first, second)
    return first, second


def _check_finite(*values: _Floats) -> None:
    if not all(np.isfinite(some).all() for some in values):
        raise LnbenchError("cannot compare values that are not finite numbers")


def _is_binary(*values: _Floats) -> bool:
    return all(np.isin(some, (0.0, 1.0)).all() for some in values)


def compare_with_draws(draws: ArrayLike, after: ArrayLike) -> Comparison:
    """Return the difference of a run to draws of random neurons: whether it is beyond what one more draw might do.

    A t-test over draws and documents. Its variance is that of one more draw's difference to the mean of the draws,
    estimated from the draws' means, which vary by draw and by document, with D − 1 degrees of freedom. Where the run's
    differences vary more between documents than the draws' do, the excess is added, with n − 1 degrees of freedom
    (Satterthwaite 1946).

    Args:
        draws: One row per draw, ``[draws, n]``.
        after: The same documents' values under what is tested, ``[n]``.

    Returns:
        The comparison; with fewer than :data:`LEAST_DRAWS` draws, or without any spread, the difference alone.

    Raises:
        LnbenchError: no documents or draws, other numbers of documents, or values that are not finite.
    """
    second, first = np.asarray(after, dtype=float), np.asarray(draws, dtype=float)
    if second.ndim != 1 or first.ndim != 2 or first.shape[1] != len(second) or second.size == 0 or first.size == 0:
        raise LnbenchError(
            f"cannot compare draws of shape {first.shape} with a run of shape {second.shape}: pass one score per "
            "document, [draws, n] and [n]"
        )
    _check_finite(first, second)
    count, n = first.shape
    difference = second - first.mean(axis=0)
    before, delta = float(first.mean()), float(difference.mean())
    if count < LEAST_DRAWS or n < 2:
        return Comparison(before, delta, None, None, None, None)
    of_one_more = 1 + 1 / count
    residual = (first - first.mean(axis=0)).var(axis=1, ddof=1).sum() / (count - 1)
    by_document = float(residual * of_one_more / n)
    by_draw = float(first.mean(axis=1).var(ddof=1)) * of_one_more
    excess = max(0.0, float(difference.var(ddof=1)) / n - by_document)
    rounding = 1e-12 * float(np.abs([*first, second]).max())
    if by_draw <= rounding**2:
        # Means of few right or wrong answers can be equal by chance.
        by_draw = by_document
    if by_draw + excess <= rounding**2:
        return Comparison(before, delta, None, None, None if abs(delta) > rounding else 1.0, None)
    share = excess / (excess + max(by_draw, by_document))
    freedom = 1 / ((1 - share) ** 2 / (count - 1) + share**2 / (n - 1))
    error = math.sqrt(by_draw + excess)
    reach = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * error
    mde = reach + float(stats.t.ppf(POWER, freedom)) * error
    p_value = 2 * float(stats.t.sf(abs(delta) / error, freedom))
    return Comparison(before, delta, delta - reach, delta + reach, p_value, mde)


def mcnemar(gained: int, lost: int) -> float:
    """Return the p-value of McNemar's exact test: two-sided binomial, of gained against lost documents."""
    return float(stats.binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def permutations(family: int) -> int:
    """Return how many random permutations are drawn for each of a family of tests that are corrected together.

    They grow with the family, as the smallest p-value that they can give, times the family, must stay below the level.
    """
    return max(_PERMUTATIONS, math.ceil(_FINENESS * family / LEVEL) - 1)


def least_p(documents: int, family: int = 1) -> float:
    """Return the smallest p-value that :func:`sign_flip_tests` can give: of all documents changed in one direction."""
    drawn = permutations(family)
    return 2.0 ** (1 - documents) if 2**documents <= drawn + 1 else 1 / (drawn + 1)


def sign_flip_tests(differences: ArrayLike, *, family: int = 1) -> list[float]:
    """Return the two-sided p-value of each test that differences have a mean of 0, by flipping their signs.

    Before and after are as likely to be in the other order in each document. A test is exact where the documents that
    changed have no more sign patterns than random ones would be drawn (:func:`permutations`). The random ones are the
    same in every test of as many documents; beyond the first 9,999 they are drawn for the tests only that could have a
    smaller p-value.

    Args:
        differences: After − before, ``[tests, n]``.
        family: How many tests are corrected together, these or more.
    """
    values = np.atleast_2d(np.asarray(differences, dtype=float))
    drawn = permutations(family)
    p_values = np.ones(len(values))
    left = []
    for place, row in enumerate(values):
        changed = row[row != 0]
        if 2 ** len(changed) > drawn + 1:
            left.append(place)
        elif len(changed):
            p_values[place] = _every_flip(changed)
    if left:
        p_values[left] = _random_flips(values[left], drawn)
    return list(map(float, p_values))


def _threshold(values: _Floats) -> _Floats:
    """Return, for each row, what a sum of flipped signs must reach to be as extreme, but for rounding."""
    threshold: _Floats = np.abs(values.sum(axis=-1)) * (1 - 1e-9) - 1e-12 * np.abs(values).sum(axis=-1)
    return threshold


def _every_flip(changed: _Floats) -> float:
    sums = np.zeros(1)
    for value in changed:
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= _threshold(changed)).mean())


def _random_flips(values: _Floats, drawn: int) -> _Floats:
    """Return the p-values of ``[tests, n]`` by random flips; the ones of the sample itself count as one."""
    tests, n = values.shape
    total, threshold = values.sum(axis=1), _threshold(values)
    extreme, flips = np.zeros(tests), np.full(tests, float(min(drawn, _PERMUTATIONS)))
    active = np.arange(tests)
    random, done = np.random.default_rng(_SEED), 0
    while len(active) and done < drawn:
        stop = _PERMUTATIONS if done < _PERMUTATIONS else drawn
        rows = min(max(1, _CHUNK // n), stop - done)
        bits = np.unpackbits(random.integers(256, size=(rows, -(-n // 8)), dtype=np.uint8), axis=1, count=n)
        sums = 2 * (bits.astype(float) @ values[active].T) - total[active]
        extreme[active] += (np.abs(sums) >= threshold[active]).sum(axis=0)
        done += rows
        if done == _PERMUTATIONS < drawn:
            # More flips would make the p-values of the others more precise, and none of them significant.
            active = active[extreme[active] < _STILL_OPEN]
            flips[active] = drawn
    p_values: _Floats = (extreme + 1) / (flips + 1)
    return p_values


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's step-down correction (1979), which controls the family-wise error rate."""
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return list(map(float, corrected))


def bootstrap_interval(difference: _Floats) -> tuple[float, float] | tuple[None, None]:
    """Return the percentile bootstrap interval of a mean, widened for small samples, see :func:`widened_tail`.

    None where the values have no spread: resamples of equal values say nothing of other documents.
    """
    n = len(difference)
    if n < 2 or np.ptp(difference) == 0:
        return None, None
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


def scaled_tango_interval(difference: _Floats, span: float) -> tuple[float, float] | tuple[None, None]:
    """Return an interval of a mean difference where most documents did not change: few changes, of different sizes.

    Changes of different sizes are as uncertain as fewer changes of one size, Σd² / Σ|d| (the scaled Poisson
    distribution of Bohm and Zech 2014, https://arxiv.org/abs/1309.1287). The interval is Tango's for so many gained and
    lost documents, times that size. To the size, not to the counts, half a change as large as ``span`` is added, for
    the large ones that a sample of few changes has not seen. For values of 0 and 1 it is Tango's interval itself.

    Args:
        difference: After − before, ``[n]``.
        span: The range of the scores, the largest change that is thought possible.

    Returns:
        The interval; None where the scores are all the same.
    """
    pseudo = _PSEUDO_CHANGES * span
    if pseudo == 0:
        return None, None
    size = float(((difference**2).sum() + pseudo * span) / (np.abs(difference).sum() + pseudo))
    gained, lost = difference[difference > 0].sum() / size, -difference[difference < 0].sum() / size
    low, high = tango_interval(float(gained), float(lost), len(difference))
    return size * low, size * high


@lru_cache(maxsize=4096)
def tango_interval(gained: float, lost: float, n: int) -> tuple[float, float]:
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


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Return Wilson's (1927) 95 % interval of a share: ``right`` of ``n``."""
    interval = stats.binomtest(right, n).proportion_ci(1 - LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def detectable_mean(difference: _Floats) -> float | None:
    """Return the MDE of a paired t-test on a sample of this spread and size."""
    n = len(difference)
    if n < 2 or np.ptp(difference) == 0:
        return None
    quantiles = stats.t.ppf(1 - LEVEL / 2, n - 1) + stats.t.ppf(POWER, n - 1)
    return float(quantiles * difference.std(ddof=1) / math.sqrt(n))


@lru_cache(maxsize=4096)
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
