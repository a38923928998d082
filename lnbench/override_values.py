"""What an override writes: per layer and site, neuron indices and new values.

Data only: :mod:`lnbench.overrides` applies it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Integral
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

from lnbench.errors import DEPRECATION_GUIDE, LnbenchError, unknown
from lnbench.files import fingerprint, warn_once
from lnbench.shown import Shown

OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "set": lambda _, values: values,
    "scale": lambda old, values: old * values,
    "add": lambda old, values: old + values,
    "clamp": lambda old, values: old.clamp(values[0], values[1]),
}
"""Name → new activations ``[..., n]`` from the present ones and an override's values."""

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_RENAMED = {"shift": "add"}
_FINGERPRINTED = {"add": "shift"}
"""Operations that fingerprints, which are in cache keys, know by their old names."""
_VALUE_SHAPES = {"clamp": (2,)}
"""The dimensions before ``n`` in the shape of an operation's values."""


@dataclass(frozen=True)
class LayerOverride:
    """What happens to some units of one layer: neurons, heads, dimensions.

    Args:
        indices: ``LongTensor[n]``, the units, without repeats.
        values: ``FloatTensor[n]``: the new activation (``set``), its factor (``scale``) or its offset (``add``);
            ``FloatTensor[2, n]``, the least and the greatest activation (``clamp``); None for a function. Of units with
            several coordinates (heads) it is the value of all of them; ``[n, unit_size]`` or ``[2, n, unit_size]`` has
            one for each.
        operation: ``set`` (the default), ``scale``, ``add`` (activation steering) or ``clamp``; or a function of the
            present activations, ``[..., n] -> [..., n]``; of units with several coordinates
            ``[..., n, unit_size] -> [..., n, unit_size]``.
        site: Name of the site that is written to; None: the one that the override is applied at.

    Raises:
        LnbenchError: shapes differ, an index repeats, is negative or not an integer, a value is not finite, unknown
            operation.
    """

    indices: Tensor
    values: Tensor | None = None
    operation: str | Callable[[Tensor], Tensor] = "set"
    site: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.operation, str) and self.operation in _RENAMED:
            new = _RENAMED[self.operation]
            warnings.warn(
                f"override operation {self.operation!r} is called {new!r} now; see {DEPRECATION_GUIDE}",
                DeprecationWarning,
                3,
            )
            object.__setattr__(self, "operation", new)
        if not callable(self.operation) and self.operation not in OPERATIONS:
            raise unknown("override operation", self.operation, OPERATIONS)
        _check_types(self)
        if self.indices.ndim != 1:
            raise LnbenchError(f"an override's neuron indices must be a vector, got shape {tuple(self.indices.shape)}")
        if self.indices.dtype not in _WHOLE:
            raise LnbenchError(f"an override's neuron indices must be integers, got {self.indices.dtype}")
        if _repeat([self.indices]) or (self.indices < 0).any():
            raise LnbenchError("an override's neuron indices must be non-negative and without repeats")
        if isinstance(self.operation, str):
            self._check_values(self.operation)

    def __repr__(self) -> str:
        operation = self.operation if isinstance(self.operation, str) else "function"
        site = f", site={self.site!r}" if self.site else ""
        return f"LayerOverride({self.indices.numel():,} neurons, {operation!r}{site})"

    def _check_values(self, operation: str) -> None:
        shape = (*_VALUE_SHAPES.get(operation, ()), self.indices.numel())
        if self.values is None or (tuple(self.values.shape) != shape and tuple(self.values.shape[:-1]) != shape):
            got = None if self.values is None else tuple(self.values.shape)
            raise LnbenchError(
                f"an override needs one value per neuron: {operation!r} of {self.indices.numel()} neurons takes values "
                f"of shape {shape}, got {got}"
            )
        if self.values.dtype == torch.bool or self.values.is_complex() or not torch.isfinite(self.values).all():
            raise LnbenchError("an override's values must be finite numbers")

    def new(self, old: Tensor, values: Tensor | None) -> Tensor:
        """Return the new activations.

        Args:
            old: ``[..., n]``, the present ones.
            values: This part's values, on the device and in the type of ``old``.
        """
        if not isinstance(self.operation, str):
            # It gets a copy: what it changes in place must not be what is written, or counted as what was there.
            new = self.operation(old.clone())
            if not isinstance(new, Tensor) or new.shape != old.shape:
                shape = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
                raise LnbenchError(
                    f"an override's function must keep the shape of its argument: got {shape} for {tuple(old.shape)}"
                )
            return new.to(old.device, old.dtype)
        assert values is not None
        return OPERATIONS[self.operation](old, values)

    def within(self, start: int, width: int) -> LayerOverride | None:
        """Return what happens to those of the neurons that are among ``width`` from ``start`` on, numbered from there.

        None if there is none among them.

        Raises:
            LnbenchError: a function, which sees all its neurons at once, has only some of them there.
        """
        inside = (self.indices >= start) & (self.indices < start + width)
        if not inside.any():
            return None
        if callable(self.operation) and not inside.all():
            raise LnbenchError(
                "an override's function changes neurons of several feed-forwards of one layer, whose activations are "
                "not there at one time; give each of them a LayerOverride of its own"
            )
        values = None if self.values is None else self.values[..., inside.to(self.values.device)]
        return replace(self, indices=self.indices[inside] - start, values=values)

    def of_coordinates(self, unit_size: int) -> LayerOverride:
        """Return the same of single coordinates, for units of ``unit_size`` coordinates each that lie side by side.

        Raises:
            LnbenchError: there are values for another number of coordinates.
        """
        lead = _VALUE_SHAPES.get(str(self.operation), ())
        per_coordinate = self.values is not None and self.values.ndim > len(lead) + 1
        if unit_size == 1 and not per_coordinate:
            return self
        count, values, operation = self.indices.numel(), self.values, self.operation
        if values is not None:
            values = values if per_coordinate else values.unsqueeze(-1).expand(*values.shape, unit_size)
            if values.shape[-1] != unit_size:
                raise LnbenchError(
                    f"an override has values for {values.shape[-1]} coordinates of each unit, but units of this layer "
                    f"have {unit_size}"
                )
            values = values.reshape(*lead, count * unit_size)
        if callable(operation):
            operation = partial(_by_unit, operation, unit_size)
        places = self.indices.long()[:, None] * unit_size + torch.arange(unit_size, device=self.indices.device)
        return replace(self, indices=places.flatten(), values=values, operation=operation)

    def described(self) -> list[Any]:
        """Return what decides the written values, as JSON data."""
        values = None if self.values is None else self.values.double().tolist()
        named = isinstance(self.operation, str)
        operation = _FINGERPRINTED.get(str(self.operation), self.operation) if named else _identity(self.operation)
        return [operation, self.indices.tolist(), values, *([] if self.site is None else [self.site])]


