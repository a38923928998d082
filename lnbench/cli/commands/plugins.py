"""``lnbench plugins``, and a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lnbench.cli.options import Format, show

app = typer.Typer(add_completion=False, invoke_without_command=True)


@app.callback()
def plugins(context: typer.Context, format_: Format = "terminal") -> None:
    """List what plugins offer, the built-in ones included: names, parameters, and where they come from.

    Example: lnbench plugins
    """
    if context.invoked_subcommand is not None:
        return
    from lnbench.doctor import plugins_table

    show(plugins_table(), format_=format_)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the package, as my-neurons.")],
    kind: Annotated[Literal["selector", "intervention"], typer.Option(help="What it adds to lnbench.")] = "selector",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write; by default one of this name, here.")
    ] = None,
) -> None:
    """Write a package with one selector or intervention: pyproject, tests, a CI workflow, README.

    Its tests run lnbench's conformance suite. The choice is called as the module, my_neurons of my-neurons.

    Example: lnbench plugins new my-neurons --kind selector
    """
    from lnbench.new_plugin import write_package

    files = write_package(name, kind, out)
    folder = files[0].parent
    typer.echo(f"written to {' '.join(map(str, files))}")
    typer.echo(f'install and try it: pip install -e "{folder}[test]" && pytest {folder}')
