"""What was measured → ``reproduction.json``, its tables as Markdown, CSV and LaTeX, and figures, in one folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from lnbench import figures
from lnbench.figures import Figure
from lnbench.files import write_text
from lnbench.leaderboard.rows import Row
from lnbench.model.architectures import NEURON_SITES
from lnbench.model.names import name_of
from lnbench.reproduce import bench_results
from lnbench.reproduce.bench_results import BenchResults
from lnbench.reproduce.catalogue import ActivationsSpec, BenchSpec, CellsSpec, ComparisonSpec, FigureSpec
from lnbench.reproduce.conclusions import conclusions
from lnbench.reproduce.measurements import Measurements, activations_tables, cells_table
from lnbench.reproduce.paper_caveats import caveats
from lnbench.reproduce.plan import Plan, PlannedItem, PlannedPart
from lnbench.reproduce.scale_settings import PRESETS
from lnbench.statistics import Statistics
from lnbench.tables.findings import UNITS, overall, own_text_harmed_most, shared_neurons
from lnbench.tables.paper import METRICS, SELECTORS, matrix_tables, neuron_tables
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
    named = (
        replace(figure, name=f"{part.at.folder.name}-{figure.name}")
        for part in parts
        for figure in _figures(part, measured)
    )
    saved = [path for figure in named for path in figures.save(figure, folder / FIGURES, width=plan.request.width)]
    reproduction = Reproduction(
        name=item.name,
        title=item.spec.title,
        preset=None if isinstance(item.spec, ComparisonSpec) else plan.request.preset,
        scale=plan.request.scale,
        models=list(dict.fromkeys(name_of(part.at.model) for part in parts)),
        tables=list(_tables(item, measured)),
        figures=[f"{FIGURES}/{path.name}" for path in saved],
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
        elif isinstance(spec, BenchSpec):
            for part in parts:
                yield from bench_results.tables(BenchResults.of(part))
        elif isinstance(spec, FigureSpec):
            for part in parts:
                for matrix in part.matrices:
                    yield from matrix_tables(title, matrix)
                sets = {part.at.selections[name].title: neurons for name, neurons in part.neurons.items()}
                yield from neuron_tables("overlap" if spec.drawing == "matrix" else spec.drawing, sets)


def _figures(part: PlannedPart, measured: Measurements | None) -> Iterator[Figure]:
    spec = part.spec
    if isinstance(spec, CellsSpec) and measured is not None:
        for metric in METRICS[spec.task]:
            if rows := [row for row in _rows(part, metric, measured) if row.delta is not None]:
                yield replace(figures.interventions.data(rows), name=f"{spec.task}-{metric}")
    elif isinstance(spec, ActivationsSpec):
        languages = part.of("statistics")[0].languages
        statistics = {language: Statistics.load(part.at.statistics, language) for language in languages}
        for site in NEURON_SITES:
            yield replace(figures.activation_statistics.data(statistics, site), name=f"activations-{site}")
    elif isinstance(spec, BenchSpec):
        yield bench_results.figure(BenchResults.of(part))
    elif isinstance(spec, FigureSpec):
        for matrix in part.matrices:
            for unit in UNITS:
                yield replace(figures.perplexity_matrix.data(matrix, unit), name=f"matrix-{unit}")
        yield from _of_neurons(part, spec)


def _rows(part: PlannedPart, metric: str, measured: Measurements) -> Iterator[Row]:
    """Yield the changes that a table shows, by the names that it gives them."""
    for place in part.rows:
        names = {
            "selector": SELECTORS[place.selector],
            "finetune": place.label.replace("{lang}", "target"),
            "adapter": None,
            "override_setup": None,
        }
        for intervention in place.spec.columns:
            row = measured.row(place, intervention, metric)
            if row is not None and not row.is_baseline:
                yield row.model_copy(update=names)


def _of_neurons(part: PlannedPart, spec: FigureSpec) -> Iterator[Figure]:
    sets, selections = part.neurons, part.at.selections
    if spec.drawing == "per_language":
        yield figures.neurons_per_language.data({selections[name].title: neurons for name, neurons in sets.items()})
    elif spec.drawing == "selectors":
        *compared, last = sets
        for name in compared:
            yield replace(figures.selector_overlap.data(sets[name], sets[last]), name=f"selectors-{name}")
    else:
        draw_set = figures.neurons_per_layer if spec.drawing == "per_layer" else figures.language_overlap
        for name, neurons in sets.items():
            figure = draw_set.data(neurons)
            yield figure if spec.drawing == "matrix" else replace(figure, name=f"{spec.drawing}-{name}")


def _findings(item: PlannedItem, measured: Measurements | None) -> Iterator[str]:
    for part in item.parts if isinstance(item.spec, BenchSpec) else ():
        yield from bench_results.findings(BenchResults.of(part))
    for matrix in (matrix for part in item.parts for matrix in part.matrices if isinstance(part.spec, FigureSpec)):
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
