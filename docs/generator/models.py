"""Tables of pydantic models: a field, its type, its default, what it means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs.generator.markdown import NOTHING, code, docstring, paragraphs, sentence, table
from lnbench.demo import CORPUS

_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}


def fields_table(model: type[BaseModel], *, types: bool = False, leave_out: tuple[str, ...] = ()) -> str:
    """The fields of a model.

    Args:
        model: A pydantic model.
        types: Whether to say the type of each field.
        leave_out: Fields that are documented elsewhere.
    """
    rows = [
        [code(name), *([spoken_type(field.annotation)] if types else []), default_of(field), meaning(field, not types)]
        for name, field in model.model_fields.items()
        if name not in leave_out and not field.exclude
    ]
    return table(["field", *(["type"] if types else []), "default", "meaning"], rows)


def meaning(field: FieldInfo, choices: bool = True) -> str:
    """A field's description, and what can be chosen."""
    return sentence(field.description or "", choices_in(field.annotation) if choices else ())


def choices_in(annotation: Any) -> list[str]:
    """The words that a type allows, where it is a choice of words."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [one.value for one in annotation]
    if get_origin(annotation) is Literal:
        return [str(one) for one in get_args(annotation)]
    return [choice for inner in get_args(annotation) for choice in choices_in(inner)]


def default_of(field: FieldInfo) -> str:
    """A field's default as users write it."""
    if field.is_required():
        return "required"
    return default_text(field.get_default(call_default_factory=True))


def default_text(value: Any) -> str:
    """A default as users write it."""
    if value is None or value in ((), [], {}, ""):
        return NOTHING
    if value == CORPUS:
        return "the embedded text"
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, list | tuple):
        return ", ".join(code(getattr(one, "pretrained", one)) for one in value)
    return code(value)


def spoken_type(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return spoken_type(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(spoken_type(one) for one in arguments if one is not NoneType))
    if origin is Literal:
        return " or ".join(code(one) for one in arguments)
    if origin is dict:
        return f"{spoken_type(arguments[0])} → {spoken_type(arguments[1])}"
    if origin in (list, tuple, set, frozenset):
        return f"list of {spoken_type(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{name_of(annotation)}](#{name_of(annotation).lower().replace(' ', '-')})"
    return _PLAIN.get(annotation, getattr(annotation, "__name__", str(annotation)))


def name_of(model: type[BaseModel]) -> str:
    """``PerplexityCell`` as ``Perplexity cell``."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", model.__name__.lstrip("_"))
    return words[0] + words[1:].lower()


def parts_of(model: type[BaseModel]) -> list[type[BaseModel]]:
    """The models that a model's fields are made of, at any depth, each once."""
    found, waiting = [model], [model]
    while waiting:
        for field in waiting.pop(0).model_fields.values():
            new = [one for one in _models_in(field.annotation) if one not in found]
            found += new
            waiting += new
    return found[1:]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def with_parts(model: type[BaseModel], heading: str) -> str:
    """A model's table, and one for each model inside it."""
    inner = (_described(f"### {name_of(one)}", one) for one in parts_of(model))
    return paragraphs(_described(f"## {heading}", model), *inner)


def _described(heading: str, model: type[BaseModel]) -> str:
    return paragraphs(heading, docstring(model.__doc__), fields_table(model, types=True))
