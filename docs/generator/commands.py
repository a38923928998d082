"""The command line, from the typer app: every command with its arguments, options, defaults and an example."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_type_hints

import typer

from docs.generator.markdown import NOTHING, block, code, docstring, paragraphs, sentence, table
from docs.generator.models import choices_in
from lnbench.cli import app

_EXAMPLE = re.compile(r"\n\s*Example:\s*(.*)\Z", re.DOTALL)
_INTRODUCTION = """\
`lnbench --help` and `lnbench COMMAND --help` print what stands here. An error, whatever its cause, is one line on
stderr and exit code 2; `lnbench --traceback COMMAND …`, or `LNBENCH_TRACEBACK=1`, shows where it comes from.
Environment variables are [listed apart](environment.md).

Before the command, or in its place:"""


def body() -> str:
    """The page below its title."""
    group = typer.main.get_command(app)
    commands = sorted(every_command(group), key=lambda one: one[0].lower())
    return paragraphs(_INTRODUCTION, _options(group), *(_command(name, command) for name, command in commands))


def every_command(group: Any, path: str = "lnbench") -> Iterator[tuple[str, Any]]:
    """``(path, command)`` of every command, groups that run by themselves included."""
    for name, command in group.commands.items():
        inner, is_group = f"{path} {name}", hasattr(command, "commands")
        if not is_group or command.invoke_without_command:
            yield inner, command
        if is_group:
            yield from every_command(command, inner)


def _command(name: str, command: Any) -> str:
    text = command.callback.__doc__ or ""
    example = _EXAMPLE.search(text)
    shown = block(" ".join(example.group(1).split())) if example else ""
    return paragraphs(f"## {code(name)}", docstring(_EXAMPLE.sub("", text)), shown, _options(command))


def _options(command: Any) -> str:
    annotations = get_type_hints(command.callback)
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    rows = [_row(parameter, annotations.get(parameter.name)) for parameter in shown]
    return table(("option", "default", "meaning"), rows) if rows else ""


def _row(parameter: Any, annotation: Any) -> tuple[str, str, str]:
    is_option = any(name.startswith("-") for name in parameter.opts)
    names = sorted(parameter.opts, reverse=True, key=len) if is_option else [parameter.name.upper()]
    meaning = sentence(parameter.help or "", choices_in(annotation))
    if getattr(parameter, "multiple", False):
        meaning += " Can be repeated."
    return ", ".join(map(code, names)), _default(parameter), meaning


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = getattr(parameter.default, "value", parameter.default)
    if value is False:
        return "off"
    return NOTHING if value in (None, "", [], ()) or callable(value) else code(value)
