"""Which figures there are and what each is drawn from, for ``lnbench figures`` and the page alike.

A figure is one module of this package, with a function marked by :func:`drawn_from`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, TypeVar

from lnbench.analysis.stability import Stability
from lnbench.analysis.until_stable import StabilityCurve
from lnbench.figures.figure import Figure
from lnbench.leaderboard.rows import Row
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.statistics import Statistics


@dataclass(frozen=True)
class FigureData:
    """What figures are drawn from.

    Attributes:
        leaderboards: Rows, apart by leaderboard.
        matrices: Perplexity matrices.
        neuron_sets: Name → NeuronSet.
        stabilities: Selections on two halves of a text.
        curves: How far two halves of a text agree, by tokens read.
        statistics: Folders of Statistics, or language → Statistics.
        most_paired: NeuronSets of a model of which every two are compared; None for all. Pairs grow with the square.
    """

    leaderboards: Sequence[Sequence[Row]] = ()
    matrices: Sequence[PerplexityMatrix] = ()
    neuron_sets: Mapping[str, NeuronSet] = field(default_factory=dict)
    stabilities: Sequence[Stability] = ()
    curves: Sequence[StabilityCurve] = ()
    statistics: Sequence[Path | Mapping[str, Statistics]] = ()
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
MAKERS: dict[str, Callable[..., Figure]] = {}
"""Kind of figure → the function that makes one as data."""
_Draw = TypeVar("_Draw", bound=Callable[..., Figure])


def drawn_from(sources: Callable[[FigureData], Iterable[tuple[Any, ...]]]) -> Callable[[_Draw], _Draw]:
    """Register the function that draws a kind of figure, under its name.

    Args:
        sources: Data → the function's arguments for each figure that the data allow.
    """

    def register(draw: _Draw) -> _Draw:
        MAKERS[draw.__name__] = draw
        FIGURES[draw.__name__] = lambda data: (draw(*arguments) for arguments in sources(data))
        return draw

    return register


def register_all(package: ModuleType) -> None:
    """Import every module of a package, so that each registers its figure."""
    for module in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")


def draw_all(data: FigureData) -> list[Figure]:
    """Return every registered figure that there are numbers of, each under its own name."""
    return uniquely_named(figure for figures_of in FIGURES.values() for figure in figures_of(data))


def uniquely_named(figures: Iterable[Figure]) -> list[Figure]:
    """Return the figures; where several share a name, the second gets ``-2`` after it, and so on."""
    counts: Counter[str] = Counter()
    named = []
    for figure in figures:
        number = counts[figure.name] = counts[figure.name] + 1
        named.append(figure if number == 1 else replace(figure, name=f"{figure.name}-{number}"))
    return named


def neuron_sets(data: FigureData) -> Iterator[tuple[NeuronSet]]:
    """Yield each NeuronSet with languages, to draw a figure of each."""
    yield from ((neurons,) for sets in data.sets_by_model() for neurons in sets.values())
