"""What the page's templates get."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lnbench.host import changes_nothing
from lnbench.leaderboard import Row
from lnbench.model.architectures import in_units
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.report.inputs import Sources
from lnbench.report.overview import dates, models, overview
from lnbench.report.page_figures import pictures
from lnbench.report.samples import sample_groups
from lnbench.report.written import written
from lnbench.selection_account import selection_warnings
from lnbench.tables.caveats import (
    UNMEASURED,
    Caveat,
    leaderboard_caveats,
    matrix_caveats,
    no_neurons,
    other_site,
    values_outside,
)
from lnbench.tables.findings import (
    comparable_unit,
    leaderboard_findings,
    matrix_finding,
    overall,
    reproduction_finding,
)
from lnbench.tables.headline import headline
from lnbench.tables.leaderboard import COLUMNS, Column, leaderboard_tables, plain_columns, shown_columns
from lnbench.tables.perplexity import change_table, selectivity_table, shared_table
from lnbench.tables.plain_names import language_name, plain_name
from lnbench.tables.specificity import specificity_table
from lnbench.tables.table import Table
from lnbench.tables.words import counted, model_name, without_folders

LEADERBOARD = ("leaderboard.json", "leaderboard.csv")
MOST_ROWS = 1_000
"""Rows of the leaderboard in a page, which would be slow to open with many more; the CSV has all."""
MOST_SAMPLE_BYTES = 1_000_000
"""Of the samples in a page."""


SECTIONS: Sequence[tuple[str, str, Sequence[str]]] = (
    ("findings", "Finding", ("models", "findings", "runs")),
    ("explore", "Explore", ("explored",)),
    ("samples", "Samples", ("measured",)),
    ("perplexity", "Perplexity", ("perplexity",)),
    ("published", "Beside the paper", ("reproductions",)),
    ("figures", "Layers and neurons", ("pictures",)),
    ("leaderboard", "Leaderboard", ("leaderboard",)),
    ("tables", "Tables", ("tables",)),
    ("comparisons", "Every comparison", ("headline",)),
    ("caveats", "Caveats", ("caveats",)),
    ("run", "Methods", ("overview",)),
    ("commands", "Commands", ("leaderboard", "perplexity", "reproductions")),
)
"""The sections of the page in their order: id, title, and what in the page's context there must be some of."""


@dataclass(frozen=True)
class Leaderboard:
    """The sortable table."""

    rows: Sequence[Row]
    """Those that are shown."""
    total: int
    """Rows that there are."""
    columns: Sequence[Column]
    """Those in which the rows differ, and those that are always shown."""
    plain: Mapping[str, Mapping[str, str]]
    """Heading → what a cell of text says → what a reader is shown for it."""
    constants: Sequence[tuple[str, str]]
    """Headings of the columns that are left out, and what all rows have there."""
    choices: dict[int, list[str]]
    """Number of a column → the values that the table can be narrowed to."""
    commands: dict[str, int]
    """Command → its number, from 1."""


