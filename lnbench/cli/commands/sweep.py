"""``lnbench sweep``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lnbench.cli.options import Executor
from lnbench.errors import LnbenchError

app = typer.Typer(add_completion=False)


@app.command()
def sweep(
    spec: Annotated[Path | None, typer.Argument(help="YAML file that says what to measure.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for all results; runs/NAME for NAME.yaml by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print each cell as an lm_eval command; run none.")
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the file.")] = False,
    executor: Executor = "local",
) -> None:
    """Measure a grid of cells that a YAML file describes: models, selectors, interventions, languages, tasks.

    After an interruption the same command continues. Exit code 1 if a cell failed.

    Example: lnbench sweep sweep.yaml --out runs/first
    """
    if schema:
        from lnbench.sweeps.spec import schema as described

        typer.echo(json.dumps(described(), indent=2, ensure_ascii=False))
        return
    if spec is None:
        raise LnbenchError("name the YAML file of the sweep, or see lnbench sweep --help")
    from lnbench.sweeps.jobs import executor_of
    from lnbench.sweeps.spec import load

    wanted, runs_on = load(spec), executor_of(executor)
    folder = out or Path("runs") / spec.stem
    if dry_run:
        from lnbench.host import get_host
        from lnbench.sweeps.needs import lines
        from lnbench.sweeps.run_sweep import planned, planned_commands

        for command in planned_commands(wanted, folder):
            typer.echo(command)
        for line in lines(planned(wanted, folder), folder):
            typer.echo(f"# {line}")
        if hasattr(chosen := get_host().resolve("executor", executor), "describe"):
            typer.echo(f"# {chosen.describe()}")
        return
    from lnbench.cli.options import tell_text
    from lnbench.sweeps.run_sweep import run

    tell_text(wanted.corpus, statistics=wanted.statistics)

    with runs_on as entered:
        outcome = run(wanted, folder, entered)
    done = outcome.cells - len(outcome.failed)
    typer.echo(f"{done} of {outcome.cells} cells are measured; next: lnbench leaderboard {folder}")
    if outcome.failed:
        for error in outcome.failed.values():
            typer.echo(f"failed: {error}", err=True)
        raise typer.Exit(1)
