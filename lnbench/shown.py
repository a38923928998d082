"""What results look like in a notebook: as HTML, and as tables of pandas.

Both draw on figures and tables, which a result knows nothing of: :mod:`lnbench.notebook` registers a function per class
with the two below, and is loaded when the first result is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lnbench.errors import LnbenchError

if TYPE_CHECKING:
    from pandas import DataFrame

_VIEWS = "lnbench.notebook"


@singledispatch
def html_of(shown: Any) -> str:
    """Return a result as HTML."""
    raise TypeError(f"notebooks have no view of {type(shown).__name__}")


@singledispatch
def columns_of(shown: Any) -> Mapping[str, Sequence[Any]]:
    """Return a result's numbers: heading → one value per row."""
    raise TypeError(f"there is no table of {type(shown).__name__}")


class Shown:
    """A result that notebooks show."""

    def _repr_html_(self) -> str:
        import_module(_VIEWS)
        return html_of(self)

    def to_frame(self) -> DataFrame:
        """Return the numbers as a ``DataFrame`` of pandas.

        Raises:
            LnbenchError: pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise LnbenchError(
                'to_frame() needs pandas, which is not installed: pip install "lnbench[notebooks]"'
            ) from error
        import_module(_VIEWS)
        return DataFrame(dict(columns_of(self)))
