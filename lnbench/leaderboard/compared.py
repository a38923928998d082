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

_Peers = defaultdict[tuple[Any, ...], list[Result]]
"""Results by what makes them comparable; keys of different kinds have different lengths."""
_NONE = "none"
_COPIED = {name for name, field in Row.model_fields.items() if name in Record.model_fields and not field.exclude}
_NOISE = 1e-9
"""Of adding up the same documents in another order."""


def build(results: Sequence[Result]) -> list[Row]:
    """Return the rows of a leaderboard, in the order of ``results``.

    A cell is compared with the cell of the same model, adapter, seed and task without intervention; an adapter's own
    cell without intervention with the model without the adapter. A cell of a selector is also compared with the
    average of its random controls. Only cells with the very same setup, documents and prompts are compared; those of
    the same run come first.
    """
    peers = _comparable(results)
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


def _comparable(results: Sequence[Result]) -> _Peers:
    """Return the results that others are compared with, by what makes them comparable."""
    peers: _Peers = defaultdict(list)
    for result in results:
        record = result.record
        keys = [] if record.control_of is None else [_overridden(record, record.control_of)]
        if record.is_baseline:
            keys += [_loaded(record), _tried(record)]
            keys += [_measured(record)] if record.finetune == _NONE else []
        for key in keys:
            peers[key].append(result)
    return peers


def _own_first(result: Result, others: Sequence[Result]) -> list[Result]:
    """Return those of the same run before others, which may differ in the last digits."""
    return sorted(others, key=lambda other: other.run != result.run)


def _tried(record: Record) -> tuple[Any, ...]:
    # A cell that failed may know no more.
    return (record.model, record.setup, record.adapter, record.finetune, record.seed, record.task)


def _measured(record: Record) -> tuple[Any, ...]:
    model = (record.model, record.revision, record.dtype, record.quantization)
    return (*model, record.setup, record.seed, record.task, record.metric)


def _loaded(record: Record) -> tuple[Any, ...]:
    # Weights that were changed in place are another model.
    return (*_measured(record), record.adapter, record.finetune, record.weights)


def _overridden(record: Record, selector: str) -> tuple[Any, ...]:
    neurons = (selector, record.language, record.statistics, record.override_setup)
    return (*_loaded(record), *neurons, record.intervention)


def _row(result: Result, peers: _Peers) -> Row:
    record = result.record
    notes = [note for note in (result.problem, result.note) if note]
    comparisons: dict[str, Any] = {}
    if record.metric is not None and not result.problem:
        comparisons = _with_baseline(result, peers, notes) | _with_controls(result, peers, notes)
    return Row(
        **record.model_dump(include=_COPIED),
        **comparisons,
        task_version=result.task_version,
        higher_is_better=result.higher_is_better,
        note="; ".join(notes) or None,
    )


def _with_baseline(result: Result, peers: _Peers, notes: list[str]) -> dict[str, Any]:
    """Return the comparison with the baseline, where there is one; else add the reason to ``notes``."""
    record = result.record
    if record.is_baseline and record.finetune == _NONE:
        return {}
    # An adapter's own baseline is the model without the adapter.
    key = _measured(record) if record.is_baseline else _loaded(record)
    baselines = _own_first(result, peers[key])
    same = _on_same_documents(result, baselines)
    if not same:
        failed = not baselines and any(tried.record.failed for tried in peers[_tried(record)])
        notes.append(f"not compared: {'the baseline failed' if failed else _why(result, baselines, 'baseline')}")
        return {}
    comparison = compare(same[0].values, result.values)
    return {"baseline": comparison.before, **_fields(comparison)}


def _with_controls(result: Result, peers: _Peers, notes: list[str]) -> dict[str, Any]:
    """Return the comparison with the average of the controls, where there are any."""
    controls = _own_first(result, peers[_overridden(result.record, result.record.selector)])
    if not controls:
        return {}
    # The first of each seed.
    draws = {control.record.control_seed: control for control in reversed(_on_same_documents(result, controls))}
    if not draws:
        notes.append(f"not compared with controls: {_why(result, controls, 'control')}")
        return {}
    values = np.stack([draw.values for draw in draws.values()])
    comparison, means = compare(values, result.values), values.mean(axis=1)
    return {
        "control": comparison.before,
        "control_min": float(means.min()),
        "control_max": float(means.max()),
        "n_controls": len(draws),
        **_fields(comparison, "control_"),
    }


def _fields(comparison: Comparison, prefix: str = "") -> dict[str, Any]:
    return {prefix + name: getattr(comparison, name) for name in ("delta", "ci_low", "ci_high", "p_value", "mde")}


def _on_same_documents(result: Result, others: Sequence[Result]) -> list[Result]:
    return [other for other in others if other.documents == result.documents]


def _why(result: Result, others: Sequence[Result], kind: str) -> str:
    """Say why none of ``others`` can be paired with ``result``."""
    if not others:
        return f"no {kind}"
    if problems := [other.problem for other in others if other.problem]:
        return f"in the {kind}, {problems[0]}"
    documents = {*result.documents}
    nearest = max(others, key=lambda other: len(documents & {*other.documents}))
    common = len(documents & {*nearest.documents})
    sizes = f"{len(nearest.documents)} documents there, {len(documents)} here, {common} in common"
    return f"the {kind} was measured on other documents or prompts ({sizes})"


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
