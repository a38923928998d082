"""``lnbench plugins`` and ``doctor``."""

from __future__ import annotations

import typer

from lnbench.cli.options import show


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(plugins)
    app.command()(doctor)


def plugins() -> None:
    """List selectors, interventions, fine-tuners and architectures, with their parameters and where they come from.

    Example: lnbench plugins
    """
    from lnbench.doctor import plugins_table

    show(plugins_table())


def doctor() -> None:
    """Check the installation: versions, devices, what lm-eval sees, broken plugins. Exit code 1 if something is wrong.

    Example: lnbench doctor
    """
    from lnbench.doctor import examine

    if not examine():
        raise typer.Exit(1)
