"""What a factory's parameters are, and how the text that users write becomes their values."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from decimal import Decimal
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from lnbench.errors import LnbenchError

_BEFORE_PART = re.compile(r":(?=[A-Za-z_]\w*=|\[)")
_LAYERS = re.compile(r"(\d+)(?:-(\d+))?")

ADDED = "added"
"""Set in a field's ``json_schema_extra``: see :attr:`Parameter.added`."""
PARTS = "parts"
"""The parameter that choices in brackets without a name are: ``name:[a]:[b]``."""


def rate_field() -> Any:
    """Return the field ``rate`` of selectors that compare activation rates, and can do so within each expert."""
    from pydantic import Field  # Here, as help and the host do without it.

    return Field(
        default="all",
        description="in experts, the rate over all tokens, or over those routed to the expert",
        json_schema_extra={ADDED: True},
    )


def floor_field() -> Any:
    """Return the field ``floor`` beside :func:`rate_field`."""
    from pydantic import Field  # Here, as help and the host do without it.

    return Field(
        default=1000,
        ge=1,
        description="with rate=routed, tokens that every language must route to an expert",
        json_schema_extra={ADDED: True},
    )


@dataclass(frozen=True)
class Parameter:
    """One parameter of a factory, as ``lnbench plugins`` prints it."""

    name: str
    annotation: Any
    default: Any
    """``inspect.Parameter.empty`` where a value must be given."""
    description: str = ""
    added: bool = False
    """Whether choices were recorded before it existed: at its default, it is left out of records."""

    @property
    def required(self) -> bool:
        """Whether a value must be given."""
        return self.default is inspect.Parameter.empty

    def is_later_default(self, value: Any) -> bool:
        """Return whether ``value`` is the default of a parameter that was added later."""
        return self.added and value == self.default

    def __str__(self) -> str:
        text = f"{self.name}: {inspect.formatannotation(self.annotation)}"
        return text if self.required else f"{text} = {self.default!r}"


def parse_choice(text: str) -> tuple[str, dict[str, Any]]:
    """Parse ``name:key=value:key=value``, and ``name:[a]:[b]`` as the parameter ``parts``.

    A ``:`` that neither ``key=`` nor ``[`` follows, or that is inside brackets, belongs to what is before it. Brackets
    around a value, which make a choice of it, are not part of it.

    Raises:
        LnbenchError: a parameter is given twice.
    """
    name, *parts = _split(text)
    values: dict[str, Any] = {}
    for part in parts:
        if part.startswith("[") and part.endswith("]"):
            values.setdefault(PARTS, []).append(part[1:-1])
            continue
        key, _, value = part.partition("=")
        if key in values:
            raise LnbenchError(f"parameter {key!r} is given twice in {text!r}")
        values[key] = unbracketed(value)
    return name, values


def _split(text: str) -> list[str]:
    """Return the name of a choice and its parts, without the ``:`` between them."""
    within, opened = set[int](), list[int]()
    for place, letter in enumerate(text):
        if letter == "[":
            opened.append(place)
        elif letter == "]" and opened:
            within.update(range(opened.pop(), place))
    cuts = [found.start() for found in _BEFORE_PART.finditer(text) if found.start() not in within]
    return [text[start:end] for start, end in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(text)], strict=True)]


