"""Results → rows: each beside its baseline and its random controls, and corrected for the tests of its table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from lnbench.leaderboard.merged_records import Result
from lnbench.leaderboard.rows import Row, tables_of
from lnbench.significance import LEVEL, Comparison, compare, holm
from lnbench.sweeps.records import Record

_NONE = "none"
_COPIED = [name for name, field in Row.model_fields.items() if name in Record.model_fields and not field.exclude]
_NOISE = 1e-9
"""Of adding up the same documents in another order."""
_UNPAIRED = "measured on other documents or prompts"


def build(results: Sequence[Result]) -> list[Row]:
    """Return the rows of a leaderboard, in the order of ``results``.

    A cell is compared with the cell of the same model, adapter, seed and task without intervention; an adapter's own
    cell without intervention with the model without the adapter. A cell of a selector is also compared with the
    average of its random controls. Only cells with the very same setup, documents and prompts are compared; those of
    the same run come first.
    """
    peers = _Peers(results)
    own = [result for result in results if not result.repeated]
    rows = [_row(result, peers) for result in tqdm(own, desc="comparing", unit="row", disable=None)]
    _correct(rows, "p_value", "p_holm")
    _correct(rows, "control_p_value", "control_p_holm")
    for row in rows:
        if row.p_holm is not None:
            row.significant = row.p_holm < LEVEL
        if row.control_p_holm is not None:
            row.control_significant = row.control_p_holm < LEVEL and _outside(row)
    return rows


class _Peers:
    """What each result is compared with."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._baselines: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
        self._without_adapter: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
        self._controls: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
        self._failed: set[tuple[Any, ...]] = set()
        for result in results:
            record = result.record
            if record.is_baseline:
                self._baselines[_loaded(record)].append(result)
                if record.finetune == _NONE:
                    self._without_adapter[_asked(record)].append(result)
                if record.failed:
                    self._failed.add(_named(record))
            if record.control_of is not None:
                self._controls[_overridden(record, record.control_of)].append(result)

    def baselines(self, result: Result) -> list[Result]:
        """Return the same without intervention; for an adapter's own baseline, the model without the adapter."""
        if result.record.is_baseline:
            return _own_first(result, self._without_adapter[_asked(result.record)])
        return _own_first(result, self._baselines[_loaded(result.record)])

    def lost_baseline(self, record: Record) -> bool:
        """Return whether the baseline was tried and failed."""
        return _named(record) in self._failed

    def controls(self, result: Result) -> list[Result]:
        """Return the same with random neurons in place of the selector's."""
        return _own_first(result, self._controls[_overridden(result.record, result.record.selector)])


def _own_first(result: Result, others: Sequence[Result]) -> list[Result]:
    """Put those of the same run before others, which may differ in the last digits."""
    return sorted(others, key=lambda other: other.run != result.run)


def _named(record: Record) -> tuple[Any, ...]:
    # A cell that failed may know no more.
    return (record.model, record.setup, record.adapter, record.finetune, record.seed, record.task)


def _asked(record: Record) -> tuple[Any, ...]:
    loaded = (record.model, record.revision, record.dtype, record.quantization)
    return (*loaded, record.setup, record.seed, record.task, record.metric)


def _loaded(record: Record) -> tuple[Any, ...]:
    # Weights that were changed in place are another model.
    return (*_asked(record), record.adapter, record.finetune, record.weights)


def _overridden(record: Record, selector: str) -> tuple[Any, ...]:
    neurons = (selector, record.language, record.statistics, record.override_setup)
    return (*_loaded(record), *neurons, record.intervention)


def _row(result: Result, peers: _Peers) -> Row:
    record = result.record
    notes = [note for note in (result.problem, result.note) if note]
    compared: dict[str, Any] = {}
    if record.metric is not None and not result.problem:
        compared = _with_baseline(result, peers, notes) | _with_controls(result, peers, notes)
    return Row.model_validate(
        {name: getattr(record, name) for name in _COPIED}
        | {"task_version": result.task_version, "higher_is_better": result.higher_is_better}
        | compared
        | {"note": "; ".join(notes) or None}
    )


def _with_baseline(result: Result, peers: _Peers, notes: list[str]) -> dict[str, Any]:
    """Return the comparison with the baseline, where there is one; else add the reason to ``notes``."""
    record = result.record
    if record.is_baseline and record.finetune == _NONE:
        return {}
    there = peers.baselines(result)
    same = _on_same_documents(result, there)
    if not same:
        failed = not there and peers.lost_baseline(record)
        notes.append(f"not compared: {'the baseline failed' if failed else _why(result, there, 'baseline')}")
        return {}
    found = compare(same[0].values, result.values)
    return {"baseline": found.before, **_fields(found)}


def _with_controls(result: Result, peers: _Peers, notes: list[str]) -> dict[str, Any]:
    """Return the comparison with the average of the controls, where there are any."""
    there = peers.controls(result)
    if not there:
        return {}
    draws = {one.record.control_seed: one for one in reversed(_on_same_documents(result, there))}
    if not draws:
        notes.append(f"not compared with controls: {_why(result, there, 'control')}")
        return {}
    before = np.stack([draw.values for draw in draws.values()])
    found, means = compare(before, result.values), before.mean(axis=1)
    return {
        "control": found.before,
        "control_min": float(means.min()),
        "control_max": float(means.max()),
        "n_controls": len(draws),
        **{f"control_{name}": value for name, value in _fields(found).items()},
    }


def _fields(found: Comparison) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ("delta", "ci_low", "ci_high", "p_value", "mde")}


def _on_same_documents(result: Result, others: Sequence[Result]) -> list[Result]:
    return [other for other in others if other.documents == result.documents]


def _why(result: Result, others: Sequence[Result], kind: str) -> str:
    """Say why none of ``others`` can be paired with ``result``."""
    if not others:
        return f"no {kind}"
    if problems := [other.problem for other in others if other.problem]:
        return f"in the {kind}, {problems[0]}"
    common, nearest = max(
        ((len({*other.documents} & {*result.documents}), other) for other in others), key=lambda pair: pair[0]
    )
    sizes = f"{len(nearest.documents)} documents there, {len(result.documents)} here, {common} in common"
    return f"the {kind} was {_UNPAIRED} ({sizes})"


def _correct(rows: Sequence[Row], p_value: str, p_holm: str) -> None:
    """Write Holm's correction over one kind of test, within each table: one model, task and metric.

    Controls are no part of it: what they are for is tested in the rows that they are controls of, and the more were
    drawn, the less would be left for those.
    """
    for table in tables_of(row for row in rows if getattr(row, p_value) is not None and row.control_of is None):
        for row, corrected in zip(table, holm([getattr(row, p_value) for row in table]), strict=True):
            setattr(row, p_holm, corrected)


def _outside(row: Row) -> bool:
    """Return whether a cell lies beyond every draw of its controls; documents alone do not tell draws from draws."""
    value, low, high = row.value, row.control_min, row.control_max
    return value is not None and low is not None and high is not None and not low - _NOISE <= value <= high + _NOISE
