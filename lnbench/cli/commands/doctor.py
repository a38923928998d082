"""``lnbench doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from lnbench.cli.options import Format, say, show

app = typer.Typer(add_completion=False)


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Option("--model", help="Check this model: where its neurons are, and what writing one does.")
    ] = None,
    model_args: Annotated[
        str, typer.Option("--model-args", help="How it is loaded, e.g. dtype=bfloat16,load_in_4bit=True.")
    ] = "",
    format_: Format = "terminal",
) -> None:
    """Check the installation, or a model. Exit code 1 if something is wrong.

    Of the installation: versions, devices, what lm-eval sees, broken plugins. Of a model: its banks of neurons, their
    widths and hook points, and the numeric self-check that every load runs.

    Example: lnbench doctor --model gemma-3-270m
    """
    from lnbench.cli.listing import plugin_commands
    from lnbench.doctor import examine, model_table

    if model is not None:
        table, summary = model_table(model, model_args)
        say(summary, format_)
        show(table, format_=format_)
    elif not examine(plugin_commands()[1]):
        raise typer.Exit(1)
