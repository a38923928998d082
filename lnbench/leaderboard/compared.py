"""Results → rows: each beside its baseline and its random controls, and corrected for the tests of its table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from lnbench.leaderboard.merged_records import Result
from lnbench.leaderboard.rows import Leaderboard, Row, tables_of
from lnbench.progress import Bar
from lnbench.significance import LEVEL, Comparison, compare_all, compare_with_draws, holm
from lnbench.specificity import matched_specificity
from lnbench.sweeps.records import Record

_Peers = defaultdict[tuple[Any, ...], list[Result]]
"""Results by what makes them comparable; keys of different kinds have different lengths."""
_NONE = "none"
_COPIED = {name for name, field in Row.model_fields.items() if name in Record.model_fields and not field.exclude}


def build(results: Sequence[Result]) -> Leaderboard:
    """Return the rows of a leaderboard, in the order of ``results``.

    A cell is compared with the cell of the same model, adapter, seed and task without intervention; an adapter's own
    cell without intervention with the model without the adapter. A cell of a selector is also compared with the
    average of its controls. Only cells with the very same setup, documents and prompts are compared; those of
    the same run come first.
    """
    peers = _comparable(results)
    own = [result for result in results if not result.repeated]
    rows, baselines = [], []
    for result in Bar(own, desc="comparing", unit="row"):
        row, baseline = _row(result, peers)
        rows.append(row)
        baselines.append(baseline)
    _compare(rows, own, baselines)
    for row in rows:
        if row.delta is not None and row.baseline is not None and row.control_draws:
            rho = matched_specificity(row.delta, [draw - row.baseline for draw in row.control_draws])
            row.rho, row.rho_low, row.rho_high = rho
    _correct(rows, "p_value", "p_holm")
    _correct(rows, "control_p_value", "control_p_holm")
    for row in rows:
        if row.p_holm is not None:
            row.significant = row.p_holm < LEVEL
        if row.control_p_holm is not None:
            row.control_significant = row.control_p_holm < LEVEL
    return Leaderboard(rows)


def _compare(rows: Sequence[Row], results: Sequence[Result], baselines: Sequence[Result | None]) -> None:
    """Write the comparisons with baselines, all at once: how finely each is tested depends on how many there are."""
    places = [place for place, baseline in enumerate(baselines) if baseline is not None]
    family = {
        id(row): len(table)
        for table in tables_of(rows[place] for place in places if rows[place].control_of is None)
        for row in table
    }
    pairs = [(first.values, results[place].values) for place in places if (first := baselines[place]) is not None]
    comparisons = compare_all(pairs, [family.get(id(rows[place]), 1) for place in places])
    for place, comparison in zip(places, comparisons, strict=True):
        row = rows[place]
        for name, value in (_fields(comparison) | {"baseline": comparison.before}).items():
            setattr(row, name, value)
        row.least_p = comparison.least_p


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
    return (record.model, record.model_files, record.setup, record.adapter, record.finetune, record.seed, record.task)


def _measured(record: Record) -> tuple[Any, ...]:
    model = (record.model, record.model_files, record.revision, record.dtype, record.quantization)
    return (*model, record.setup, record.seed, record.task, record.metric)


def _loaded(record: Record) -> tuple[Any, ...]:
    # Weights that were changed in place are another model.
    return (*_measured(record), record.adapter, record.finetune, record.weights)


def _overridden(record: Record, selector: str) -> tuple[Any, ...]:
    neurons = (selector, record.source, record.language, record.statistics, record.override_setup)
    return (*_loaded(record), *neurons, record.intervention)


def _row(result: Result, peers: _Peers) -> tuple[Row, Result | None]:
    """Return a row, compared with its controls, and the result that it is to be compared with as its baseline."""
    record = result.record
    notes = [note for note in (result.problem, result.note) if note]
    comparisons: dict[str, Any] = {}
    baseline = None
    if record.metric is not None and not result.problem:
        baseline = _baseline(result, peers, notes)
        comparisons = _with_controls(result, peers, notes)
    answers = result.answers
    row = Row(
        **(record.model_dump(include=_COPIED) | comparisons),
        task_version=result.task_version,
        task_title=result.task_title,
        higher_is_better=result.higher_is_better,
        chance=None if answers is None else answers.chance,
        top_choice=None if answers is None else answers.top_choice,
        top_share=None if answers is None else answers.top_share,
        note="; ".join(notes) or None,
    )
    return row, baseline


def _baseline(result: Result, peers: _Peers, notes: list[str]) -> Result | None:
    """Return the baseline of a result, where there is one; else add the reason to ``notes``."""
    record = result.record
    if record.is_baseline and record.finetune == _NONE:
        return None
    # An adapter's own baseline is the model without the adapter.
    key = _measured(record) if record.is_baseline else _loaded(record)
    baselines = _own_first(result, peers[key])
    if same := _on_same_documents(result, baselines):
        return same[0]
    failed = not baselines and any(tried.record.failed for tried in peers[_tried(record)])
    notes.append(f"not compared: {'the baseline failed' if failed else _why(result, baselines, 'baseline')}")
    return None


def _with_controls(result: Result, peers: _Peers, notes: list[str]) -> dict[str, Any]:
    """Return the comparison with the average of the controls, where there are any."""
    controls = _own_first(result, peers[_overridden(result.record, result.record.selector)])
    if not controls:
        return {}
    same = _on_same_documents(result, controls)
    # Draws of one kind; of each seed the first.
    kinds = [control.record.drawn_by for control in same]
    draws = {
        control.record.control_seed: control
        for control, kind in reversed([*zip(same, kinds, strict=True)])
        if kind == kinds[0]
    }
    if not draws:
        notes.append(f"not compared with controls: {_why(result, controls, 'control')}")
        return {}
    values = np.stack([draw.values for draw in draws.values()])
    comparison, means = compare_with_draws(values, result.values), values.mean(axis=1)
    return {
        "control": comparison.before,
        "control_kind": kinds[0],
        "control_draws": means.tolist(),
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