def unbracketed(text: str) -> str:
    """Return a choice within a choice without the square brackets around it, where it has them."""
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def format_choice(name: str, parameters: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> str:
    """Return a choice as users write it, the inverse of :func:`parse_choice`, without what equals ``defaults``."""
    shown = {key: value for key, value in parameters.items() if (defaults or {}).get(key, ...) != value}
    parts = [f"[{part}]" for part in shown.pop(PARTS, ())]
    return ":".join([name, *parts, *(f"{key}={_format_value(value)}" for key, value in shown.items())])


def _format_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    if isinstance(value, str) and len(_split(value)) > 1:
        return f"[{value}]"
    return "none" if value is None else str(value)


def format_number(value: float) -> str:
    """Return a number in digits, as short as it can be: ``10``, ``2.5``."""
    return format(Decimal(str(value)).normalize(), "f")


def layer_numbers(layers: str) -> frozenset[int]:
    """Return the numbers of the layers that ``8-15``, ``8`` or ``0-3+8-15`` names, from 0.

    Raises:
        LnbenchError: it is no such text, or a range ends before it begins.
    """
    numbers = set[int]()
    for part in layers.split("+"):
        match = _LAYERS.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise LnbenchError(f"layers={layers}: expected numbers of layers from 0 on, as 8-15, 8 or 0-3+8-15")
        numbers.update(range(first, last + 1))
    return frozenset(numbers)


def _from_text(annotation: Any, text: str) -> Any:
    """Read what pydantic cannot know of our notation: ``none``, and ``a+b+c`` for a list. The rest stays text."""
    kinds = set(members(annotation))
    if text == "none" and type(None) in kinds:
        return None
    lists = {kind for kind in kinds if _is_list(kind)}
    if lists and ("+" in text or not kinds - lists - {type(None)}):
        return text.split("+") if text else []
    return text


def members(annotation: Any) -> Iterator[Any]:
    """Yield the types that a value can have, of a union each."""
    origin = get_origin(annotation)
    if origin in (Annotated, Union, UnionType):
        for member in get_args(annotation)[: 1 if origin is Annotated else None]:
            yield from members(member)
    else:
        yield annotation


def _is_list(annotation: Any) -> bool:
    origin = get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, Collection) and not issubclass(origin, str | bytes | Mapping)


def target_of(factory: Any) -> Any:
    """Return the class or function behind a ``functools.partial``."""
    return factory.func if isinstance(factory, functools.partial) else factory


def fixed(factory: Any) -> dict[str, Any]:
    """Return the arguments that a partial has fixed."""
    if not isinstance(factory, functools.partial):
        return {}
    return inspect.signature(factory.func).bind_partial(*factory.args, **factory.keywords).arguments


def parameters_of(factory: Any) -> dict[str, Parameter]:
    """Return the parameters of a factory by name, without those that a partial has fixed."""
    target, taken = target_of(factory), fixed(factory)
    declared = _pydantic_fields(target) if hasattr(target, "__pydantic_fields__") else _signature(target)
    return {parameter.name: parameter for parameter in declared if parameter.name not in taken}


def _pydantic_fields(target: Any) -> Iterator[Parameter]:
    for name, field in target.__pydantic_fields__.items():
        if field.init is not False:
            default = inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)
            extra = field.json_schema_extra
            added = isinstance(extra, dict) and bool(extra.get(ADDED))
            yield Parameter(name, field.annotation, default, field.description or "", added)


def _signature(target: Any) -> Iterator[Parameter]:
    factories = {field.name: field.default_factory for field in fields(target)} if is_dataclass(target) else {}
    for name, parameter in inspect.signature(target, eval_str=True).parameters.items():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
            make_default = factories.get(name, MISSING)
            yield Parameter(name, annotation, parameter.default if make_default is MISSING else make_default())


def build(factory: Any, values: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the arguments of a factory, converted and with every default, and the object it makes of them.

    Raises:
        pydantic.ValidationError: a value does not fit its parameter.
    """
    from pydantic import ConfigDict, create_model

    parameters = parameters_of(factory)
    values = {
        name: _from_text(parameters[name].annotation, value) if isinstance(value, str) else value
        for name, value in values.items()
    }
    if hasattr(target_of(factory), "__pydantic_fields__"):
        built = factory(**values)
        return attributes(parameters, built), built
    annotations = {name: (parameters[name].annotation, ...) for name in values}
    config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())
    model = create_model("Parameters", __config__=config, **annotations)(**values)  # type: ignore[call-overload]
    defaults = {name: parameter.default for name, parameter in parameters.items() if not parameter.required}
    arguments = defaults | vars(model)
    return arguments, factory(**arguments)


def attributes(parameters: Mapping[str, Parameter], built: Any) -> dict[str, Any]:
    """Return the values of the parameters that an object was built with, their defaults where it has none."""
    values = {name: getattr(built, name, parameter.default) for name, parameter in parameters.items()}
    return {name: value for name, value in values.items() if value is not inspect.Parameter.empty}
