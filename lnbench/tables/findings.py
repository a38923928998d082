"""What results say, in sentences: one sentence per fact, for the terminal, the page and reproductions alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lnbench.leaderboard.rows import Row, compared
from lnbench.model.architectures import POST, in_units
from lnbench.perplexity.matrix import Contrast, PerplexityMatrix, Selectivity
from lnbench.significance import LEVEL
from lnbench.sweeps.records import BASELINE
from lnbench.tables.caveats import detectable
from lnbench.tables.ceilings import ordered_tables
from lnbench.tables.plain_names import metric_title, pair_name, plain_name, task_title
from lnbench.tables.reproduction import Reproduction
from lnbench.tables.words import CORRECTED, brief, control_units, counted, listed, model_name, number, ratio, signed

_Direction = tuple[str, Callable[[Row], bool]]


@dataclass(frozen=True)
class Finding:
    """One result in sentences.

    Attributes:
        title: What was measured.
        verdict: The result.
        details: What it consists of.
    """

    title: str
    verdict: str
    details: Sequence[str] = ()


# Leaderboards


def overall(rows: Sequence[Row]) -> str:
    """Return one sentence over all tables: how many comparisons show a change, and in which direction."""
    if not (tested := compared(rows)):
        return "No cell could be compared with the same model without intervention, so nothing is said of changes."
    changed = [row for row in tested if row.significant]
    if not changed:
        return f"None of {counted(len(tested), 'comparison')} shows a significant change ({CORRECTED})."
    return (
        f"{len(changed):,} of {counted(len(tested), 'comparison')} {'shows' if len(changed) == 1 else 'show'} a "
        f"significant change ({CORRECTED}): {_tally(changed)}."
    )


def leaderboard_findings(rows: Sequence[Row]) -> list[Finding]:
    """Return a finding for each table with comparisons."""
    return [_finding(table) for table in ordered_tables(compared(rows))]


def _finding(rows: Sequence[Row]) -> Finding:
    first = rows[0]
    measured = metric_title(first.metric, first.higher_is_better)
    title = f"{task_title(first.task_pattern, first.task_title)}, {measured}: {model_name(first.model)}"
    changed = [row for row in rows if row.significant]
    tested = counted(len(rows), "comparison")
    if not changed:
        return Finding(title, f"Nothing is significant in {tested}. {_largest(rows)} {detectable(rows)}")
    parts = [f"{len(changed)} of {tested} {'is' if len(changed) == 1 else 'are'} significant: {_tally(changed)}."]
    if controlled := [row for row in changed if row.control_p_holm is not None]:
        beyond = sum(row.control_significant or False for row in controlled)
        parts.append(
            f"Of the {len(controlled)} that have a control, {beyond or 'none'} "
            f"{'differs' if beyond == 1 else 'differ'} from it too."
        )
    by_change: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        by_change[row.finetune, row.selector, row.intervention].append(row)
    details = [_detail(group) for group in by_change.values() if any(row.significant for row in group)]
    if silent := [_change(group[0]) for group in by_change.values() if not any(row.significant for row in group)]:
        details.append(f"{listed(silent)}: no significant change.")
    return Finding(title, " ".join(parts), details)


def worse(row: Row) -> bool:
    """Return whether a change is for the worse, by what the task says of its metric."""
    return (row.delta or 0) < 0 if row.higher_is_better else (row.delta or 0) > 0


def _directions(rows: Sequence[Row]) -> list[_Direction]:
    """Return the directions of a change: better and worse where the task says which is which."""
    if any(row.higher_is_better is None for row in rows):
        return [("higher", lambda row: (row.delta or 0) > 0), ("lower", lambda row: (row.delta or 0) <= 0)]
    return [("worse", worse), ("better", lambda row: not worse(row))]


def _tally(rows: Sequence[Row]) -> str:
    counts = {name: sum(map(is_so, rows)) for name, is_so in _directions(rows)}
    whole = [f"all {name}" for name, count in counts.items() if count == len(rows) > 1]
    return listed(whole or [f"{count} {name}" for name, count in counts.items() if count])


def _detail(rows: Sequence[Row]) -> str:
    """Say what one change did in each language, the largest first."""
    parts = []
    changed = sorted((row for row in rows if row.significant), key=lambda row: -abs(row.delta or 0))
    for name, is_so in _directions(changed):
        if languages := [
            f"{pair_name(row.language, row.source)} ({signed(row.delta)})" for row in changed if is_so(row)
        ]:
            parts.append(f"{name} in {listed(languages)}")
    if rest := [pair_name(row.language, row.source) for row in rows if not row.significant]:
        parts.append(f"no significant change in {listed(dict.fromkeys(rest))}")
    return f"{_change(rows[0])}: {'; '.join(parts)}."


def _change(row: Row) -> str:
    """Name what was done."""
    adapter = "" if row.finetune == BASELINE else f"adapter {row.finetune}"
    names = plain_name("intervention", row.intervention), plain_name("selector", row.selector)
    override = "" if row.is_baseline else in_units("{} of neurons by {}".format(*names), row.site or POST)
    return ", ".join(filter(None, (adapter, override)))


def _largest(rows: Sequence[Row]) -> str:
    row = max(rows, key=lambda row: abs(row.delta or 0))
    return f"The largest change is {signed(row.delta)}, in {pair_name(row.language, row.source)}: {_change(row)}."


# Perplexity matrices

UNITS = {"bits_per_byte": "bits per byte", "nats": "nats per token", "perplexity": "perplexity"}
"""Units of a change, as a cell's fields have them behind ``delta_``; first the one that compares languages."""


