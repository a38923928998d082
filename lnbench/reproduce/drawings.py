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
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import FILE, PerplexityMatrix
from lnbench.reproduce.catalogue import ActivationsSpec, CellsSpec, NeuronsSpec
from lnbench.reproduce.measured import Measured, places
from lnbench.reproduce.paper_tables import METRICS, SELECTORS
from lnbench.reproduce.plan import Piece
from lnbench.reproduce.steps import Collect, Perplexity, Select
from lnbench.statistics import Statistics


def draw(piece: Piece, measured: Measured | None, folder: Path) -> list[str]:
    """Write the figures of one piece.

    Args:
        piece: The table or figure on one model.
        measured: Its cells, if it has any.
        folder: Where to.

    Returns:
        The files' names.
    """
    prefix = piece.at.folder.name
    named = [replace(one, name=f"{prefix}-{one.name}") for one in _figures(piece, measured)]
    return [path.name for one in named for path in save(one, folder)]


def _figures(piece: Piece, measured: Measured | None) -> Iterator[Figure]:
    spec = piece.spec
    if isinstance(spec, CellsSpec) and measured is not None:
        for metric in METRICS[spec.task]:
            if rows := [row for row in _rows(piece, spec, metric, measured) if row.delta is not None]:
                yield replace(interventions(rows), name=f"{spec.task}-{metric}")
    elif isinstance(spec, ActivationsSpec):
        (collected,) = piece.of(Collect)
        loaded = {one: Statistics.load(piece.at.statistics, one) for one in collected.languages}
        for site in ("pre", "post"):
            yield replace(activation_statistics(loaded, site), name=f"activations-{site}")
    elif isinstance(spec, NeuronsSpec):
        yield from _of_neurons(spec, {step.name: NeuronSet.load(step.out) for step in piece.of(Select)}, piece)
    for step in piece.of(Perplexity):
        matrix = PerplexityMatrix.load(step.out / FILE)
        for unit in ("bits_per_byte", "nats", "perplexity"):
            yield replace(perplexity_matrix(matrix, unit), name=f"matrix-{unit}")  # type: ignore[arg-type]
        yield language_overlap(NeuronSet.load(piece.at.neurons(step.selection)))


def _rows(piece: Piece, spec: CellsSpec, metric: str, measured: Measured) -> Iterator[Row]:
    """The changes that a table shows, by the names that it gives them."""
    for place in places(piece):
        names = {
            "selector": SELECTORS[place.selector],
            "finetune": place.label.replace("{lang}", "target"),
            "adapter": None,
            "override_setup": None,
        }
        for intervention in spec.columns:
            row = measured.row(place, intervention, metric)
            if row is not None and intervention != "none":
                yield row.model_copy(update=names)


def _of_neurons(spec: NeuronsSpec, sets: dict[str, NeuronSet], piece: Piece) -> Iterator[Figure]:
    if spec.drawing == "per_language":
        yield neurons_per_language({piece.at.selections[name].title: one for name, one in sets.items()})
    elif spec.drawing == "selectors":
        compared = {name: one for name, one in sets.items() if piece.at.selections[name].selector == "lape"}
        (other,) = (one for name, one in sets.items() if name not in compared)
        for name, one in compared.items():
            yield replace(selector_overlap(one, other), name=f"selectors-{name}")
    else:
        make = {"overlap": language_overlap, "per_layer": neurons_per_layer}[spec.drawing]
        for name, one in sets.items():
            yield replace(make(one), name=f"{spec.drawing}-{name}")
