"""``lnbench plugins``."""

from __future__ import annotations

import typer

from lnbench.cli.options import Format, show

app = typer.Typer(add_completion=False)


@app.command()
def plugins(format_: Format = "terminal") -> None:
    """List what plugins offer, the built-in ones included: names, parameters, and where they come from.

    Example: lnbench plugins
    """
    from lnbench.doctor import plugins_table

    show(plugins_table(), format_=format_)
