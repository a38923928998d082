"""Figures of matplotlib: call one with a run's folder or a result, as ``lnbench.figures.neurons_per_layer(neurons)``.

Each is a :class:`FigureKind`. Behind it is a :class:`Figure` as data, which is saved as PNG, SVG, PDF and CSV.
"""

from sys import modules

from lnbench.figures.figure import FORMATS, Figure, Plot, save, table
from lnbench.figures.plots import FigureKind
from lnbench.figures.registry import MAKERS, register_all

register_all(modules[__name__])
# The functions take the place of the modules of the same names.
globals().update({name: FigureKind(make) for name, make in MAKERS.items()})

__all__ = ["FORMATS", "Figure", "FigureKind", "Plot", "save", "table"]
__all__.extend(MAKERS)


def __getattr__(name: str) -> FigureKind:
    # For type checkers, which do not see what is registered.
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
