"""``lnbench figures``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lnbench.cli.options import PrintWidth

app = typer.Typer(add_completion=False)


@app.command()
def figures(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="NeuronSets, perplexity.json, leaderboard.json, records.jsonl, stability.json, stability-curve.json, "
            "Statistics; or folders of them."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the figures.")] = Path("figures"),
    format_: Annotated[
        str, typer.Option("--format", help="Of png, svg and pdf, joined by +. The numbers come as CSV in any case.")
    ] = "png+svg+pdf",
    width: PrintWidth = "page",
) -> None:
    """Draw every figure that files and folders have the numbers of, and write the numbers beside.

    Two NeuronSets of one model are also compared with each other.

    With --width column they fit a column of a paper in two columns, with text of the same size.

    Example: lnbench figures lape.json act_prob.json -o figures --width column
    """
    from lnbench.figures import save
    from lnbench.figures.drawable import figures_of

    formats = format_.split("+")
    for figure in figures_of(paths):
        files = save(figure, out, formats, width)
        typer.echo(f"{figure.title}\n  {' '.join(map(str, files))}")
