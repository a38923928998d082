"""How specific an effect is to a language's own neurons: matched specificity ρ and LangSpec-F1. Pure numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from lnbench.significance import LEAST_DRAWS, LEVEL

MEANINGS = {
    "rho": (
        "ρ, matched specificity: the change of the own language under its neurons, over its mean change under the "
        "draws of the control; 1 means that any such units do as much"
    ),
    "f1": (
        "LangSpec-F1: the harmonic mean of precision (the share of the harm that falls on the own language, beside the "
        "mean of the others) and recall (the share of the own language's performance that is lost); 1 means all of it, "
        "and no other's"
    ),
    "kl": (
        "KL: how far the next-token distribution moves from that of the unchanged model, in nats per token; 0 means "
        "that nothing changed"
    ),
    "selectivity": (
        "Diagonal selectivity: the change of the own language's text less the mean change of the others', a mean over "
        "languages; 0 means that neurons harm all languages alike"
    ),
}
"""What each number means, in one sentence."""


class Estimate(NamedTuple):
    """A number with its 95 % interval; None where it, or an end of the interval, is not known."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


def matched_specificity(own: float, draws: Sequence[float]) -> Estimate:
    """Return ρ = Δ own (set) / Δ own (control), with an interval over draws of the control.

    The interval is Fieller's of a ratio whose numerator is known: ``own`` over the ends of the t-interval of the draws'
    mean. It says how another mean of as many draws would move ρ, the text being as it is.

    Args:
        own: Change under the neurons, against the unchanged model.
        draws: Change under each draw of the control, in the same unit.

    Returns:
        ρ; without a value where the draws change nothing on average, and without an interval where they are fewer than
        three or all alike. An end is None where the ratio has no bound: where the mean of the draws cannot be told from
        0, ρ is as large as anything, and ``low`` alone says something.
    """
    values = np.asarray(draws, dtype=float)
    if not len(values):
        return Estimate()
    mean = float(values.mean())
    value = own / mean if mean else None
    if len(values) < LEAST_DRAWS or np.ptp(values) == 0:
        return Estimate(value)
    reach = float(stats.t.ppf(1 - LEVEL / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    # Turned so that the control's change is above 0; the ratio is the same.
    sign = math.copysign(1.0, mean or own)
    least, most, turned = sign * mean - reach, sign * mean + reach, sign * own
    near, far = turned / most, turned / least if least > 0 else None
    return Estimate(value, near, far) if turned >= 0 else Estimate(value, far, near)


def langspec_f1(own: ArrayLike, others: ArrayLike, base: ArrayLike, *, beta: float = 1.0) -> NDArray[np.float64]:
    """Return LangSpec-F of drops in performance (https://arxiv.org/abs/2601.04664), 0 where the own language has none.

    With d the drops, P = d_own / (d_own + mean of d_others) and R = d_own / base,
    F = (1 + β²) P R / (β² P + R).

    Args:
        own: Drop of the own language's performance when its neurons are changed; a rise counts as 0.
        others: Mean over the other languages of their drops, each a rise counted as 0 before.
        base: The own language's performance before, above 0.
        beta: Weight of recall.
    """
    drop, rest, before = (np.asarray(values, dtype=float) for values in (own, others, base))
    drop = np.maximum(drop, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = drop / (drop + rest), drop / before
        score: Any = (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
    return np.where(drop > 0, score, 0.0)
