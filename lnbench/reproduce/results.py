"""What was measured → ``reproduction.json``, its tables as Markdown, CSV and LaTeX, and figures, in one folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from lnbench.files import write_text
from lnbench.reproduce.catalogue import ActivationsSpec, CellsSpec, ComparisonSpec, FigureSpec
from lnbench.reproduce.caveats import caveats
from lnbench.reproduce.conclusions import conclusions
from lnbench.reproduce.drawings import draw
from lnbench.reproduce.measurements import Measurements, activations_tables, cells_table
from lnbench.reproduce.plan import Plan, PlannedItem, PlannedPart
from lnbench.reproduce.scale_settings import PRESETS
from lnbench.tables.findings import UNITS, overall, own_text_harmed_most, shared_neurons
from lnbench.tables.paper import matrix_tables, neuron_tables
from lnbench.tables.render import latex, markdown
from lnbench.tables.reproduction import FILE, Reproduction, StoredTable

FIGURES = "figures"


def folder_of(plan: Plan, item: PlannedItem) -> Path:
    """Return the folder for the results of one table or figure."""
    suffix = "" if plan.request.preset == "corrected" or isinstance(item.spec, ComparisonSpec) else "-paper"
    return plan.request.folder / f"{item.name}{suffix}"


def write_results(plan: Plan, item: PlannedItem) -> Reproduction:
    """Collect what the steps of a table or figure have written, write its tables and figures, and return them.

    Raises:
        LnbenchError: a file that a step left is missing or damaged.
    """
    folder, parts, steps = folder_of(plan, item), item.parts, item.steps
    measured = Measurements(parts) if any(part.of("sweep") for part in parts) else None
    reproduction = Reproduction(
        name=item.name,
        title=item.spec.title,
        preset=None if isinstance(item.spec, ComparisonSpec) else plan.request.preset,
        scale=plan.request.scale,
        models=list(dict.fromkeys(part.at.model for part in parts)),
        tables=list(_tables(item, measured)),
        figures=[f"{FIGURES}/{name}" for part in parts for name in draw(part, measured, folder / FIGURES)],
        findings=list(_findings(item, measured)),
        conclusions=[verdict for preset in PRESETS for verdict in conclusions(parts, measured, preset)],
        caveats=caveats(plan, item, measured),
        commands=[command for step in steps for command in step.commands()],
        runs=[os.path.relpath(step.out, folder) for step in steps if step.kind in ("sweep", "matrix")],
        settings=plan.settings.flat(),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    reproduction.save(folder / FILE)
    write_text(folder / "table.md", _markdown(reproduction))
    write_text(folder / "table.csv", reproduction.csv_text())
    write_text(folder / "table.tex", "\n".join(latex(table.table) for table in reproduction.tables))
    return reproduction


def _tables(item: PlannedItem, measured: Measurements | None) -> Iterator[StoredTable]:
    by_title: dict[str, list[PlannedPart]] = {}
    for part in item.parts:
        by_title.setdefault(part.spec.title, []).append(part)
    for title, parts in by_title.items():
        spec = parts[0].spec
        if isinstance(spec, CellsSpec) and measured is not None:
            yield cells_table(spec, parts, measured, presets=isinstance(item.spec, ComparisonSpec))
        elif isinstance(spec, ActivationsSpec):
            yield from activations_tables(spec, parts)
        elif isinstance(spec, FigureSpec):
            for part in parts:
                for matrix in part.matrices:
                    yield from matrix_tables(title, matrix)
                sets = {part.at.selections[name].title: neurons for name, neurons in part.neurons.items()}
                yield from neuron_tables("overlap" if spec.drawing == "matrix" else spec.drawing, sets)


def _findings(item: PlannedItem, measured: Measurements | None) -> Iterator[str]:
    for matrix in (matrix for part in item.parts for matrix in part.matrices):
        yield from (own_text_harmed_most(matrix, unit) for unit in UNITS)
        yield from shared_neurons(matrix)
    if measured is not None and (compared := [row for row in measured.rows if not row.is_baseline]):
        yield overall(compared)


def _markdown(reproduction: Reproduction) -> str:
    preset = reproduction.preset or "both"
    parts = [
        f"# {reproduction.name}: {reproduction.title}\n",
        f"Models: {', '.join(reproduction.models)}. Scale: {reproduction.scale}. Preset: {preset}.\n",
        *map(markdown, reproduction.shown),
    ]
    for heading, sentences in (("Findings", reproduction.findings), ("Caveats", reproduction.caveats)):
        parts += [f"## {heading}\n", *(f"- {sentence}" for sentence in sentences), ""] if sentences else []
    parts += [f"![]({figure})\n" for figure in reproduction.figures if figure.endswith(".png")]
    return "\n".join([*parts, "## Commands\n", "```sh", *reproduction.commands, "```\n"])
