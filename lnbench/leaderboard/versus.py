"""Two models, adapters or runs side by side, document by document where they were measured on the same ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lnbench.errors import LnbenchError, unknown
from lnbench.leaderboard.merged_records import Result
from lnbench.leaderboard.rows import pattern_of
from lnbench.model.names import name_of
from lnbench.significance import Comparison, compare_all, holm
from lnbench.sweeps.records import BASELINE

_WITHIN = ("task", "source", "language", "selector", "intervention", "seed", "metric")
"""What two results have in common to be put side by side."""
_LOADED = ("model", "model_files", "finetune", "adapter")
_DISTINGUISHING = (*_LOADED, "revision", "dtype", "quantization", "setup", "limit", "weights")
"""What can differ between two results of one side."""


@dataclass(frozen=True)
class Side:
    """One of the two that are compared."""

    name: str
    kind: str
    """``model``, ``adapter`` or ``run``."""
    results: Sequence[Result]


@dataclass(frozen=True)
class Match:
    """What both sides measured alike: a task under an intervention, by one metric."""

    first: Result
    second: Result
    comparison: Comparison | None = None
    """Of the second against the first, over the documents; None where these are not the same."""
    p_holm: float | None = None
    """Corrected for all such tests of one task and metric."""
    unpaired: str | None = None
    """Why there is no comparison."""

    @property
    def table(self) -> tuple[str, str]:
        """What the matches of a table share: the task, whatever its language, and the metric."""
        record = self.first.record
        return pattern_of(record.task, record.language, record.source), str(record.metric)


@dataclass(frozen=True)
class Versus:
    """All that two sides measured alike, and how many results only one of them has."""

    sides: tuple[Side, Side]
    matches: Sequence[Match]
    alone: tuple[int, int]


def compare_sides(results: Sequence[Result], first: str, second: str) -> Versus:
    """Compare two models, adapters or runs, the second against the first.

    A model is meant without adapter. Differences are paired over documents as in :func:`lnbench.leaderboard.build`, and
    corrected within each task and metric.

    Args:
        results: Of the runs, by :func:`lnbench.leaderboard.read_runs`.
        first: A model, the name of an adapter, or the folder of a run; ``model:``, ``adapter:`` or ``run:`` before it
            says which, where several have that name.
        second: Likewise.

    Raises:
        LnbenchError: there is none with such a name, or several; both are the same; they have nothing in common.
    """
    sides = _side(results, first), _side(results, second)
    if [*map(id, sides[0].results)] == [*map(id, sides[1].results)]:
        raise LnbenchError(f"--compare {first} {second}: both are the same results; name two models, adapters or runs")
    # Two runs may hold several models; anything else is one that is put beside another.
    within = (*_WITHIN, *(_LOADED if sides[0].kind == sides[1].kind == "run" else ()))
    measured = [_by_key(side, within) for side in sides]
    shared = [key for key in measured[0] if key in measured[1]]
    if not shared:
        raise LnbenchError(
            f"{first} and {second} have no task, language, neurons, intervention and metric in common: "
            f"{len(measured[0])} and {len(measured[1])} results, none of them alike"
        )
    matches = _compared([Match(measured[0][key], measured[1][key]) for key in shared])
    return Versus(sides, matches, (len(measured[0]) - len(shared), len(measured[1]) - len(shared)))


def _side(results: Sequence[Result], name: str) -> Side:
    own = [result for result in results if result.record.metric is not None and result.record.control_of is None]
    kinds: Mapping[str, Callable[[str, Result], bool]] = {"model": _is_model, "adapter": _is_adapter, "run": _is_run}
    prefix, _, rest = name.partition(":")
    searched, wanted = ((prefix,), rest) if rest and prefix in kinds else ((*kinds,), name)
    found = {
        kind: side
        for kind in searched
        if (side := [result for result in own if kinds[kind](wanted, result) and not (_twice(kind, result))])
    }
    if not found:
        known = dict.fromkeys(result.record.model for result in own)
        known |= dict.fromkeys(result.record.finetune for result in own if result.record.finetune != BASELINE)
        known |= dict.fromkeys(str(result.run) for result in own)
        raise unknown("model, adapter or run", name, known, "--compare takes two of these")
    if len(found) > 1:
        ways = " or ".join(f"{kind}:{wanted}" for kind in found)
        raise LnbenchError(f"--compare {name} names a {' and a '.join(found)}: write {ways}")
    ((kind, side),) = found.items()
    return Side(wanted, kind, side)


def _twice(kind: str, result: Result) -> bool:
    """Return whether another run has the same cell, which counts once unless it is the run that is meant."""
    return result.repeated and kind != "run"


def _is_model(name: str, result: Result) -> bool:
    model = result.record.model
    return result.record.finetune == BASELINE and name_of(name) in (model, model.rpartition("/")[2])


def _is_adapter(name: str, result: Result) -> bool:
    record = result.record
    folder = record.adapter and Path(record.adapter).name
    return record.finetune != BASELINE and (record.finetune == name or Path(name).name == folder)


def _is_run(name: str, result: Result) -> bool:
    return Path(name).resolve() == result.run.resolve() or name == result.run.resolve().name


def _by_key(side: Side, within: Sequence[str]) -> dict[tuple[Any, ...], Result]:
    """Return a side's results by what they are of.

    Raises:
        LnbenchError: two are of the same.
    """
    by_key: dict[tuple[Any, ...], Result] = {}
    for result in side.results:
        other = by_key.setdefault(tuple(getattr(result.record, name) for name in within), result)
        if other is not result:
            raise LnbenchError(_several(side, other, result))
    return by_key


def _several(side: Side, one: Result, other: Result) -> str:
    differing = {name: [getattr(own.record, name) for own in (one, other)] for name in _DISTINGUISHING}
    named = [f"{name} {a} and {b}" for name, (a, b) in differing.items() if a != b] or ["the run alone"]
    record = one.record
    return (
        f"--compare {side.name}: this {side.kind} has two results of {record.metric} of {record.task} under "
        f"{record.intervention} of {record.selector}, which differ in {named[0]}; leave out a run, or name one of them "
        f"more closely: a model, an adapter, or run:{one.run}"
    )


def _compared(matches: Sequence[Match]) -> list[Match]:
    judged = [replace(match, unpaired=_unpaired(match.first, match.second)) for match in matches]
    tables: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, match in enumerate(judged):
        if match.unpaired is None:
            tables[match.table].append(place)
    places = [place for own in tables.values() for place in own]
    pairs = [(judged[place].first.values, judged[place].second.values) for place in places]
    comparisons = compare_all(pairs, [len(tables[judged[place].table]) for place in places]) if places else []
    tested = dict(zip(places, comparisons, strict=True))
    for own in tables.values():
        corrected = holm([tested[place].p_value or 0.0 for place in own])
        for place, p_value in zip(own, corrected, strict=True):
            judged[place] = replace(judged[place], comparison=tested[place], p_holm=p_value)
    return judged


def _unpaired(first: Result, second: Result) -> str | None:
    """Say why two results cannot be paired document by document; None where they can."""
    if problem := first.problem or second.problem:
        return problem
    if first.documents == second.documents:
        return None if first.documents else "there is no document"
    common = len({*first.documents} & {*second.documents})
    sizes = f"{len(first.documents)} and {len(second.documents)} documents, {common} in common"
    return f"they were measured on other documents or prompts ({sizes})"
