"""``lnbench doctor``."""

from __future__ import annotations

import typer

app = typer.Typer(add_completion=False)


@app.command()
def doctor() -> None:
    """Check the installation: versions, devices, what lm-eval sees, broken plugins. Exit code 1 if something is wrong.

    Example: lnbench doctor
    """
    from lnbench.cli.listing import plugin_commands
    from lnbench.doctor import examine

    if not examine(plugin_commands()[1]):
        raise typer.Exit(1)
