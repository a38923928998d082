"""The figures there are, registered once: ``lnbench figures`` and the page both draw what stands in :data:`FIGURES`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from lnbench.analysis import Stability
from lnbench.figures.activations import activation_statistics
from lnbench.figures.figure import Figure
from lnbench.figures.intervention_effects import interventions
from lnbench.figures.neuron_counts import neurons_per_language, neurons_per_layer
from lnbench.figures.overlaps import language_overlap, selector_overlap, stability
from lnbench.figures.perplexity_matrix import Unit, perplexity_matrix
from lnbench.leaderboard import Row
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.statistics import Statistics, store


@dataclass(frozen=True)
class FigureData:
    """What figures are drawn from.

    Attributes:
        leaderboards: Rows, apart by leaderboard.
        matrices: Perplexity matrices.
        neuron_sets: Name → NeuronSet.
        stabilities: Selections on two halves of a text.
        statistics: Folders of Statistics.
        most_paired: NeuronSets of a model of which every two are compared; None for all. Pairs grow with the square.
    """

    leaderboards: Sequence[Sequence[Row]] = ()
    matrices: Sequence[PerplexityMatrix] = ()
    neuron_sets: Mapping[str, NeuronSet] = field(default_factory=dict)
    stabilities: Sequence[Stability] = ()
    statistics: Sequence[Path] = ()
    most_paired: int | None = None

    def sets_by_model(self) -> list[dict[str, NeuronSet]]:
        """Return the NeuronSets that have languages, apart by model."""
        models: dict[tuple[str, int, int], dict[str, NeuronSet]] = defaultdict(dict)
        for name, neurons in self.neuron_sets.items():
            if neurons.languages:
                models[neurons.model, neurons.layers, neurons.width][name] = neurons
        return list(models.values())


def draw_all(data: FigureData) -> list[Figure]:
    """Return every registered figure that there are numbers of, each under its own name."""
    return uniquely_named(figure for figures_of in FIGURES.values() for figure in figures_of(data))


def uniquely_named(figures: Iterable[Figure]) -> list[Figure]:
    """Return the figures; where several share a name, the second gets ``-2`` after it, and so on."""
    seen: Counter[str] = Counter()
    named = []
    for figure in figures:
        seen[figure.name] += 1
        number = seen[figure.name]
        named.append(figure if number == 1 else replace(figure, name=f"{figure.name}-{number}"))
    return named


def _interventions(data: FigureData) -> Iterator[Figure]:
    for rows in data.leaderboards:
        tables: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
        for row in rows:
            if row.delta is not None and row.control_of is None:
                tables[*row.measured_on, row.metric].append(row)
        yield from map(interventions, tables.values())


def _per_set(draw: Callable[[NeuronSet], Figure], least: int = 1) -> Callable[[FigureData], Iterator[Figure]]:
    """Return what draws a figure of each NeuronSet that has at least so many languages."""
    return lambda data: (
        draw(neurons) for sets in data.sets_by_model() for neurons in sets.values() if len(neurons.languages) >= least
    )


def _selector_overlaps(data: FigureData) -> Iterator[Figure]:
    for sets in data.sets_by_model():
        for first, second in combinations(list(sets.values())[: data.most_paired], 2):
            if {*first.languages} & {*second.languages}:
                yield selector_overlap(first, second)


def _activations(data: FigureData) -> Iterator[Figure]:
    for folder in data.statistics:
        loaded = {language: Statistics.load(folder, language) for language in store.languages(folder)}
        sites = set.intersection(*(set(statistics.sites) for statistics in loaded.values())) if loaded else set()
        yield from (activation_statistics(loaded, site) for site in sorted(sites))


FIGURES: dict[str, Callable[[FigureData], Iterable[Figure]]] = {
    "neurons_per_language": lambda data: map(neurons_per_language, data.sets_by_model()),
    "interventions": _interventions,
    "perplexity_matrix": lambda data: (
        perplexity_matrix(matrix, unit) for matrix in data.matrices for unit in get_args(Unit)
    ),
    "neurons_per_layer": _per_set(neurons_per_layer),
    "language_overlap": _per_set(language_overlap, least=2),
    "selector_overlap": _selector_overlaps,
    "stability": lambda data: map(stability, data.stabilities),
    "activation_statistics": _activations,
}
"""Kind of figure → those that can be drawn from data, in the order in which they are shown."""
