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
from lnbench.data_folder import default_corpus
from lnbench.settings import Settings, fields_of


def fields_table(model: type[BaseModel], *, types: bool = False) -> str:
    """Return the table of a model's fields, with the type of each if ``types``."""
    rows = [
        [code(name), *([type_text(field.annotation)] if types else []), default_of(field), meaning(field, not types)]
        for name, field in ((name, model.model_fields[name]) for name in _ordered(model))
        if not field.exclude
    ]
    return table(["field", *(["type"] if types else []), "default", "meaning"], rows)


def _ordered(model: type[BaseModel]) -> list[str]:
    return fields_of(model) if issubclass(model, Settings) else list(model.model_fields)


def meaning(field: FieldInfo, choices: bool = True) -> str:
    """Return a field's description, and what can be chosen."""
    return sentence(field.description or "", choices_in(field.annotation) if choices else ())


def choices_in(annotation: Any) -> list[str]:
    """Return the words that a type allows, where it is a choice of words."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [choice.value for choice in annotation]
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for inner in get_args(annotation) for choice in choices_in(inner)]


def default_of(field: FieldInfo) -> str:
    """Return a field's default as users write it."""
    if field.default_factory is default_corpus:
        return "that in `LNBENCH_DATA`, else the embedded text"
    return "required" if field.is_required() else default_text(field.get_default(call_default_factory=True))


def default_text(value: Any) -> str:
    """Return a default as users write it."""
    if value is None or value in ((), [], {}, ""):
        return NOTHING
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, list | tuple):
        return ", ".join(code(getattr(item, "pretrained", item)) for item in value)
    return code(value)


def type_text(annotation: Any) -> str:
    """Return a type as Python writes it, with a link where it is a model."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(type_text(option) for option in arguments if option is not NoneType))
    if origin is Literal:
        return " or ".join(map(code, arguments))
    if origin is dict:
        return f"{type_text(arguments[0])} → {type_text(arguments[1])}"
    if origin is not None:
        return f"{origin.__name__} of {type_text(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{name_of(annotation)}](#{name_of(annotation).lower().replace(' ', '-')})"
    return code(getattr(annotation, "__name__", annotation))


def name_of(model: type[BaseModel]) -> str:
    """Return ``PerplexityCell`` as ``Perplexity cell``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", model.__name__.lstrip("_")).capitalize()


def parts_of(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the models that a model's fields are made of, at any depth, each once."""
    parts = [model]
    for part in parts:  # which grows meanwhile
        inner = (model for field in part.model_fields.values() for model in _models_in(field.annotation))
        parts += [model for model in dict.fromkeys(inner) if model not in parts]
    return parts[1:]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def with_parts(model: type[BaseModel], heading: str) -> str:
    """Return a model's table, and one for each model inside it."""
    headings = {model: f"## {heading}"} | {part: f"### {name_of(part)}" for part in parts_of(model)}
    return paragraphs(
        *(
            paragraphs(line, docstring(described.__doc__), fields_table(described, types=True))
            for described, line in headings.items()
        )
    )