def page_context(sources: Sources, out: Path) -> dict[str, Any]:
    """Return what the page's templates get; the figures are written to ``out``.

    Raises:
        LnbenchError: a file is damaged or cannot be written.
    """
    samples = sample_groups(sources)
    shown_samples = [group.within(MOST_SAMPLE_BYTES // len(samples)) for group in samples]
    measured = sum(group.total for group in samples)
    rows = sources.shown_rows
    found = headline(rows) if rows else None
    drawn = pictures(sources, out, found.rows if found else ())
    matrices: dict[Path, dict[str, Any]] = {
        folder: {
            "finding": matrix_finding(_matrix_title(folder, matrix), matrix),
            "picture": drawn.matrices[folder],
            # Beside the first matrix that it explains.
            "overlap": drawn.overlaps.pop(matrix.neuron_set, None),
            "tables": _perplexity_tables(sources, matrix),
            "command": matrix.command,
        }
        for folder, matrix in sources.shown_matrices.items()
    }
    reproductions: list[dict[str, Any]] = [
        {
            "finding": reproduction_finding(reproduction),
            "reproduction": reproduction.model_copy(
                update={"commands": [without_folders(command) for command in reproduction.commands]}
            ),
            "models": list(map(model_name, reproduction.models)),
            "tables": list(map(_with_notes, reproduction.shown)),
            "pictures": drawn.copied[folder],
        }
        for folder, reproduction in sources.reproductions.items()
    ]
    # A reproduction has said itself what its matrices show.
    said = {(folder / run).resolve() for folder, part in sources.reproductions.items() for run in part.runs}
    told = sorted(caveats(sources), key=lambda caveat: not caveat.serious)
    findings = [
        *(finding for part in reproductions if (finding := part["finding"]).verdict or finding.details),
        *leaderboard_findings(rows),
        *(part["finding"] for folder, part in matrices.items() if folder not in said),
    ]
    board = _leaderboard(rows) if rows else None
    commands = sum(bool(part["command"]) for part in matrices.values())
    commands += sum(len(part["reproduction"].commands) for part in reproductions)
    context: dict[str, Any] = {
        "models": models(sources),
        "dates": dates(sources),
        "runs": [run.name for run in sources.runs],
        "overview": overview(sources),
        "headline": found,
        "hero": drawn.hero,
        "written": written(sources, found.rows) if found else None,
        "overall": overall(rows) if rows else "",
        "findings": findings,
        "caveats": told,
        "serious": sum(caveat.serious for caveat in told),
        "leaderboard": board,
        "kind_of": _kind,
        "tables": leaderboard_tables(rows, plain=True),
        "reproductions": reproductions,
        "perplexity": list(matrices.values()),
        "explored": drawn.explored,
        "pictures": drawn.others,
        "samples": shown_samples,
        "measured": measured,
        "left_out": measured - sum(len(group.documents) for group in shown_samples),
        "data": LEADERBOARD if rows else (),
        "commands": commands + (len(board.commands) if board else 0),
    }
    context["sections"] = [(name, title) for name, title, any_of in SECTIONS if any(map(context.get, any_of))]
    return context


def _leaderboard(rows: Sequence[Row]) -> Leaderboard:
    # Controls are left out first, then the least certain changes.
    ranked = sorted(rows, key=lambda row: (row.control_of is not None, 1.0 if row.p_holm is None else row.p_holm))
    kept = set(map(id, ranked[:MOST_ROWS]))
    shown = [row for row in rows if id(row) in kept]
    columns = shown_columns(shown)
    return Leaderboard(
        rows=shown,
        total=len(rows),
        columns=columns,
        plain=plain_columns(shown),
        constants=[(column.heading, column.cell(shown[0]).text()) for column in COLUMNS if column not in columns],
        choices={
            place: list(dict.fromkeys(column.cell(row).text() for row in shown))
            for place, column in enumerate(columns)
            if column.filtered
        },
        commands={command: place for place, command in enumerate(dict.fromkeys(row.command for row in shown), 1)},
    )


def _kind(row: Row) -> str:
    """Return how the page filters a row."""
    if row.failed:
        return "failed"
    return "control" if row.control_of is not None else "significant" if row.significant else "plain"


def _matrix_title(folder: Path, matrix: PerplexityMatrix) -> str:
    change = in_units(f"{matrix.intervention} on the neurons of {matrix.selector}", matrix.site)
    return f"Perplexity under {change}, {matrix.model} ({folder.name})"


def _perplexity_tables(sources: Sources, matrix: PerplexityMatrix) -> list[Table]:
    sets = {neurons.fingerprint: neurons for neurons in sources.neuron_sets.values()}
    tokens = ", ".join(f"{language} {account.tokens:,}" for language, account in matrix.slices.items())
    notes = [
        "Rows: whose neurons are changed. Columns: whose text is read. Above 0, the text became less likely.",
        "In brackets the 95 % interval over blocks of text.",
        f"Tokens read in each language: {tokens}; block length {matrix.length}, site {matrix.site}.",
    ]
    unit = comparable_unit(matrix)
    shared = shared_table(matrix, sets.get(matrix.neuron_set), unit)
    changes = change_table(matrix, unit, with_interval=True, notes=notes)
    specificity = specificity_table(matrix)
    return [changes, selectivity_table(matrix), *(table for table in (specificity, shared) if table is not None)]


def _with_notes(table: Table) -> Table:
    """Return a table with its cells' notes below it."""
    cells = [cell for row in table.rows for cell in row.cells]
    notes = [
        f"{counted(count, 'cell')}: {note}."
        for note, count in Counter(cell.note for cell in cells if cell.note).items()
    ]
    return replace(table, notes=[*table.notes, *notes])


def caveats(sources: Sources) -> list[Caveat]:
    """Return what a reader should know before believing the numbers."""
    others = [Caveat(title, texts) for title, find in _CAVEATS.items() if (texts := list(find(sources)))]
    return [*leaderboard_caveats(sources.shown_rows), *others]


def _outside(sources: Sources) -> Iterator[str]:
    """Yield which interventions wrote values that no neuron showed on text."""
    overrides = {row.cell: row.intervention for row in sources.shown_rows if not row.failed and row.control_of is None}
    shares: dict[str, list[float]] = defaultdict(list)
    for cell, intervention in overrides.items():
        if not changes_nothing(intervention) and cell in sources.overrides:
            shares[intervention].append(sources.overrides[cell].outside or 0.0)
    for intervention, all_shares in shares.items():
        yield from values_outside(intervention, list(filter(None, all_shares)), len(all_shares))


def _sites(sources: Sources) -> Iterator[str]:
    """Yield the sites that values were read at and written at, where they differ."""
    sites = {(info.read_site, info.write_site) for info in sources.overrides.values()}
    yield from (other_site(read, write) for read, write in sorted(sites, key=str) if read and write and read != write)


def _no_neurons(sources: Sources) -> Iterator[str]:
    """Yield which selectors found no neurons for some languages."""
    empty: dict[str, list[str]] = defaultdict(list)
    for info in sources.overrides.values():
        empty[sources.named(info.selector) or "a file"] += [code for code, count in info.neurons.items() if not count]
    for name, neurons in sources.neuron_sets.items():
        empty[name] += [language for language in neurons if not neurons.count(language)]
    yield from no_neurons(empty)


def _unspecific(sources: Sources) -> Iterator[str]:
    """Yield what to keep in mind with NeuronSets that no row speaks of."""
    spoken_of = {row.selector for row in sources.shown_rows}
    for name, neurons in sources.neuron_sets.items():
        if name not in spoken_of and neurons.languages:
            tied = {} if neurons.account is None else neurons.account.languages
            shared = sources.accounts[neurons.fingerprint].languages
            warnings = selection_warnings(
                plain_name("selector", name),
                {language_name(code): own.share_tied for code, own in tied.items()},
                {language_name(code): own.share_common for code, own in shared.items()},
                {language_name(code): own.share_own for code, own in shared.items()},
            )
            yield from (in_units(warning, neurons.site) for warning in warnings)


_CAVEATS: dict[str, Callable[[Sources], Iterator[str]]] = {
    "Values outside the observed range": _outside,
    "Read and written at different sites": _sites,
    "Languages without neurons": _no_neurons,
    UNMEASURED: _unspecific,
    "Perplexity matrices": lambda sources: (
        f"{folder.name}: {text}" for folder, matrix in sources.shown_matrices.items() for text in matrix_caveats(matrix)
    ),
    "Unfinished training": lambda sources: (
        f"The training of {folder.name} has not finished."
        for folder, training in sources.trainings.items()
        if not training.get("finished")
    ),
}
"""Title → what more than the leaderboard's rows tells."""