Parts = LayerOverride | Sequence[LayerOverride]


@dataclass(frozen=True)
class Override(Shown):
    """A resolved intervention: per layer, neuron indices and the values to write.

    Args:
        layers: Layer → a :class:`LayerOverride`, or several that change different neurons or sites.
        made_by: The intervention that made it, for messages; lnbench sets it.
        positions: It is written at these tokens only, of those that it is applied at: ``all``, ``not_first`` …

    Raises:
        LnbenchError: a layer is not a whole number, its parts are no LayerOverrides, or two parts of a layer change the
            same neuron at the same site.
    """

    layers: Mapping[int, Parts] = field(default_factory=dict)
    made_by: str | None = field(default=None, compare=False)
    positions: str = "all"

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Mapping):
            raise LnbenchError(f"an override's layers must be a mapping, got {type(self.layers).__name__}")
        for layer, parts in self.layers.items():
            if isinstance(layer, bool) or not isinstance(layer, Integral):
                kind = type(layer).__name__
                raise LnbenchError(f"an override's layer must be a whole number, got {layer!r} ({kind})")
            for part in [parts] if isinstance(parts, LayerOverride) else parts:
                if not isinstance(part, LayerOverride):
                    raise LnbenchError(
                        f"an override's layer {layer} must be a LayerOverride or a list of some, got "
                        f"{type(part).__name__}"
                    )
        self.by_site()  # it checks them

    def __repr__(self) -> str:
        made_by = f", made_by={self.made_by!r}" if self.made_by else ""
        layers = len({layer for layer, part in self.parts if part.indices.numel()})
        return f"Override({self.neurons:,} neurons in {layers} layers{made_by})"

    @classmethod
    def setting(cls, neurons: Mapping[int, Tensor], values: Tensor) -> Override:
        """Return the override that sets each unit to its entry of ``values``, ``[layers, width]``.

        For units with several coordinates, ``values`` may be ``[layers, width, unit_size]``.

        Raises:
            LnbenchError: ``values`` has no entry for a neuron.
        """
        return cls.of(neurons, values_at(neurons, values))

    @classmethod
    def of(cls, neurons: Mapping[int, Tensor], values: Mapping[int, Tensor], operation: str = "set") -> Override:
        """Return the override that does ``operation`` with each layer's neurons by its ``values``.

        Neurons whose value is NaN, of experts that no token of the text was routed to, are left as they are, with a
        warning.

        Raises:
            LnbenchError: as :class:`LayerOverride`; or every value is NaN.
        """
        parts, total = {}, sum(map(len, neurons.values()))
        for layer, indices in neurons.items():
            own, lead = values[layer], len(_VALUE_SHAPES.get(operation, ()))
            if own.ndim > lead + 1:
                # Of a layer whose units have fewer coordinates than the largest, the others are NaN.
                own = own[..., ~own.isnan().flatten(0, -2).all(0)]
            by_unit = own.movedim(lead, 0)
            known = ~by_unit.isnan().flatten(1).any(1) if by_unit.ndim > 1 else ~by_unit.isnan()
            if len(indices) == 0 or known.any():
                parts[layer] = LayerOverride(indices.cpu()[known.cpu()], by_unit[known].movedim(0, lead), operation)
        left = sum(part.indices.numel() for part in parts.values())
        if total and not left:
            raise LnbenchError(
                f"none of the {total} values to write is a finite number: the value itself is none, or no token of the "
                "text was routed to the neurons' experts; choose an intervention that needs no Statistics (zero), or "
                "collect them of more text"
            )
        if left < total:
            warn_once(
                f"{total - left} of {total} neurons are of experts that no token of the text was routed to: no value "
                "is known of them, and they are left as they are"
            )
        return cls(parts)

    @property
    def parts(self) -> Iterator[tuple[int, LayerOverride]]:
        """Every part with its layer, in the order of the layers."""
        for layer, parts in sorted(self.layers.items()):
            for part in [parts] if isinstance(parts, LayerOverride) else parts:
                yield layer, part

    def by_site(self, default: str = "") -> dict[tuple[int, str], list[LayerOverride]]:
        """Return layer and site → the parts that change neurons there; parts that name no site are at ``default``.

        Raises:
            LnbenchError: two parts of a layer change the same neuron at the same site.
        """
        groups: dict[tuple[int, str], list[LayerOverride]] = {}
        for layer, part in self.parts:
            if part.indices.numel():
                groups.setdefault((layer, part.site or default), []).append(part)
        for (layer, site), parts in groups.items():
            if len(parts) > 1 and _repeat([part.indices for part in parts]):
                where = f" at site {site!r}" if site else ""
                raise LnbenchError(
                    f"two parts of the override of layer {layer} change the same neuron{where}: each neuron can be "
                    "changed once per layer and site"
                )
        return groups

    @property
    def neurons(self) -> int:
        """The number of neurons changed."""
        return sum(part.indices.numel() for _, part in self.parts)

    @property
    def fingerprint(self) -> str:
        """Which neurons get which values, in 16 hexadecimal digits."""
        parts: list[Any] = [[layer, *part.described()] for layer, part in self.parts]
        return fingerprint(parts if self.positions == "all" else [*parts, self.positions])

    def check(
        self, layers: int, width: int | Sequence[int], *, site: str | None = None, units: str = "neurons"
    ) -> None:
        """Check that every unit exists in a model of ``layers × width`` of them.

        Args:
            layers: Layers of the model.
            width: Units per layer, or of each layer.
            site: Check only the parts that name this site, or none.
            units: What they are called.

        Raises:
            LnbenchError: a layer or an index lies outside.
        """
        for layer, part in self.parts:
            if site is None or part.site in (None, site):
                own = width if isinstance(width, int) else (*width, 0)[min(layer, layers)]
                _check_exist(layer, part.indices, layers, own, units)

    def check_dtype(self, dtype: torch.dtype) -> None:
        """Check that a model that computes in ``dtype`` can hold every value.

        Raises:
            LnbenchError: a value is too large.
        """
        for layer, part in self.parts:
            values = torch.empty(0) if part.values is None else part.values
            if len(large := values[~torch.isfinite(values.to(dtype))]):
                raise LnbenchError(
                    f"the value {float(large.flatten()[0]):g} in layer {layer} is too large for a model in {dtype} "
                    f"(up to {torch.finfo(dtype).max:g}); write smaller ones, or load it with dtype=bfloat16 or float32"
                )


