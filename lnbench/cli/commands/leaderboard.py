"""``lnbench leaderboard``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lnbench.cli.options import Format, say, show

app = typer.Typer(add_completion=False)


@app.command()
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
        typer.Option("--per-model", help="Folder for one JSON per model, in the layout of open LLM leaderboards."),
    ] = None,
    by_row: Annotated[
        bool, typer.Option("--rows", help="Print one line per result with every column, not one per intervention.")
    ] = False,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Put two side by side, the second against the first: models, names of adapters, or folders of runs.",
            metavar="A B",
        ),
    ] = None,
    format_: Format = "terminal",
) -> None:
    """Merge runs into a leaderboard: each cell against its baseline and its controls, document by document.

    Neither a model nor a network is needed. With --compare, what both measured alike is paired document by document.

    Example: lnbench leaderboard runs/llama runs/qwen --out leaderboard.json
    """
    from lnbench.errors import LnbenchError
    from lnbench.leaderboard import build, compare_sides, read_runs
    from lnbench.tables import leaderboard_files as formats
    from lnbench.tables.leaderboard import leaderboard_tables, rows_table
    from lnbench.tables.versus import versus_tables

    if compare is not None:
        if out is not None or per_model is not None or by_row:
            raise LnbenchError("--compare prints tables of its own: leave out --out, --per-model and --rows")
        show(*versus_tables(compare_sides(read_runs(runs), *compare)), format_=format_)
        return
    if out is not None:
        formats.check(out)
    rows = build(read_runs(runs))
    if out is not None:
        formats.write(rows, out)
        say(f"{len(rows)} rows written to {out}", format_)
    if per_model is not None:
        files = formats.write_per_model(rows, per_model)
        say(f"{len(files)} files written to {per_model}", format_)
    if out is not None:
        return
    if format_ in formats.TEXTS and not by_row:
        typer.echo(formats.TEXTS[format_](rows), nl=False)
    else:
        show(*([rows_table(rows)] if by_row else leaderboard_tables(rows)), format_=format_)
