"""Which figures there are and what each is drawn from, for ``lnbench figures`` and the page alike.

A figure is one module of this package, with a function marked by :func:`drawn_from`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import combinations
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, TypeVar, get_args

from lnbench.analysis.stability import Stability
from lnbench.figures.figure import Figure, Unit
from lnbench.leaderboard.rows import Row, tables_of
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


FIGURES: dict[str, Callable[[FigureData], Iterable[Figure]]] = {}
"""Kind of figure → those that can be drawn from data. Importing ``lnbench.figures`` fills it."""
_Draw = TypeVar("_Draw", bound=Callable[..., Figure])


def drawn_from(sources: Callable[[FigureData], Iterable[tuple[Any, ...]]]) -> Callable[[_Draw], _Draw]:
    """Register the function that draws a kind of figure, under its name.

    Args:
        sources: Data → the function's arguments for each figure that the data allow.
    """

    def register(draw: _Draw) -> _Draw:
        FIGURES[draw.__name__] = lambda data: (draw(*arguments) for arguments in sources(data))
        return draw

    return register


def register_all(package: ModuleType) -> None:
    """Import every module of a package, so that those register their figures which nothing else imports."""
    for module in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")


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


# What figures are drawn from


def models(data: FigureData) -> Iterator[tuple[dict[str, NeuronSet]]]:
    """Yield the NeuronSets of each model."""
    yield from ((sets,) for sets in data.sets_by_model())


def neuron_sets(data: FigureData) -> Iterator[tuple[NeuronSet]]:
    """Yield each NeuronSet with languages."""
    yield from ((neurons,) for sets in data.sets_by_model() for neurons in sets.values())


def multilingual_sets(data: FigureData) -> Iterator[tuple[NeuronSet]]:
    """Yield each NeuronSet with two languages at least."""
    yield from ((neurons,) for (neurons,) in neuron_sets(data) if len(neurons.languages) > 1)


def pairs_of_sets(data: FigureData) -> Iterator[tuple[NeuronSet, NeuronSet]]:
    """Yield every two NeuronSets of one model that have a language in common."""
    for sets in data.sets_by_model():
        pairs = combinations(list(sets.values())[: data.most_paired], 2)
        yield from (pair for pair in pairs if {*pair[0].languages} & {*pair[1].languages})


def statistics_by_site(data: FigureData) -> Iterator[tuple[dict[str, Statistics], str]]:
    """Yield each folder's Statistics of all languages, with each site that all of them have."""
    for folder in data.statistics:
        loaded = {language: Statistics.load(folder, language) for language in store.languages(folder)}
        sites = set.intersection(*(set(statistics.sites) for statistics in loaded.values())) if loaded else set()
        yield from ((loaded, site) for site in sorted(sites))


def stabilities(data: FigureData) -> Iterator[tuple[Stability]]:
    """Yield each selection on two halves of a text."""
    yield from ((stability,) for stability in data.stabilities)


def matrices(data: FigureData) -> Iterator[tuple[PerplexityMatrix, Unit]]:
    """Yield each perplexity matrix, in each unit."""
    yield from ((matrix, unit) for matrix in data.matrices for unit in get_args(Unit))


def compared_tables(data: FigureData) -> Iterator[tuple[list[Row]]]:
    """Yield the rows of each model, task and metric that were compared with a baseline."""
    for rows in data.leaderboards:
        compared = [row for row in rows if row.delta is not None and row.control_of is None]
        yield from ((table,) for table in tables_of(compared))
