"""What limits results, in sentences: one sentence per fact, for the terminal, the page and reproductions alike."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lnbench.leaderboard.rows import Row, compared, tables_of
from lnbench.model.architectures import site_choice
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.selection_account import selection_warnings
from lnbench.significance import LEAST_DRAWS, LEVEL, least_p, wilson_interval
from lnbench.sweeps.records import BASELINE
from lnbench.tables.plain_names import pair_name, plain_name, task_title
from lnbench.tables.words import brief, counted, listed, p_value, percent, range_of

_NEARLY_ALL = 0.9
"""Share of the predictions from which one choice counts as the answer to everything."""
_FEW = 10
"""Of fewer documents, nearly all may have one right choice."""


@dataclass(frozen=True)
class Caveat:
    """What a reader should know before believing a number, under one title."""

    title: str
    texts: Sequence[str]

    @property
    def serious(self) -> bool:
        """Whether it can make a finding a wrong one."""
        return self.title in SERIOUS


# Leaderboards


def leaderboard_caveats(rows: Sequence[Row]) -> list[Caveat]:
    """Return those that apply to some rows, the gravest first."""
    return [Caveat(title, texts) for title, find in ROW_CAVEATS.items() if (texts := list(find(rows)))]


def failed_cells(rows: Sequence[Row]) -> Iterator[str]:
    """Yield why cells failed, each error once."""
    errors = Counter(row.error or "no error was recorded" for row in rows if row.failed)
    for error, count in errors.items():
        yield f"{counted(count, 'cell')} failed: {error}"


def uncontrolled(rows: Sequence[Row]) -> Iterator[str]:
    """Yield how many comparisons have no control."""
    overridden = [row for row in compared(rows) if not row.is_baseline]
    if without := sum(not row.n_controls for row in overridden):
        yield (
            f"{without:,} of {counted(len(overridden), 'comparison')} of an override {_has(without)} no control: "
            "as many random neurons might do as much. Add some: `controls` of a sweep, --controls of a reproduction."
        )


def few_draws(rows: Sequence[Row]) -> Iterator[str]:
    """Yield how many comparisons have too few draws of a control to be tested against."""
    overridden = [row for row in compared(rows) if not row.is_baseline]
    if few := [row.n_controls for row in overridden if 0 < row.n_controls < LEAST_DRAWS]:
        yield (
            f"{counted(len(few), 'comparison')} {_has(len(few))} fewer than {LEAST_DRAWS} draws of a control "
            f"({range_of(few)}). Draws differ, so a difference from them may be theirs: it is shown, and not tested."
        )


def few_documents(rows: Sequence[Row]) -> Iterator[str]:
    """Yield how many comparisons found less than their documents can show."""
    tested = compared(rows)
    if unseen := [row for row in tested if not row.significant and abs(row.delta or 0.0) < (row.mde or math.inf)]:
        documents = range_of(row.n for row in unseen if row.n is not None) or "so few"
        yield (
            f"{len(unseen):,} of {counted(len(tested), 'comparison')} found less than what {documents} documents can "
            "show. No mark there means that it is not known, and not that there is no effect."
        )


def constant_answers(rows: Sequence[Row]) -> Iterator[str]:
    """Yield where nearly all predictions are one choice, with and without intervention."""
    for table in tables_of(row for row in rows if row.top_share is not None and row.control_of is None):
        task, constant = _task(table[0]), [row for row in table if _is_constant(row)]
        if unchanged := [row for row in constant if row.is_baseline]:
            shares = listed(
                f"{_whose(row)} ({row.top_choice}: {percent(row.top_share)} of {counted(row.n or 0, 'document')})"
                for row in unchanged
            )
            yield (
                f"{task}: without intervention nearly all predictions are one choice in {shares}. Such an accuracy can "
                "hardly move, whatever an intervention does to the likelihoods: bits per byte show more."
            )
        if changed := [row for row in constant if not row.is_baseline]:
            overridden = sum(not row.is_baseline for row in table)
            yield (
                f"{task}: under an override nearly all predictions are one choice in {len(changed)} of "
                f"{counted(overridden, 'cell')} ({listed(dict.fromkeys(_pair(row) for row in changed))})."
            )


def by_chance(rows: Sequence[Row]) -> Iterator[str]:
    """Yield where accuracy without intervention cannot be told from that of random choices."""
    unchanged = [row for row in rows if row.is_baseline and at_chance(row)]
    for table in tables_of(unchanged):
        chances = listed(dict.fromkeys(percent(row.chance) for row in table))
        yield (
            f"{_task(table[0])}: without intervention the accuracy cannot be distinguished from chance "
            f"({chances}) in {listed(map(_whose, table))}. There is little that an intervention could spoil."
        )


def at_chance(row: Row) -> bool:
    """Return whether the 95 % interval of an accuracy holds what one choice at random would reach."""
    if row.chance is None or row.value is None or not row.n:
        return False
    low, high = wilson_interval(round(row.value * row.n), row.n)
    return low <= row.chance <= high


def _is_constant(row: Row) -> bool:
    # Nearly always right, it may as well be that nearly all documents have one right choice.
    nearly_right = row.value is not None and row.value >= _NEARLY_ALL
    return not nearly_right and (row.top_share or 0.0) >= _NEARLY_ALL and (row.n or 0) >= _FEW


def _whose(row: Row) -> str:
    return _pair(row) if row.finetune == BASELINE else f"{_pair(row)} with adapter {row.finetune}"


def _pair(row: Row) -> str:
    return pair_name(row.language, row.source)


def _task(row: Row) -> str:
    return task_title(row.task_pattern, row.task_title)


def limited(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the limits under which the rows were measured."""
    if limits := sorted({row.limit for row in rows if row.limit is not None}):
        sizes = listed(f"{limit:g}" for limit in limits)
        yield f"Only the first documents of each task were measured (limit {sizes}); others may give other numbers."


