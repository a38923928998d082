"""Figures for Python: each kind of figure as a function that draws whatever it is handed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import update_wrapper
from pathlib import Path
from typing import Any

from lnbench.analysis.stability import Stability
from lnbench.analysis.until_stable import StabilityCurve
from lnbench.errors import LnbenchError, unknown
from lnbench.figures.drawable import data_in
from lnbench.figures.figure import Figure, Plot
from lnbench.figures.labels import selector_label
from lnbench.figures.registry import FIGURES, FigureData, uniquely_named
from lnbench.leaderboard.rows import Row
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.statistics import Statistics


class FigureKind:
    """A kind of figure: call it for a figure of matplotlib.

    Attributes:
        data: The function that makes the figure as data, a :class:`~lnbench.figures.Figure`, of its own arguments.
    """

    __name__: str

    def __init__(self, make: Callable[..., Figure]) -> None:
        update_wrapper(self, make)
        self.data = make

    def __repr__(self) -> str:
        return f"lnbench.figures.{self.data.__name__}"

    def __call__(self, *shown: Any, which: int | str = 0, **options: Any) -> Plot:
        """Draw the figure of a run's folder, a file, or a result.

        Args:
            shown: A folder or file of lnbench's, or several; a NeuronSet, Statistics, a leaderboard, a perplexity
                matrix, a Stability or its curve; a mapping of names to NeuronSets or of languages to Statistics. Or the
                arguments of the function that makes the figure as data.
            which: Where there are several such figures, as of several tasks: its number, from 0, or its name.
            options: Further arguments of that function, as ``unit="nats"``.

        Raises:
            LnbenchError: nothing of this kind can be drawn from it, or there is no such figure among several.
        """
        figures = self._figures(shown, options)
        names = {figure.name: number for number, figure in enumerate(figures)}
        number = names.get(which, -1) if isinstance(which, str) else which
        if not 0 <= number < len(figures):
            raise unknown("figure", which, [f"{number} ({name})" for name, number in names.items()])
        return figures[number].draw()

    def every(self, *shown: Any) -> list[Plot]:
        """Return every figure of this kind that can be drawn, see :meth:`__call__`; none if there is none."""
        data = _data_of(shown)
        if data is None:
            return [self(*shown)]
        return [figure.draw() for figure in uniquely_named(FIGURES[self.data.__name__](data))]

    def _figures(self, shown: Sequence[Any], options: Mapping[str, Any]) -> list[Figure]:
        data = None if options else _data_of(shown)
        if data is None:
            return [self.data(*shown, **options)]
        if figures := uniquely_named(FIGURES[self.data.__name__](data)):
            return figures
        what = ", ".join(Path(one).name if isinstance(one, str | Path) else type(one).__name__ for one in shown)
        raise LnbenchError(f"{self.data.__name__} cannot be drawn from {what or 'nothing'}: its numbers are not there")


def _data_of(shown: Sequence[Any]) -> FigureData | None:
    """Return what figures are drawn from; None where these are a figure's own arguments."""
    if shown and all(isinstance(one, str | Path) for one in shown):
        return data_in([Path(one) for one in shown])
    return _of_result(shown[0]) if len(shown) == 1 else None


def _of_result(shown: Any) -> FigureData | None:
    if isinstance(shown, PerplexityMatrix):
        return FigureData(matrices=[shown])
    if isinstance(shown, Stability):
        return FigureData(stabilities=[shown])
    if isinstance(shown, StabilityCurve):
        return FigureData(curves=[shown])
    if isinstance(shown, NeuronSet):
        return FigureData(neuron_sets={selector_label(shown): shown})
    if isinstance(shown, Statistics):
        return FigureData(statistics=[{shown.language: shown}])
    if isinstance(shown, Mapping) and _all(shown.values(), NeuronSet):
        return FigureData(neuron_sets=shown)
    if isinstance(shown, Mapping) and _all(shown.values(), Statistics):
        return FigureData(statistics=[shown])
    if isinstance(shown, Sequence) and _all(shown, Row):
        return FigureData(leaderboards=[shown])
    return None


def _all(values: Iterable[Any], kind: type) -> bool:
    values = list(values)
    return bool(values) and all(isinstance(value, kind) for value in values)
