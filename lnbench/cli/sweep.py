"""``lnbench sweep``."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lnbench.errors import LnbenchError


class Where(StrEnum):
    """Executors."""

    LOCAL = "local"
    RAY = "ray"


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(sweep)


def sweep(
    spec: Annotated[Path | None, typer.Argument(help="YAML file that says what to measure.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for all results; runs/NAME for NAME.yaml by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print each cell as an lm_eval command; run none.")
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the file.")] = False,
    executor: Annotated[Where, typer.Option(help="Where cells are run: in this process, or on a Ray cluster.")] = (
        Where.LOCAL
    ),
    ray_address: Annotated[
        str | None, typer.Option(help="A running Ray cluster, auto for this machine's; a new local one by default.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Ray: cells at a time; as many as the cluster fits by default.", min=1)
    ] = None,
    cpus: Annotated[float | None, typer.Option(help="Ray: CPUs a worker; 1 by default.", min=0)] = None,
    gpus: Annotated[
        float | None, typer.Option(help="Ray: GPUs a worker; 1 by default where the cluster has any.", min=0)
    ] = None,
) -> None:
    """Measure a grid of cells: models, adapters, selectors, interventions, languages and tasks. Goes on where it ended.

    Exit code 1 if a cell failed.

    Example: lnbench sweep sweep.yaml --out runs/first
    """
    if executor is not Where.RAY and (ray_address, workers, cpus, gpus) != (None, None, None, None):
        raise LnbenchError("--ray-address, --workers, --cpus and --gpus are Ray's: add --executor ray")
    if schema:
        from lnbench.sweeps.spec import schema as described

        typer.echo(json.dumps(described(), indent=2, ensure_ascii=False))
        return
    if spec is None:
        raise LnbenchError("name the YAML file of the sweep, or see lnbench sweep --help")
    from lnbench.sweeps.spec import load

    wanted = load(spec)
    folder = out or Path("runs") / spec.stem
    if dry_run:
        from lnbench.sweeps.run import planned_commands

        for command in planned_commands(wanted, folder):
            typer.echo(command)
        return
    from lnbench.sweeps.run import run

    if executor is Where.RAY:
        from lnbench.sweeps.on_ray import OnRay

        with OnRay(address=ray_address, workers=workers, cpus=1 if cpus is None else cpus, gpus=gpus) as cluster:
            outcome = run(wanted, folder, cluster)
    else:
        from lnbench.sweeps.local import InProcess

        outcome = run(wanted, folder, InProcess())
    done = outcome.cells - len(outcome.failed)
    typer.echo(f"{done} of {outcome.cells} cells are measured; next: lnbench leaderboard {folder}")
    if outcome.failed:
        for told in outcome.failed.values():
            typer.echo(f"failed: {told}", err=True)
        raise typer.Exit(1)
