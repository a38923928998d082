"""Rows → readable tables: one a model, task and metric; lines are neurons and interventions, columns languages."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from lnbench.leaderboard.rows import Row
from lnbench.significance import LEVEL

_BEATS_BASELINE, _BEATS_CONTROL = "*", "†"
_VARYING: dict[str, Callable[[Row], str]] = {
    "finetune": lambda row: row.finetune,
    "seed": lambda row: str(row.seed),
    "limit": lambda row: "all" if row.limit is None else f"{row.limit:g}",
}
"""Columns that are shown only where a table has more than one value of them."""
_OVERRIDE_SETUP: dict[str, Callable[[Row], str]] = {"override setup": lambda row: row.override_setup or "-"}
"""A column that is shown only where the same neurons have more than one value of it."""
_MEANING = {"bits_per_byte": "More bits per byte: the model is more surprised by that language."}


@dataclass(frozen=True)
class Line:
    """One line of a table."""

    cells: tuple[str, ...]
    control: bool


@dataclass(frozen=True)
class Grid:
    """A table in text, for a terminal or a page."""

    title: str
    names: tuple[str, ...]
    """Headings of the columns that say what was done."""
    languages: tuple[str, ...]
    """Headings of the columns of numbers."""
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def grids(rows: Sequence[Row]) -> list[Grid]:
    """A table for each model, task and metric, in the order in which they occur."""
    tables: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    failed: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.failed:
            failed[_attempted(row)].append(row)
        else:
            tables[*row.measured_on, row.metric].append(row)
    shown = {_attempted(table[0]) for table in tables.values()}
    setups = len({row.setup for row in rows}) > 1
    found = [_grid([*table, *failed[_attempted(table[0])]], setups) for table in tables.values()]
    return found + [_grid(some, setups) for key, some in failed.items() if some and key not in shown]


def _attempted(row: Row) -> tuple[Any, ...]:
    # A cell that fails before its model is loaded does not know the model's revision and dtype.
    return (row.model, row.setup, row.task_pattern)


def _grid(rows: Sequence[Row], setups: bool) -> Grid:
    first = rows[0]
    languages = tuple(dict.fromkeys(row.language for row in rows))
    varying = [name for name, of in _VARYING.items() if len({of(row) for row in rows}) > 1]
    varying += _OVERRIDE_SETUP if _several_overrides(rows) else {}
    lines: dict[_Key, dict[str, list[Row]]] = {}
    for row in rows:
        values = tuple({**_VARYING, **_OVERRIDE_SETUP}[name](row) for name in varying)
        key = _Key(values, row.control_of or row.selector, row.control_of is not None, row.intervention)
        lines.setdefault(key, {}).setdefault(row.language, []).append(row)
    # In the order in which they occur; a selector's controls after the selector.
    groups = {group: number for number, group in enumerate(dict.fromkeys(map(_group, lines)))}
    ordered = sorted(lines.items(), key=lambda item: (groups[_group(item[0])], item[0].control))
    setup = f"setup {first.setup}" if setups else None
    model = ", ".join(filter(None, (first.model, first.revision, first.dtype, first.quantization, setup)))
    return Grid(
        title=f"{first.metric or 'failed'} of {first.task_pattern}: {model}",
        names=(*varying, "neurons", "intervention"),
        languages=languages,
        lines=tuple(
            Line(
                (
                    *key.varying,
                    _neurons(key, spots),
                    key.intervention,
                    *(_spot(spots.get(one, [])) for one in languages),
                ),
                key.control,
            )
            for key, spots in ordered
        ),
        notes=tuple(_notes(rows)),
    )


class _Key(NamedTuple):
    """What the cells of one line share."""

    varying: tuple[str, ...]
    selector: str
    control: bool
    intervention: str


def _several_overrides(rows: Sequence[Row]) -> bool:
    """Whether the same neurons were found or overridden in several ways."""
    ways: dict[tuple[Any, ...], set[str | None]] = defaultdict(set)
    for row in rows:
        ways[row.control_of or row.selector, row.language].add(row.override_setup)
    return any(len(some) > 1 for some in ways.values())


def _group(key: _Key) -> tuple[Any, ...]:
    return (key.varying, key.selector)


def _neurons(key: _Key, spots: dict[str, list[Row]]) -> str:
    """How a line's neurons are called."""
    if not key.control:
        return key.selector
    draws = len({row.control_seed for rows in spots.values() for row in rows if not row.failed})
    return f"random like {key.selector}" + (f" (mean of {draws})" if draws > 1 else "")


def _spot(rows: Sequence[Row]) -> str:
    """What stands in one place of a table: mostly one cell, or the mean of the draws of a control."""
    done = [row for row in rows if row.value is not None]
    if len(done) > 1 and len({row.control_seed for row in done}) == len(done):
        deltas = [row.delta for row in done if row.delta is not None]
        return _text(fmean(row.value or 0.0 for row in done), fmean(deltas) if deltas else None)
    return " / ".join(_one(row) for row in rows) or "–"


def _one(row: Row) -> str:
    if row.failed:
        return "failed"
    marks = (_BEATS_BASELINE if row.significant else "") + (_BEATS_CONTROL if row.control_significant else "")
    return _text(row.value, row.delta, marks) if row.value is not None else "not a number"


def _text(value: float, delta: float | None, marks: str = "") -> str:
    return f"{value:.3f}" if delta is None else f"{value:.3f} ({delta:+.3f}){marks}"


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    """What a table has to say about itself."""
    compared = [row for row in rows if row.p_holm is not None]
    if compared:
        yield "In brackets the change to the same model without intervention, paired over documents."
        yield _verdict(
            [row for row in compared if row.significant], len(compared), f"{_BEATS_BASELINE} differs from it", "changes"
        )
        yield from _detectable(compared)
    if controlled := [row for row in rows if row.control_p_holm is not None]:
        draws = _span([row.n_controls for row in controlled])
        told = f"{_BEATS_CONTROL} differs from the average of as many random neurons ({draws} drawn)"
        beating = [row for row in controlled if row.control_significant]
        yield _verdict(beating, len(controlled), told, "differs from random neurons")
    yield from (meaning for metric, meaning in _MEANING.items() if metric in {row.metric for row in rows})
    for note, count in Counter(row.note for row in rows if row.note).items():
        yield f"{count} {'row' if count == 1 else 'rows'}: {note}."
    for error, count in Counter(row.error for row in rows if row.failed).items():
        yield f"{count} {'cell' if count == 1 else 'cells'} failed: {error}"


def _verdict(significant: Sequence[Row], tests: int, mark: str, nothing: str) -> str:
    corrected = f"p < {LEVEL:g} after Holm's correction for {tests} {'test' if tests == 1 else 'tests'}"
    return f"{mark}, {corrected}." if significant else f"Nothing here {nothing} significantly ({corrected})."


def _detectable(rows: Sequence[Row]) -> Iterator[str]:
    """The smallest change that the table's documents could have shown."""
    documents = _span([row.n for row in rows if row.n is not None])
    smallest = sorted(row.mde for row in rows if row.mde is not None)
    if not smallest:
        yield f"With {documents} documents it cannot be told how large a change must be to be found."
        return
    low, high = (f"{value:.2g}" for value in (smallest[0], smallest[-1]))
    size = low if low == high else f"{low} to {high}, by cell,"
    yield f"With {documents} documents a change must be {size} to be found in four of five samples (uncorrected)."


def _span(counts: Sequence[int]) -> str:
    return f"{min(counts)}–{max(counts)}" if len(set(counts)) > 1 else str(counts[0])
