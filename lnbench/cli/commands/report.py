"""``lnbench report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of sweeps, demos, perplexity matrices, reproductions or adapters.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for index.html and its figures.")] = Path("report"),
) -> None:
    """Write one HTML page of what runs found: findings, tables, figures, samples, commands and caveats.

    Example: lnbench report runs/first --out report
    """
    from lnbench.report import build

    typer.echo(f"Report written to {build(runs, out)}")
