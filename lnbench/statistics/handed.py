"""What a plugin is handed: copies of the numbers it looks at, so that it cannot change what others are measured by."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from lnbench.errors import LnbenchError
from lnbench.hookspecs import OverrideContext
from lnbench.statistics.language_statistics import Statistics
from lnbench.statistics.site_values import COORDINATES, TENSORS, SiteValues

_REMEDY = "which are the run's own: copy a tensor (.clone()) before writing to it"


class _Copied(SiteValues):
    """The values of a site, each copied when it is first looked at: a copy of all would double the memory."""

    _original: SiteValues

    @classmethod
    def copying(cls, original: SiteValues) -> _Copied:
        """Return the copy of ``original``."""
        copied = object.__new__(cls)
        object.__setattr__(copied, "_original", original)
        of_units = None if original.coordinates is None else cls.copying(original.coordinates)
        object.__setattr__(copied, "coordinates", of_units)
        return copied

    def __getattr__(self, name: str) -> Tensor:
        if name not in TENSORS:
            raise AttributeError(name)
        tensor: Tensor = getattr(self._original, name).clone()
        object.__setattr__(self, name, tensor)
        return tensor

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all numbers, in hexadecimal."""
        return self._original.digest

    def changed(self) -> list[str]:
        """Return the names of the tensors that are no longer the original's."""
        seen = {name: tensor for name, tensor in vars(self).items() if name in TENSORS}
        own = [name for name, tensor in seen.items() if _differ(getattr(self._original, name), tensor)]
        of_units = self.coordinates.changed() if isinstance(self.coordinates, _Copied) else []
        return own + [f"{COORDINATES}.{name}" for name in of_units]


@dataclass
class _Handed:
    """The Statistics that one plugin was handed, with what they were made of."""

    pairs: list[tuple[Statistics, Statistics]] = field(default_factory=list)

    def copy(self, statistics: Statistics) -> Statistics:
        """Return a copy to hand out."""
        for original, handed in self.pairs:
            if original is statistics:
                return handed
        handed = replace(
            statistics,
            sites={site: _Copied.copying(values) for site, values in statistics.sites.items()},
            provenance=copy.deepcopy(dict(statistics.provenance)),
            batch_quantiles=_cloned(statistics.batch_quantiles),
            measures=_cloned(statistics.measures),
        )
        self.pairs.append((statistics, handed))
        return handed

    def check(self) -> None:
        """Raise if any of them was changed."""
        for original, handed in self.pairs:
            for name in _changes(original, handed):
                raise LnbenchError(f"changed the Statistics of {original.language!r} ({name}), {_REMEDY}")


def _changes(original: Statistics, handed: Statistics) -> Iterator[str]:
    for site, values in handed.sites.items():
        if vars(values).get("_original") is not original.sites.get(site):
            yield f"the values of site {site!r}"
        else:
            assert isinstance(values, _Copied)
            yield from (f"{name} at site {site!r}" for name in values.changed())
    if handed.sites.keys() != original.sites.keys():
        yield "the sites"
    for name in ("batch_quantiles", "measures"):
        if _differ(getattr(original, name), getattr(handed, name)):
            yield name
    if handed.provenance != original.provenance:
        yield "provenance"


@contextmanager
def handed_statistics(statistics: Mapping[str, Statistics]) -> Iterator[dict[str, Statistics]]:
    """Yield copies of several languages' Statistics for a plugin to look at.

    Raises:
        LnbenchError: at the end of the block, where one of them was changed.
    """
    handed = _Handed()
    yield {language: handed.copy(own) for language, own in statistics.items()}
    handed.check()


@contextmanager
def handed_context(context: OverrideContext) -> Iterator[OverrideContext]:
    """Yield an intervention's context with copies of its neurons and Statistics.

    Raises:
        LnbenchError: at the end of the block, where the intervention changed some of them.
    """
    handed = _Handed()
    neurons = _cloned(context.neurons)

    def of(language: str) -> Statistics:
        return handed.copy(context.statistics_of(language))

    def neurons_of(language: str) -> Mapping[int, Tensor]:
        return {layer: indices.clone() for layer, indices in context.neurons_of(language).items()}

    statistics = None if context.statistics is None else handed.copy(context.statistics)
    yield replace(context, neurons=neurons, statistics=statistics, statistics_of=of, neurons_of=neurons_of)
    if _differ(context.neurons, neurons):
        raise LnbenchError(f"changed the neurons, {_REMEDY}")
    handed.check()


def _cloned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _cloned(held) for key, held in value.items()}
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _differ(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        same = isinstance(other, Mapping) and one.keys() == other.keys()
        return not same or any(_differ(held, other[key]) for key, held in one.items())
    if isinstance(one, Tensor):
        same = isinstance(other, Tensor) and one.shape == other.shape and one.dtype == other.dtype
        return not same or not bool(((one == other) | ((one != one) & (other != other))).all())
    return bool(one != other)
