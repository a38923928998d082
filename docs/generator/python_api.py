"""The names that ``import lnbench`` offers: signatures and docstrings."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import lnbench
from docs.generator.markdown import block, code, docstring, paragraphs

_WIDTH = 100


def body() -> str:
    """The page below its title."""
    return paragraphs(
        "The names that `lnbench` exports, imported when they are first used.",
        *(_described(name, getattr(lnbench, name), "##") for name in lnbench.__all__),
    )


def _described(name: str, thing: Any, level: str) -> str:
    heading = f"{level} {code(name)}"
    if not inspect.isclass(thing):
        shown = block(signature(name, thing), "python") if callable(thing) else ""
        return paragraphs(heading, shown, docstring(thing.__doc__))
    shown = "" if issubclass(thing, Exception) else block(signature(name, thing), "python")
    members = [_member(name, member, found, level) for member, found in _members(thing)]
    return paragraphs(heading, shown, docstring(thing.__doc__), *members)


def _members(thing: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class itself defines."""
    for name, member in vars(thing).items():
        function = getattr(member, "__func__", member)
        if not name.startswith("_") and (isinstance(member, property) or inspect.isfunction(function)):
            yield name, member


def _member(owner: str, name: str, member: Any, level: str) -> str:
    heading = f"{level}# {code(f'{owner}.{name}')}"
    if isinstance(member, property):
        return paragraphs(heading, docstring(member.__doc__))
    function = getattr(member, "__func__", member)
    return paragraphs(heading, block(signature(name, function), "python"), docstring(function.__doc__))


def signature(name: str, function: Any) -> str:
    """``name(…) -> …`` with annotations as they are written; over several lines where it is long."""
    found = inspect.signature(function)
    nothing = inspect.isclass(function) or found.return_annotation in (found.empty, None, "None")
    returned = "" if nothing else f" -> {_annotation(found.return_annotation)}"
    parts = list(_parameters(found))
    short = f"{name}({', '.join(parts)}){returned}"
    if len(short) <= _WIDTH:
        return short
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returned}"])


def _parameters(found: inspect.Signature) -> Iterator[str]:
    named_only = False
    for one in found.parameters.values():
        if one.name in ("self", "cls"):
            continue
        if one.kind is one.KEYWORD_ONLY and not named_only:
            yield "*"
        named_only = named_only or one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL)
        stars = "*" if one.kind is one.VAR_POSITIONAL else "**" if one.kind is one.VAR_KEYWORD else ""
        annotation = "" if one.annotation is one.empty else f": {_annotation(one.annotation)}"
        default = "" if one.default is one.empty else f" = {_default(one.default)}"
        yield f"{stars}{one.name}{annotation}{default}"


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _default(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float | tuple | None) else "…"


def attribute_docstrings(thing: type) -> dict[str, str]:
    """The strings that stand below the fields of a class."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: ast.literal_eval(below.value)
        for field, below in pairwise(body.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }
