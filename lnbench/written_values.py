"""What parameters of interventions share: ranges of layers, and names of values as ``p5``, ``mean`` or ``zero``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from lnbench.errors import LnbenchError
from lnbench.parameters import ADDED, layer_numbers

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.statistics import Statistics

_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")
_STATISTICS: dict[str, Callable[[Statistics], Tensor]] = {
    "mean": lambda statistics: statistics.mean,
    "median": lambda statistics: statistics.quantile(0.5),
    "min": lambda statistics: statistics.min,
    "max": lambda statistics: statistics.max,
}
"""Name → each unit's value, ``[layers, width]``."""


def _check_layers(layers: str | None) -> str | None:
    if layers is not None:
        layer_numbers(layers)
    return layers


Layers = Annotated[
    str | None,
    BeforeValidator(lambda value: str(value) if isinstance(value, int) else value),
    AfterValidator(_check_layers),
    Field(
        description="only in these layers, as 8-15, 8 or 0-3+8-15; in all by default", json_schema_extra={ADDED: True}
    ),
]
"""The parameter ``layers`` of every intervention, for :meth:`lnbench.hookspecs.OverrideContext.within`."""


def _number(name: str) -> float | None:
    """Return the number that a name is; None for one of a statistic."""
    try:
        return 0.0 if name == "zero" else float(name)
    except ValueError:
        return None


def statistic_of(name: str) -> Callable[[Statistics], Tensor]:
    """Return the function of Statistics that a name means: ``mean``, ``median``, ``min``, ``max`` or ``p5``.

    Raises:
        LnbenchError: it is no such name.
    """
    if (match := _PERCENTILE.fullmatch(name)) and float(match[1]) <= 100:
        return lambda statistics: statistics.quantile(float(match[1]) / 100)
    if name not in _STATISTICS:
        names = ", ".join(["p0 to p100", *_STATISTICS])
        raise LnbenchError(f"{name!r} is no value that can be written; expected a number, zero, {names}")
    return _STATISTICS[name]


def check_value(name: str) -> str:
    """Return the name of a value that can be written, see :func:`written`.

    Raises:
        LnbenchError: it is none.
    """
    number = _number(name)
    if number is None:
        statistic_of(name)
    elif not math.isfinite(number):
        raise LnbenchError(f"a value that is written must be finite, got {name}")
    return name


Value = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value)]
"""A parameter that takes a number, ``zero``, or the name of a statistic; use it with :func:`check_value`."""
WrittenValue = Annotated[Value, AfterValidator(check_value)]
"""A :data:`Value` that is checked already."""


def filled(number: float, neurons: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Return layer → ``number`` for each of its units, ``FloatTensor[n]`` (float32)."""
    import torch

    return {layer: torch.full(indices.shape, number, dtype=torch.float32) for layer, indices in neurons.items()}


def written(name: str, neurons: Mapping[int, Tensor], statistics: Callable[[], Statistics]) -> dict[int, Tensor]:
    """Return layer → the value that ``name`` means for each of its units, ``FloatTensor[n]``.

    Args:
        name: A number, ``zero``, ``mean``, ``median``, ``min``, ``max``, or a percentile as ``p5``.
        neurons: Layer → ``LongTensor[n]``.
        statistics: It is called only where the value is read from Statistics.

    Raises:
        LnbenchError: the units are not of these Statistics; whatever ``statistics`` raises.
    """
    from lnbench.override_values import values_at

    number = _number(name)
    if number is not None:
        return filled(number, neurons)
    return values_at(neurons, statistic_of(name)(statistics()))


def mean_of(languages: Any, statistics_of: Callable[[str], Statistics]) -> Tensor:
    """Return the mean over languages of each unit's mean, ``[layers, width]``, each language weighing the same."""
    import torch

    return torch.stack([statistics_of(language).mean.double() for language in languages]).mean(0).float()
