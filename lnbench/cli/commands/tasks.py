"""``lnbench tasks``."""

from __future__ import annotations

import typer

app = typer.Typer(add_completion=False)


@app.command()
def tasks() -> None:
    """Print the folder of lnbench's tasks, for lm_eval --include_path.

    Example: lm_eval --model lnbench --include_path "$(lnbench tasks)" --tasks lnbench_demo
    """
    from lnbench.files import tasks_dir

    typer.echo(tasks_dir())
