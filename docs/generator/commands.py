"""The command line, as typer itself documents it."""

from __future__ import annotations

import html
import re

import typer
from typer.cli import get_docs_for_click

from docs.generator.markdown import block
from lnbench.cli import app

_INTRODUCTION = """\
`lnbench --help` and `lnbench COMMAND --help` print the same. An error, whatever its cause, is one line on stderr and
exit code 2; `lnbench --traceback COMMAND …`, or `LNBENCH_TRACEBACK=1`, shows where it comes from.
[Environment variables](environment.md) have a page of their own.
"""
_EXAMPLE = re.compile(r"^Example: (.+?)(?=\n\n)", re.MULTILINE | re.DOTALL)


def body() -> str:
    """Return the page below its title."""
    group = typer.main.get_command(app)
    text = html.unescape(get_docs_for_click(obj=group, ctx=typer.Context(group), name="lnbench"))
    _, _, commands = text.partition("\n\n")
    return _INTRODUCTION + _EXAMPLE.sub(lambda match: block(" ".join(match.group(1).split())), commands)
