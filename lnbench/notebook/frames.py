"""Results as columns, for pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from lnbench.leaderboard.rows import Leaderboard, Row
from lnbench.model.layout import expert_of
from lnbench.neurons import NeuronSet
from lnbench.override_values import LayerOverride, Override
from lnbench.shown import columns_of
from lnbench.statistics.language_statistics import Statistics
from lnbench.sweeps.records import Record, Records

_LEVELS = (5, 25, 50, 75, 95)
"""Percentiles of Statistics that have a column."""


@columns_of.register
def _neurons(neurons: NeuronSet) -> Mapping[str, Sequence[Any]]:
    """Return one row per neuron and language, by language, layer and index."""
    places = [
        (language, layer, index)
        for language in neurons
        for layer, indices in neurons[language].items()
        for index in indices.tolist()
    ]
    names = ("language", "layer", "index")
    columns = {name: [place[number] for place in places] for number, name in enumerate(names)}
    if neurons.experts:
        inside = [expert_of(neurons.experts, layer, index) for _, layer, index in places]
        columns |= {name: [place[number] for place in inside] for number, name in enumerate(("expert", "index"))}
    return columns


@columns_of.register
def _statistics(statistics: Statistics) -> Mapping[str, Sequence[Any]]:
    """Return one row per unit that exists, by layer and index, at the site that is shown."""
    layers, indices = statistics.exists.nonzero(as_tuple=True)
    names = ("positive_rate", "mean", "std", "min", "max")
    values: dict[str, Tensor] = {name: getattr(statistics, name) for name in names}
    values |= {f"p{level}": statistics.quantile(level / 100) for level in _LEVELS}
    constant = {"language": statistics.language, "site": statistics.site}
    return {
        **{name: [value] * len(layers) for name, value in constant.items()},
        "layer": layers.tolist(),
        "index": indices.tolist(),
        **{name: value[layers, indices].tolist() for name, value in values.items()},
    }


@columns_of.register
def _override(override: Override) -> Mapping[str, Sequence[Any]]:
    """Return one row per unit, by layer and part; ``value`` is None for functions, a pair for ``clamp``.

    Of units with several coordinates it is a list with one for each.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("layer", "index", "site", "operation", "value")}
    for layer, part in override.parts:
        for index, value in zip(part.indices.tolist(), _values(part), strict=True):
            line = (layer, index, part.site, part.operation if isinstance(part.operation, str) else "function", value)
            for column, own in zip(columns.values(), line, strict=True):
                column.append(own)
    return columns


def _values(part: LayerOverride) -> list[Any]:
    if part.values is None:
        return [None] * part.indices.numel()
    return (part.values.movedim(1, 0) if part.operation == "clamp" else part.values).tolist()


@columns_of.register
def _records(records: Records) -> Mapping[str, Sequence[Any]]:
    """Return one row per record, with every field."""
    return _fields(Record, records)


@columns_of.register
def _leaderboard(leaderboard: Leaderboard) -> Mapping[str, Sequence[Any]]:
    """Return one row per row, with the fields of ``leaderboard.json``."""
    return _fields(Row, leaderboard)


def _fields(kind: type[BaseModel], lines: Sequence[BaseModel]) -> Mapping[str, Sequence[Any]]:
    names = [name for name, field in kind.model_fields.items() if not field.exclude]
    return {name: [getattr(line, name) for line in lines] for name in names}
