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

# Not inside square brackets, which hold a choice within a choice.
_BEFORE_PARAMETER = re.compile(r":(?=[A-Za-z_]\w*=)(?![^\[]*\])")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a factory, as ``lnbench plugins`` prints it."""

    name: str
    annotation: Any
    default: Any = inspect.Parameter.empty
    """``inspect.Parameter.empty`` where a value must be given."""

    @property
    def required(self) -> bool:
        """Whether a value must be given."""
        return self.default is inspect.Parameter.empty

    @property
    def type(self) -> str:
        """The annotation as text."""
        return inspect.formatannotation(self.annotation)

    def __str__(self) -> str:
        return f"{self.name}: {self.type}" + ("" if self.required else f" = {self.default!r}")


def validated(parameters: Mapping[str, Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values converted to the parameters' types; pydantic's ``ValidationError`` where one does not fit."""
    from pydantic import ConfigDict, create_model

    annotations = {name: (parameters[name].annotation, ...) for name in values}
    config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())
    model = create_model("Parameters", __config__=config, **annotations)(**values)  # type: ignore[call-overload]
    return {name: getattr(model, name) for name in values}


def parse_choice(text: str) -> tuple[str, dict[str, str]]:
    """``name:key=value:key=value`` taken apart. A ``:`` that no ``key=`` follows belongs to the value before it.

    Raises:
        LnbenchError: a parameter is given twice.
    """
    name, *parts = _BEFORE_PARAMETER.split(text)
    given: dict[str, str] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key in given:
            raise LnbenchError(f"parameter {key!r} is given twice in {text!r}")
        given[key] = value
    return name, given


def format_choice(name: str, parameters: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> str:
    """Return a choice as users write it, the inverse of :func:`parse_choice`, without what equals ``defaults``."""
    given = {key: value for key, value in parameters.items() if (defaults or {}).get(key, ...) != value}
    return ":".join([name, *(f"{key}={_format_value(value)}" for key, value in given.items())])


def _format_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    if isinstance(value, str) and _BEFORE_PARAMETER.search(value):
        return f"[{value}]"
    return "none" if value is None else str(value)


def format_number(value: float) -> str:
    """Return a number in digits, as short as it can be: ``10``, ``2.5``."""
    return format(Decimal(str(value)).normalize(), "f")


def from_text(annotation: Any, text: str) -> Any:
    """What pydantic cannot know of our notation: ``none``, and ``a+b+c`` for a list. The rest stays text."""
    members = set(_members(annotation))
    if text == "none" and type(None) in members:
        return None
    lists = {member for member in members if _is_list(member)}
    if lists and ("+" in text or not members - lists - {type(None)}):
        return text.split("+") if text else []
    return text


def _members(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _is_list(annotation: Any) -> bool:
    origin = get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, Collection) and not issubclass(origin, str | bytes | Mapping)


def target_of(factory: Any) -> Any:
    """Return the class or function behind a ``functools.partial``."""
    return factory.func if isinstance(factory, functools.partial) else factory


def is_pydantic(factory: Any) -> bool:
    """Return whether a factory's parameters are pydantic fields."""
    return hasattr(target_of(factory), "__pydantic_fields__")


def _declared(factory: Any) -> dict[str, Parameter]:
    target = target_of(factory)
    return {parameter.name: parameter for parameter in (_fields if is_pydantic(target) else _signature)(target)}


def fixed(factory: Any) -> dict[str, Any]:
    """The arguments that a partial has fixed."""
    if not isinstance(factory, functools.partial):
        return {}
    return dict(zip(_declared(factory), factory.args, strict=False)) | factory.keywords


def parameters_of(factory: Any) -> dict[str, Parameter]:
    """The parameters of a factory by name; those that a partial has fixed are none any more."""
    taken = fixed(factory)
    return {name: parameter for name, parameter in _declared(factory).items() if name not in taken}


def _fields(target: Any) -> Iterator[Parameter]:
    for name, field in target.__pydantic_fields__.items():
        if field.init is not False:
            default = inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)
            yield Parameter(name, field.annotation, default)


def _signature(target: Any) -> Iterator[Parameter]:
    made = {}
    if is_dataclass(target):
        made = {field.name: field.default_factory() for field in fields(target) if field.default_factory is not MISSING}
    for name, parameter in inspect.signature(target, eval_str=True).parameters.items():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
            yield Parameter(name, annotation, made.get(name, parameter.default))


def attributes(parameters: Mapping[str, Parameter], built: Any) -> dict[str, Any]:
    """Return the values of the parameters that an object was built with."""
    values = {name: getattr(built, name, parameter.default) for name, parameter in parameters.items()}
    return {name: value for name, value in values.items() if value is not inspect.Parameter.empty}


def made_by(built: Any, factory: Any) -> bool:
    """Return whether an object is what a factory makes, with the values that the factory fixes."""
    return target_of(factory) is type(built) and all(
        getattr(built, key, None) == value for key, value in fixed(factory).items()
    )


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON has them; what JSON has no form for, as text."""
    from pydantic_core import to_jsonable_python

    return {name: to_jsonable_python(value, fallback=str) for name, value in values.items()}


def summary(target: Any) -> str:
    """Return the first line of a docstring."""
    doc = inspect.cleandoc(target.__doc__ or "")
    # A dataclass without a docstring gets its signature for one.
    return "" if doc.startswith(f"{getattr(target, '__name__', '')}(") else doc.split("\n")[0]


def listing(parameters: Mapping[str, Parameter]) -> str:
    """All parameters, for an error."""
    return "its parameters: " + ", ".join(map(str, parameters.values())) if parameters else "it has no parameters"