def cut_prompts(rows: Sequence[Row]) -> Iterator[str]:
    """Yield, of each task, how many prompts did not fit the model."""
    worst: dict[str, Row] = {}
    for row in rows:
        if row.cut_prompts and row.cut_prompts > ((worst[row.task].cut_prompts or 0) if row.task in worst else 0):
            worst[row.task] = row
    for task, row in sorted(worst.items()):
        yield (
            f"{task}: {row.cut_prompts:,} of {counted(row.requests or 0, 'prompt')} did not fit the model and lost "
            "their beginning (BOS was kept): the model did not read what the task asks there."
        )


def several_models(rows: Sequence[Row]) -> Iterator[str]:
    """Yield which models are shown together, where there is more than one."""
    models = {
        (row.model, row.revision, row.dtype, row.quantization, row.weights): " ".join(
            filter(None, (row.model, row.revision, row.dtype, row.quantization))
        )
        for row in rows
        if not row.failed
    }
    if len(models) > 1:
        yield (
            f"{len(models)} models are shown together ({listed(sorted(set(models.values())))}). Each is compared with "
            "itself only; their numbers may differ for many reasons."
        )


def several_tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what a correction within each table does not cover, where there are several."""
    if (tables := len(tables_of(compared(rows)))) > 1:
        yield (
            f"p-values are corrected within a table. There are {tables} tables: about one in twenty tables in "
            "which nothing changes has a mark all the same. Intervals are not corrected at all."
        )


def unspecific_neurons(rows: Sequence[Row]) -> Iterator[str]:
    """Yield which selectors took neurons out of equals, or neurons of all languages."""
    by_selector: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if not row.failed and row.control_of is None and not row.is_baseline:
            by_selector[plain_name("selector", row.selector)][_pair(row)] = row
    for selector, own in by_selector.items():
        tied, common, alone = (
            {language: getattr(row, name) for language, row in own.items()}
            for name in ("neurons_tied", "neurons_common", "neurons_own")
        )
        yield from selection_warnings(selector, tied, common, alone)


def row_notes(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the rows' own notes, with how many have each."""
    for note, count in Counter(row.note for row in rows if row.note).items():
        yield f"{counted(count, 'row')}: {note}."


