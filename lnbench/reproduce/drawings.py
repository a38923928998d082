"""The figures of a reproduction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lnbench import figures
from lnbench.figures import Figure
from lnbench.leaderboard.rows import Row
from lnbench.model.architectures import NEURON_SITES
from lnbench.reproduce.catalogue import ActivationsSpec, CellsSpec, FigureSpec
from lnbench.reproduce.measurements import Measurements
from lnbench.reproduce.plan import PlannedPart
from lnbench.statistics import Statistics
from lnbench.tables.findings import UNITS
from lnbench.tables.paper import METRICS, SELECTORS


def draw(part: PlannedPart, measured: Measurements | None, folder: Path) -> list[str]:
    """Write the figures of a table or figure on one model to a folder, and return the files' names."""
    prefix = part.at.folder.name
    drawn = [replace(figure, name=f"{prefix}-{figure.name}") for figure in _figures(part, measured)]
    return [path.name for figure in drawn for path in figures.save(figure, folder)]


def _figures(part: PlannedPart, measured: Measurements | None) -> Iterator[Figure]:
    spec = part.spec
    if isinstance(spec, CellsSpec) and measured is not None:
        for metric in METRICS[spec.task]:
            if rows := [row for row in _rows(part, metric, measured) if row.delta is not None]:
                yield replace(figures.interventions(rows), name=f"{spec.task}-{metric}")
    elif isinstance(spec, ActivationsSpec):
        languages = part.of("statistics")[0].languages
        statistics = {language: Statistics.load(part.at.statistics, language) for language in languages}
        for site in NEURON_SITES:
            yield replace(figures.activation_statistics(statistics, site), name=f"activations-{site}")
    elif isinstance(spec, FigureSpec):
        for matrix in part.matrices:
            for unit in UNITS:
                yield replace(figures.perplexity_matrix(matrix, unit), name=f"matrix-{unit}")
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
        yield figures.neurons_per_language({selections[name].title: neurons for name, neurons in sets.items()})
    elif spec.drawing == "selectors":
        *compared, last = sets
        for name in compared:
            yield replace(figures.selector_overlap(sets[name], sets[last]), name=f"selectors-{name}")
    else:
        draw_set = figures.neurons_per_layer if spec.drawing == "per_layer" else figures.language_overlap
        for name, neurons in sets.items():
            figure = draw_set(neurons)
            yield figure if spec.drawing == "matrix" else replace(figure, name=f"{spec.drawing}-{name}")
