"""``lnbench leaderboard``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lnbench.cli.options import show


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(leaderboard)


def leaderboard(
    runs: Annotated[list[Path], typer.Argument(help="Folders of sweeps, or their records.jsonl files.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="File to write; its suffix decides: .json, .csv or .md. Without it, tables are printed."
        ),
    ] = None,
    per_model: Annotated[
        Path | None,
        typer.Option("--per-model", help="Folder for one JSON a model, in the layout of open LLM leaderboards."),
    ] = None,
) -> None:
    """Merge runs into a leaderboard: each cell against its baseline and its random controls, document by document.

    Neither a model nor a network is needed.

    Example: lnbench leaderboard runs/llama runs/qwen --out leaderboard.json
    """
    from lnbench.leaderboard import build, read_runs
    from lnbench.tables import leaderboard_files as formats
    from lnbench.tables.leaderboard import leaderboard_tables
    from lnbench.tables.render import terminal

    if out is not None:
        formats.check(out)
    rows = build(read_runs(runs))
    if out is not None:
        formats.write(rows, out)
        typer.echo(f"{len(rows)} rows written to {out}")
    if per_model is not None:
        files = formats.write_per_model(rows, per_model)
        typer.echo(f"{len(files)} files written to {per_model}")
    if out is None:
        for table in leaderboard_tables(rows):
            show(terminal(table))