ROW_CAVEATS: dict[str, Callable[[Sequence[Row]], Iterator[str]]] = {
    "Failed cells": failed_cells,
    "One answer to nearly everything": constant_answers,
    "No better than chance": by_chance,
    "No control": uncontrolled,
    "Neurons that are not one language's": unspecific_neurons,
    "Few draws of a control": few_draws,
    "Too few documents": few_documents,
    "Limited documents": limited,
    "Prompts that were cut": cut_prompts,
    "Different models": several_models,
    "Several tables": several_tables,
    "Not compared, or not the same": row_notes,
}
"""Title → the sentences that rows alone allow; none where it does not apply."""

UNMEASURED = "Neurons that are not one language's, in sets that were not measured"
"""The title of a page's caveat about NeuronSets that no row speaks of."""

SERIOUS = frozenset(list(ROW_CAVEATS)[:5]) | {
    UNMEASURED,
    "Values outside the observed range",
    "Languages without neurons",
}
"""Those that can make a finding a wrong one."""


def detectable(rows: Sequence[Row], *, scale: float = 1.0, unit: str = "") -> str:
    """Say how large a change must be to be found: the minimal detectable effect of the comparisons among ``rows``.

    Args:
        rows: Compared with a baseline.
        scale: What changes are multiplied with: 100 for points.
        unit: What is written behind the number.
    """
    tested = compared(rows)
    tables, documents = tables_of(tested), [row.n for row in tested if row.n is not None]
    if documents and all(map(is_hopeless, tables)):
        tests = range_of(map(len, tables))
        return (
            f"With {counted(max(documents), 'document')} and {tests} comparisons no change, however large, can be "
            "significant after the correction: measure more documents, or compare fewer cells."
        )
    effects = [scale * row.mde for row in tested if row.mde is not None]
    if not effects or not documents:
        return "How large a change would have been found is not known from so few documents."
    low, high = brief(min(effects)), brief(max(effects))
    behind = f" {unit}" if unit else ""
    reachable = p_value(max(filter(None, map(least_corrected, tables))))
    size = f"{low}{behind}" if low == high else f"{low} to {high}{behind}, by cell,"
    return (
        f"With {range_of(documents)} documents a change must be {size} to be found in four of five samples, before the "
        f"correction (minimal detectable effect). The smallest p-value that they can reach after it is {reachable}."
    )


def least_corrected(table: Sequence[Row]) -> float | None:
    """Return the smallest p-value after the correction that any change in a table of comparisons could have had."""
    family = len(table)
    least = [least_p(row.n, family) if row.least_p is None else row.least_p for row in table if row.n is not None]
    return min(1.0, family * min(least)) if least else None


def is_hopeless(table: Sequence[Row]) -> bool:
    """Return whether even a change of every document in one direction is not significant after the correction."""
    least = least_corrected(table)
    return least is not None and least >= LEVEL


# Overrides


def values_outside(intervention: str, shares: Sequence[float], cells: int) -> Iterator[str]:
    """Yield how many values an intervention wrote that its neurons never took on text.

    Args:
        intervention: As it was written.
        shares: Of the values, in each cell in which there are any.
        cells: How many cells there are.
    """
    if shares:
        yield (
            f"{intervention} wrote values that its neurons never took on the text of the Statistics, in {len(shares)} "
            f"of {counted(cells, 'cell')}: up to {percent(max(shares))} of the values. Damage there may come from the "
            "values, not from what the neurons do."
        )


def other_site(read: str, write: str) -> str:
    """Say that values were read at one site and written at another."""
    return (
        f"Values were read at the site {read} and written at the site {write}, as in the paper. A value of the one "
        "need not be possible at the other."
    )


def no_neurons(neurons: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """Yield which selectors found no neurons for some languages.

    Args:
        neurons: Selector → the languages that it found none for.
    """
    for selector, languages in neurons.items():
        if empty := sorted(set(languages)):
            yield f"{selector} found no neurons for {listed(empty)}: nothing can be overridden there."


# Perplexity matrices


def matrix_caveats(matrix: PerplexityMatrix) -> list[str]:
    """Return what a perplexity matrix says of its own numbers; it was written down as they were measured."""
    read, write = site_choice(matrix.site)
    crossed = [other_site(read, write)] if read != write else []
    return [*(f"{note}." for note in matrix.notes), *crossed]


def _has(count: int) -> str:
    return "has" if count == 1 else "have"
