"""Which of the paper's conclusions the measured cells bear out: paired comparisons, and a verdict from all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lnbench.reproduce import catalogue
from lnbench.reproduce.catalogue import CellsSpec
from lnbench.reproduce.measured import Measured, Place, places
from lnbench.reproduce.paper_tables import METRICS
from lnbench.reproduce.plan import Piece
from lnbench.reproduce.scale_settings import Preset
from lnbench.significance import LEVEL, compare, holm
from lnbench.tables.reproduction import Conclusion, Verdict

_ANY = "any"


@dataclass(frozen=True)
class Difference:
    """One cell against another over the same documents, in points."""

    delta: float
    low: float
    high: float
    p_value: float
    """After Holm's correction for all that bear on the conclusion."""

    @property
    def direction(self) -> int:
        """1 significantly higher, −1 significantly lower, 0 neither."""
        return 0 if self.p_value >= LEVEL else 1 if self.delta > 0 else -1


def conclusions(pieces: Sequence[Piece], measured: Measured, preset: Preset) -> list[Conclusion]:
    """What the cells of one preset say of each conclusion that they bear on."""
    own = [piece for piece in pieces if piece.at.preset == preset and isinstance(piece.spec, CellsSpec)]
    found = []
    for one in catalogue.conclusions():
        differences = _corrected(list(_differences(one, own, measured)))
        if differences:
            verdict = judge(one.expect, differences, one.margin)
            found.append(
                Conclusion(
                    name=one.name,
                    claim=one.claim,
                    preset=preset,
                    verdict=verdict,
                    evidence=_evidence(differences, one.margin),
                )
            )
    return found


def judge(expect: str, differences: Sequence[Difference], margin: float) -> Verdict:
    """The verdict on a conclusion.

    A conclusion that something does *not* happen falls with one significant case of it, and survives only where every
    interval excludes one beyond the margin. One that something happens survives with a significant case and none to
    the contrary, and falls where every interval excludes it, or only the contrary is found. All else is undecided.

    Args:
        expect: ``not_higher``, ``not_lower``, ``same`` or ``lower``: how after is to compare with before.
        differences: After − before, corrected for all of them.
        margin: Points up to which a difference counts as none.
    """
    higher = any(one.direction > 0 for one in differences)
    lower = any(one.direction < 0 for one in differences)
    never_higher = all(one.high <= margin for one in differences)
    never_lower = all(one.low >= -margin for one in differences)
    fallen, stands = {
        "not_higher": (higher, never_higher),
        "not_lower": (lower, never_lower),
        "same": (higher or lower, never_higher and never_lower),
        "lower": ((higher and not lower) or never_lower, lower and not higher),
    }[expect]
    if fallen:
        return "does not survive"
    return "survives" if stands else "undecided"


def _differences(one: catalogue.Conclusion, pieces: Sequence[Piece], measured: Measured) -> Iterator[Difference]:
    """The comparisons of cells that a conclusion is about, each once."""
    rows = [(piece, place) for piece in pieces for place in places(piece)]
    first = one.before["intervention"]
    seen: set[tuple[Any, ...]] = set()
    for piece, after in rows:
        spec = piece.spec
        assert isinstance(spec, CellsSpec)
        if after.label != one.after.get("finetune", after.label):
            continue
        wanted = one.after["intervention"]
        changes = [name for name in spec.columns if name == wanted or (wanted == _ANY and name != first)]
        for before in [after] if "finetune" not in one.before else _partners(one, after, rows):
            for second in changes:
                neurons = () if second == first == "none" else (after.selection,)
                key = (before.train.out, after.train.out, after.language, second, neurons)
                if key not in seen:
                    seen.add(key)
                    yield from _paired(measured, before, first, after, second, METRICS[spec.task][-1])


def _partners(one: catalogue.Conclusion, after: Place, rows: Sequence[tuple[Piece, Place]]) -> list[Place]:
    """The rows of the same model, task, language and selector that are fine-tuned as the conclusion's first cell."""

    def measures(place: Place) -> tuple[Any, ...]:
        return (place.at.folder, place.train.task, place.language, place.selector)

    return [place for _, place in rows if place.label == one.before["finetune"] and measures(place) == measures(after)]


def _paired(
    measured: Measured, before: Place, first: str, after: Place, second: str, metric: str
) -> Iterator[Difference]:
    one, other = measured.result(before, first, metric), measured.result(after, second, metric)
    if one is None or other is None or one.problem or other.problem or one.documents != other.documents:
        return
    found = compare(one.values, other.values)
    if found.ci_low is not None and found.ci_high is not None:
        yield Difference(100 * found.delta, 100 * found.ci_low, 100 * found.ci_high, found.p_value)


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    values = holm([one.p_value for one in differences])
    return [replace(one, p_value=value) for one, value in zip(differences, values, strict=True)]


def _evidence(differences: Sequence[Difference], margin: float) -> str:
    directions = [one.direction for one in differences]
    deltas = np.array([one.delta for one in differences])
    width = float(np.median([one.high - one.low for one in differences])) / 2
    return (
        f"Of {len(differences)} paired comparisons {directions.count(1)} are significantly higher and "
        f"{directions.count(-1)} lower (p < {LEVEL:g} after Holm's correction); the differences are "
        f"{deltas.min():+.1f} to {deltas.max():+.1f} points, {deltas.mean():+.1f} on average, each known to about "
        f"±{width:.1f} (95 %), and {margin:g} counts as none."
    )
