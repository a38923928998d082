"""Two models, adapters or runs side by side, as one table per task and metric."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from lnbench.leaderboard.versus import Match, Versus
from lnbench.significance import LEVEL
from lnbench.tables.table import Cell, Table, TableRow, Tone
from lnbench.tables.words import CORRECTED, SIGNIFICANT, counted, p_value, signed, span

_PAIRED = ("difference", "95 % interval", "p, corrected", "detectable")


def versus_tables(compared: Versus) -> list[Table]:
    """Return a table for each task and metric: both values, and their difference where documents are the same."""
    tables: dict[tuple[str, str], list[Match]] = defaultdict(list)
    for match in compared.matches:
        tables[match.table].append(match)
    return [_table(compared, *of, matches) for of, matches in tables.items()]


def _table(compared: Versus, pattern: str, metric: str, matches: Sequence[Match]) -> Table:
    first, second = (side.name.rstrip("/").rpartition("/")[2] or side.name for side in compared.sides)
    if first == second:
        first, second = (side.name for side in compared.sides)
    paired = any(match.comparison is not None for match in matches)
    seeds = len({match.first.record.seed for match in matches}) > 1
    several = len({(match.first.record.model, match.first.record.finetune) for match in matches}) > 1
    of_runs = several and all(side.kind == "run" for side in compared.sides)
    rows = []
    for match in matches:
        record = match.first.record
        language = record.language if record.source is None else f"{record.source}→{record.language}"
        labels = [language, record.selector, record.intervention]
        labels += [str(record.seed)] if seeds else []
        labels += [" + ".join([record.model, record.finetune])] if of_runs else []
        values = [Cell(match.first.record.value), Cell(match.second.record.value)]
        rows.append(TableRow(labels, [*values, *(_difference(match) if paired else [])]))
    headings = ["language", "neurons", "intervention", *(["seed"] if seeds else []), *(["model"] if of_runs else [])]
    columns = [first, second, *(_PAIRED if paired else [])]
    notes = [*_notes(matches, first, second), *_alone(compared, first, second)]
    return Table(f"{metric} of {pattern}: {first} and {second}", headings, columns, rows, notes=notes)


def _difference(match: Match) -> list[Cell]:
    found, p_holm = match.comparison, match.p_holm
    if found is None or p_holm is None:
        return [Cell()] * len(_PAIRED)
    significant, up = p_holm < LEVEL, match.second.higher_is_better
    tone: Tone = "" if not significant or up is None else "better" if (found.delta > 0) == up else "worse"
    return [
        Cell(found.delta, shown=signed(found.delta), marks=SIGNIFICANT if significant else "", tone=tone),
        Cell(found.ci_low, shown=span(found.ci_low, found.ci_high), low=found.ci_low, high=found.ci_high),
        Cell(p_holm, shown=p_value(p_holm)),
        Cell(found.mde),
    ]


def _notes(matches: Sequence[Match], first: str, second: str) -> Iterator[str]:
    tested = [match for match in matches if match.comparison is not None]
    if tested:
        documents = sorted({len(match.first.documents) for match in tested})
        span_of = str(documents[0]) if len(documents) == 1 else f"{documents[0]} to {documents[-1]}"
        yield (
            f"difference: {second} less {first}, paired over {span_of} documents; detectable: the smallest difference "
            "that four of five samples of so many documents would have shown, before the correction."
        )
        corrected = f"{CORRECTED} for {counted(len(tested), 'test')}"
        if any(match.p_holm is not None and match.p_holm < LEVEL for match in tested):
            yield f"{SIGNIFICANT} differs: {corrected}."
        else:
            yield f"Nothing here differs significantly ({corrected})."
    for reason, count in Counter(match.unpaired for match in matches if match.unpaired).items():
        yield f"{count} of {counted(len(matches), 'row')} not compared document by document: {reason}."
    if any(not match.first.record.is_baseline for match in matches):
        yield "Under an intervention, each has its own neurons of that selector changed."


def _alone(compared: Versus, first: str, second: str) -> Iterator[str]:
    for name, count in zip((first, second), compared.alone, strict=True):
        if count:
            yield f"{counted(count, 'result')} of {name}, in all tables, have no counterpart."
