"""Which commands there are: the files of a folder and those of plugins, each imported only when it is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from lnbench.errors import LnbenchError, one_line_error

_FOLDER = Path(__file__).parent / "commands"
_BUILT_IN = sorted(path.stem for path in _FOLDER.glob("[!_]*.py"))


class CommandsGroup(typer.core.TyperGroup):
    """The group of all commands. Its help imports none of the built-in ones, and running one imports no plugin."""

    _only_lists = False

    @cached_property
    def _of_plugins(self) -> dict[str, Any]:
        return plugin_commands()[0]

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return all names."""
        return [*_BUILT_IN, *self._of_plugins]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        self._only_lists = True
        super().format_help(ctx, formatter)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Return a command; in the help, only its name and its summary."""
        if cmd_name not in _BUILT_IN:
            return self._of_plugins.get(cmd_name)
        if self._only_lists:
            return typer.core.TyperCommand(cmd_name, help=_summary(_FOLDER / f"{cmd_name}.py"))
        if cmd_name not in self.commands:
            command = typer.main.get_command(import_module(f"lnbench.cli.commands.{cmd_name}").app)
            command.name = cmd_name
            self.commands[cmd_name] = command
        return self.commands[cmd_name]


def plugin_commands() -> tuple[dict[str, Any], list[str]]:
    """Return the commands that plugins add, and why others are missing."""
    # Not the host of the process, which loads the built-in plugins too.
    from lnbench.host import Host

    host = Host(builtins=())
    commands: dict[str, Any] = {}
    problems = [str(broken) for broken in host.broken]
    for source, register in host.command_hooks():
        app = typer.Typer(add_completion=False)
        try:
            register(app=app)
            added = typer.main.get_group(app).commands
            if taken := next((name for name in added if name in _BUILT_IN or name in commands), None):
                raise LnbenchError(f"the name {taken!r} of its command is taken")
            commands |= added
        except Exception as error:
            problems.append(f"plugin {source.plugin!r} ({source}) adds no commands: {one_line_error(error)}")
    return commands, problems


class NamesGroup(typer.core.TyperGroup):
    """A group in which a word that is none of its commands is a name, for the one command in capital letters."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ARG002
        """Return the command that a line runs, with its name and its own words."""
        by_name = next(command for name, command in self.commands.items() if name.isupper())
        return args[0], self.commands.get(args[0], by_name), args[1:]


def every_command(group: Any, path: str = "lnbench") -> Iterator[tuple[str, Any]]:
    """Yield ``(path, command)`` of every command, groups that run by themselves included."""
    context = typer.Context(group)
    for name in group.list_commands(context):
        command, inner = group.get_command(context, name), f"{path} {name}"
        is_group = hasattr(command, "commands")
        if not is_group or command.invoke_without_command:
            yield inner, command
        if is_group:
            yield from every_command(command, inner)


def _summary(file: Path) -> str:
    """Return the help of a file's only command or of its group, from its text."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    marks = [
        (ast.unparse(mark).partition("(")[0], function) for function in functions for mark in function.decorator_list
    ]
    marked = [(name, function) for name, function in marks if name in ("app.command", "app.callback")]
    shown = dict(marked).get("app.callback", marked[0][1] if len(marked) == 1 else tree)
    return ast.get_docstring(shown) or ""
