"""What so much text is worth, by a curve that was measured once: how many neurons more text could still change."""

from __future__ import annotations

from lnbench import demo
from lnbench.analysis.until_stable import StabilityCurve, StabilityPoint

PAPERS = 100_000_000
"""Tokens per language that the paper reads."""


def text_worth(tokens: int) -> str:
    """Return sentences on how far another text of as many tokens would choose the same neurons.

    They quote :data:`lnbench.demo.CURVE`, a curve of one model: the point whose halves are nearest to ``tokens``, and
    the last.

    Args:
        tokens: Read per language.
    """
    curve = StabilityCurve.load(demo.CURVE)
    nearest = min(curve.points, key=lambda point: abs(_half(point) - tokens))
    last = curve.points[-1]
    more = "" if nearest is last else f"; two of {_half(last):,}, of {_range(last)}"
    return (
        f"In {curve.model}, two texts of {_half(nearest):,} tokens per language chose neurons of a Jaccard index of "
        f"{_range(nearest)}{more} ({', '.join(curve.selectors)}). What more text of such kind can still "
        f"change, as the paper's {PAPERS:,} tokens, is about the rest."
    )


def _half(point: StabilityPoint) -> int:
    return max(point.tokens.values()) // 2


def _range(point: StabilityPoint) -> str:
    known = [value for each in point.jaccard.values() for value in each.values() if value is not None]
    return f"{min(known):.2f} to {max(known):.2f}"