def comparable_unit(matrix: PerplexityMatrix) -> str:
    """Return the unit that compares texts of different languages: bits per byte where all cells have it, else nats."""
    return "nats" if any(cell.delta_bits_per_byte is None for cell in matrix.cells) else "bits_per_byte"


def matrix_finding(title: str, matrix: PerplexityMatrix) -> Finding:
    """Return what a perplexity matrix says: whose text its neurons' change harms most, and why it is another's."""
    verdict = own_text_harmed_most(matrix, comparable_unit(matrix))
    details = [*shared_neurons(matrix), *_controlled(matrix), *_specific(matrix)]
    return Finding(title, in_units(verdict, matrix.site), [in_units(detail, matrix.site) for detail in details])


def own_text_harmed_most(matrix: PerplexityMatrix, unit: str) -> str:
    """Say for which languages changing their neurons harms their own text most, in one unit of :data:`UNITS`."""
    judged = [changed for changed in matrix.changed if changed in matrix.read and matrix.neurons[changed]]
    if not judged or len(matrix.read) < 2:
        return "No language has both its neurons changed and another language's text read beside its own."
    # What is not significant would be a verdict on chance, as the notes below the numbers say.
    unsure = [changed for changed in judged if matrix.cell(changed, changed).p_holm >= LEVEL]
    judged = [changed for changed in judged if changed not in unsure]
    if not judged:
        return (
            f"In {UNITS[unit]}, whether changing a language's neurons harms its own text most cannot be told for "
            f"{listed(unsure)}: the change of the own text is not significant ({CORRECTED})."
        )
    own = [changed for changed in judged if _most_harmed(matrix, changed, unit) == changed]
    why = ", the unit that compares languages" if unit == "bits_per_byte" else ""
    named = listed(own) if own else "none"
    untold = (
        f" For {listed(unsure)} it cannot be told: the change of the own text is not significant." if unsure else ""
    )
    rest = "" if len(own) in (0, len(judged)) else f" (not {listed(code for code in judged if code not in own)})"
    return (
        f"In {UNITS[unit]}{why}, changing a language's neurons harms its own text most for {len(own)} of "
        f"{counted(len(judged), 'language')}: {named}{rest}.{untold}"
    )


def _most_harmed(matrix: PerplexityMatrix, changed: str, unit: str) -> str | None:
    """Return whose text a row harms most; None where it harms none, or a change is beyond floating point."""
    changes = {cell.read: getattr(cell, f"delta_{unit}") for cell in matrix.row(changed)}
    if None in changes.values() or max(changes.values()) <= 0:
        return None
    return max(changes, key=lambda read: (float(changes[read]), read == changed))