def values_at(neurons: Mapping[int, Tensor], values: Tensor) -> dict[int, Tensor]:
    """Return layer → the entries of ``values``, ``[layers, width]``, of its neurons.

    Raises:
        LnbenchError: ``values`` has no entry for a neuron.
    """
    for layer, indices in neurons.items():
        _check_exist(layer, indices, *values.shape[:2])
    return {layer: values[layer, indices.cpu()] for layer, indices in neurons.items()}


def _check_types(part: LayerOverride) -> None:
    types = {"indices": Tensor, "values": Tensor | None, "site": str | None}
    for name, expected in types.items():
        if not isinstance(value := getattr(part, name), expected):
            wanted = getattr(expected, "__name__", expected)
            raise LnbenchError(f"an override's {name} must be {wanted}, got {value!r} ({type(value).__name__})")


def _by_unit(function: Callable[[Tensor], Tensor], unit_size: int, old: Tensor) -> Tensor:
    new = function(old.reshape(*old.shape[:-1], -1, unit_size))
    return new.flatten(-2) if isinstance(new, Tensor) and new.ndim == old.ndim + 1 else new


def _check_exist(layer: int, indices: Tensor, layers: int, width: int, units: str = "neurons") -> None:
    least, greatest = map(int, indices.aminmax()) if indices.numel() else (0, 0)
    if not 0 <= layer < layers or least < 0 or greatest >= width:
        index = least if least < 0 else greatest
        raise LnbenchError(
            f"{units.removesuffix('s')} ({layer}, {index}) is not in a model of {layers} layers of {width} {units}: it "
            f"belongs to another model; select the {units} of this one"
        )


def _repeat(indices: Sequence[Tensor]) -> bool:
    numbers = [index for part in indices for index in part.tolist()]
    return len(set(numbers)) != len(numbers)


def _identity(value: Any) -> Any:
    """Return what makes a function the same in another process: its name, and all that it holds, as JSON data."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Tensor):
        return [str(value.dtype), value.tolist()]
    if isinstance(value, Mapping):
        return [[_identity(key), _identity(held)] for key, held in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [_identity(held) for held in value]
    if isinstance(value, partial):
        return ["partial", *map(_identity, (value.func, value.args, value.keywords))]
    if isinstance(value, MethodType):
        return [_identity(value.__func__), _identity(value.__self__)]
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        held = [cells, value.__defaults__, value.__kwdefaults__]
        return [value.__module__, value.__qualname__, _code(value.__code__), *map(_identity, held)]
    if isinstance(value, type | BuiltinFunctionType):
        return [value.__module__, value.__qualname__]
    return [_identity(type(value)), _identity(getattr(value, "__dict__", None))]


def _code(code: CodeType) -> list[Any]:
    constants = [_code(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
    return [code.co_code.hex(), code.co_names, constants]
