"""The figures of a reproduction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lnbench.figures import (
    Figure,
    activation_statistics,
    interventions,
    language_overlap,
    neurons_per_language,
    neurons_per_layer,
    perplexity_matrix,
    save,
    selector_overlap,
)
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
    figures = [replace(figure, name=f"{prefix}-{figure.name}") for figure in _figures(part, measured)]
    return [path.name for figure in figures for path in save(figure, folder)]


def _figures(part: PlannedPart, measured: Measurements | None) -> Iterator[Figure]:
    spec = part.spec
    if isinstance(spec, CellsSpec) and measured is not None:
        for metric in METRICS[spec.task]:
            if rows := [row for row in _rows(part, metric, measured) if row.delta is not None]:
                yield replace(interventions(rows), name=f"{spec.task}-{metric}")
    elif isinstance(spec, ActivationsSpec):
        languages = part.of("statistics")[0].languages
        statistics = {language: Statistics.load(part.at.statistics, language) for language in languages}
        for site in NEURON_SITES:
            yield replace(activation_statistics(statistics, site), name=f"activations-{site}")
    elif isinstance(spec, FigureSpec):
        for matrix in part.matrices:
            for unit in UNITS:
                yield replace(perplexity_matrix(matrix, unit), name=f"matrix-{unit}")
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
        yield neurons_per_language({selections[name].title: neurons for name, neurons in sets.items()})
    elif spec.drawing == "selectors":
        compared = {name: neurons for name, neurons in sets.items() if selections[name].selector == "lape"}
        (other,) = (neurons for name, neurons in sets.items() if name not in compared)
        for name, neurons in compared.items():
            yield replace(selector_overlap(neurons, other), name=f"selectors-{name}")
    else:
        make = {"matrix": language_overlap, "overlap": language_overlap, "per_layer": neurons_per_layer}[spec.drawing]
        for name, neurons in sets.items():
            figure = make(neurons)
            yield figure if spec.drawing == "matrix" else replace(figure, name=f"{spec.drawing}-{name}")
