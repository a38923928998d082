"""Which of the paper's conclusions hold in the measured cells: paired comparisons, and a verdict from all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from lnbench.host import changes_nothing
from lnbench.leaderboard.merged_records import Result
from lnbench.reproduce import catalogue
from lnbench.reproduce.catalogue import Claim
from lnbench.reproduce.measurements import Measurements
from lnbench.reproduce.plan import CellsRow, PlannedPart
from lnbench.reproduce.scale_settings import Preset
from lnbench.significance import LEVEL, Comparison, compare_all, holm
from lnbench.tables.paper import METRICS
from lnbench.tables.reproduction import Conclusion, Verdict


@dataclass(frozen=True)
class Difference:
    """One cell against another over the same documents, in points; ``p_value`` is corrected for all of a conclusion."""

    delta: float
    low: float | None
    high: float | None
    """95 % interval of ``delta``; None where the documents have no spread to make one from: nothing is known then."""
    p_value: float

    @property
    def direction(self) -> int:
        """1 significantly higher, −1 significantly lower, 0 neither."""
        return 0 if self.p_value >= LEVEL else 1 if self.delta > 0 else -1


def conclusions(parts: Sequence[PlannedPart], measured: Measurements | None, preset: Preset) -> list[Conclusion]:
    """Return what the cells of one preset show of each conclusion that they bear on."""
    if measured is None:
        return []
    rows = [row for part in parts if part.at.preset == preset for row in part.rows]
    by_claim = {claim.name: _compared(list(_pairs(claim, rows, measured))) for claim in catalogue.claims()}
    return [
        Conclusion(
            name=claim.name,
            claim=claim.claim,
            preset=preset,
            verdict=judge(claim.expect, differences, claim.margin),
            evidence=_evidence(differences, claim.margin),
        )
        for claim in catalogue.claims()
        if (differences := by_claim[claim.name])
    ]


def judge(expect: str, differences: Sequence[Difference], margin: float) -> Verdict:
    """Return the verdict on a conclusion.

    A conclusion that something does *not* happen falls with one significant case of it, and survives only where every
    interval excludes one beyond the margin; an interval that is not known excludes nothing. One that something happens
    survives with a significant case and none to the contrary, and falls where every interval excludes it, or only the
    contrary is found. All else is undecided.

    Args:
        expect: ``not_higher``, ``not_lower``, ``same`` or ``lower``: how after is to compare with before.
        differences: After − before, corrected for all of them.
        margin: Points up to which a difference counts as none.
    """
    directions = {difference.direction for difference in differences}
    higher, lower = 1 in directions, -1 in directions
    never_higher = all(difference.high is not None and difference.high <= margin for difference in differences)
    never_lower = all(difference.low is not None and difference.low >= -margin for difference in differences)
    fails, holds = {
        "not_higher": (higher, never_higher),
        "not_lower": (lower, never_lower),
        "same": (higher or lower, never_higher and never_lower),
        "lower": ((higher and not lower) or never_lower, lower and not higher),
    }[expect]
    if fails:
        return "does not survive"
    return "survives" if holds else "undecided"


def _pairs(claim: Claim, rows: Sequence[CellsRow], measured: Measurements) -> Iterator[tuple[Result, Result]]:
    """Yield the comparisons of cells that a conclusion is about, each once."""
    first, second = claim.before["intervention"], claim.after["intervention"]
    seen = set()
    for after in rows:
        if after.label != claim.after.get("finetune", after.label):
            continue
        changes = [name for name in after.spec.columns if name == second or (second == "any" and name != first)]
        partners = [after]
        if "finetune" in claim.before:
            # Of the same model, task, language and selector, fine-tuned as the conclusion's first cell.
            own = _measured_on(after)
            partners = [row for row in rows if row.label == claim.before["finetune"] and _measured_on(row) == own]
        metric = METRICS[after.spec.task][-1]
        for before, change in product(partners, changes):
            selection = None if change == first and changes_nothing(change) else after.selection
            key = (before.adapter.out, after.adapter.out, after.language, change, selection)
            if key not in seen:
                seen.add(key)
                yield from _paired(measured.result(before, first, metric), measured.result(after, change, metric))


def _measured_on(row: CellsRow) -> tuple[object, ...]:
    return (row.at.folder, row.adapter.task, row.language, row.selector)


def _paired(before: Result | None, after: Result | None) -> Iterator[tuple[Result, Result]]:
    if before is None or after is None or before.problem or after.problem or before.documents != after.documents:
        return
    yield before, after


def _compared(pairs: Sequence[tuple[Result, Result]]) -> list[Difference]:
    """Return the differences of the pairs, with their p-values corrected for all of them."""
    values = [(before.values, after.values) for before, after in pairs]
    comparisons = compare_all(values, [len(pairs)] * len(pairs))
    corrected = holm([_known_p(comparison) for comparison in comparisons])
    return [
        Difference(100 * found.delta, _points(found.ci_low), _points(found.ci_high), p_value)
        for found, p_value in zip(comparisons, corrected, strict=True)
    ]


def _known_p(comparison: Comparison) -> float:
    return 1.0 if comparison.p_value is None else comparison.p_value


def _points(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _evidence(differences: Sequence[Difference], margin: float) -> str:
    directions = [difference.direction for difference in differences]
    deltas = np.array([difference.delta for difference in differences])
    widths = [item.high - item.low for item in differences if item.low is not None and item.high is not None]
    reach = f"each known to about ±{float(np.median(widths)) / 2:.1f} (95 %)" if widths else "how well is not known"
    unknown = len(differences) - len(widths)
    without = f"; {unknown} of them have no interval" if widths and unknown else ""
    return (
        f"Of {len(differences)} paired comparisons {directions.count(1)} are significantly higher and "
        f"{directions.count(-1)} lower (p < {LEVEL:g} after Holm's correction); the differences are "
        f"{deltas.min():+.1f} to {deltas.max():+.1f} points, {deltas.mean():+.1f} on average, {reach}{without}, "
        f"and {margin:g} counts as none."
    )