def _controlled(matrix: PerplexityMatrix) -> Iterator[str]:
    own = [matrix.cell(row.changed, row.changed) for row in matrix.selectivity]
    if tested := [cell for cell in own if cell.control_p_holm is not None]:
        beyond = [cell.changed for cell in tested if (cell.control_p_holm or 0.0) < LEVEL]
        yield (
            f"On the diagonal, the change differs from that of {control_units(matrix.control)} for {listed(beyond)} "
            f"({len(beyond)} of {len(tested)}; {CORRECTED})."
        )


def _specific(matrix: PerplexityMatrix) -> Iterator[str]:
    """Yield what ρ and the diagonal selectivity are, in sentences."""
    own = [matrix.cell(row.changed, row.changed) for row in matrix.selectivity if matrix.neurons[row.changed]]
    known = [f"{cell.changed} {ratio(cell.rho, cell.rho_low, cell.rho_high)}" for cell in own if cell.rho is not None]
    if known:
        draws = max(cell.n_controls for cell in own)
        yield (
            f"Matched specificity ρ, the change of the own text over that by {control_units(matrix.control)} "
            f"({counted(draws, 'draw')}): {listed(known)}."
        )
    if (mean := matrix.diagonal) is not None:
        interval = "" if mean.low is None else f" [{number(mean.low)} to {number(mean.high)}]"
        f1 = "" if mean.f1 is None else f", LangSpec-F1 {brief(mean.f1)}"
        yield (
            f"Diagonal selectivity, the change of the own text less that of the others: {number(mean.difference)}"
            f"{interval} {UNITS[mean.unit]}{f1}, means over {counted(mean.languages, 'language')}."
        )


def shared_neurons(matrix: PerplexityMatrix) -> list[str]:
    """Return, for each row whose own text is not harmed most, whose is, and who shares most of its neurons.

    In bits per byte where a row has them: a token of one language can be worth twice the text of one of another.
    """
    rows = [(row, row.bits_per_byte or row) for row in matrix.selectivity]
    return [
        f"{_harm(matrix, row.changed, contrast)}; {_sharing(matrix, row.changed, contrast.most_harmed)}."
        for row, contrast in rows
        if not contrast.dominant and matrix.neurons[row.changed]
    ]


def _harm(matrix: PerplexityMatrix, changed: str, contrast: Contrast) -> str:
    if all(cell.p_holm >= LEVEL for cell in matrix.row(changed)):
        return f"The neurons of {changed}: changing them changes no text significantly ({CORRECTED})"
    unit = "nats" if isinstance(contrast, Selectivity) else "bits_per_byte"
    most = getattr(matrix.cell(changed, contrast.most_harmed), f"delta_{unit}")
    if most <= 0:
        return f"The neurons of {changed}: changing them harms no text that was read"
    return (
        f"The neurons of {changed}: changing them harms {contrast.most_harmed} ({most:+.3f} {UNITS[unit]}) more than "
        f"{changed} ({contrast.own:+.3f})"
    )


def _sharing(matrix: PerplexityMatrix, changed: str, most_harmed: str) -> str:
    shared = matrix.shared.get(changed, {})
    most = max(shared, key=lambda language: shared[language], default=None)
    if most is None:
        return "which of its neurons other languages have is not known"
    if shared[most] == 0:
        return f"of its {matrix.neurons[changed]} neurons, none is another language's"
    sentence = f"of its {matrix.neurons[changed]} neurons, {shared[most]} are also those of {most}, the most"
    if most_harmed in shared and most_harmed != most:
        sentence += f", and {shared[most_harmed]} those of {most_harmed}"
    return sentence


# Reproductions


def reproduction_finding(reproduction: Reproduction) -> Finding:
    """Return what a reproduction says of itself, and how near its values are to the published ones."""
    distances: dict[str, list[float]] = defaultdict(list)
    for table in reproduction.tables:
        for value in (cell for row in table.rows for cell in row.cells if cell is not None):
            if value.difference is not None:
                distances[value.unit].append(abs(value.difference))
    means = [f"{number(sum(apart) / len(apart), 1)} ({unit})" for unit, apart in distances.items()]
    compared = counted(sum(map(len, distances.values())), "value is", "values are")
    verdict = f"{compared} beside a published one, at a mean distance of {listed(means)}." if means else ""
    return Finding(f"{reproduction.name}: {reproduction.title}", verdict, reproduction.findings)
