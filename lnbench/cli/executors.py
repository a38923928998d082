"""Where cells are run: the options that say so, and the executor that they choose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from lnbench.errors import LnbenchError

if TYPE_CHECKING:
    from lnbench.sweeps.run_sweep import Executor


class Where(StrEnum):
    """Executors."""

    LOCAL = "local"
    RAY = "ray"


Chosen = Annotated[
    Where,
    typer.Option("--executor", help="Where cells are run. local: in this process; ray: on a Ray cluster."),
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", help="A running Ray cluster, auto for this machine's; a new local one by default."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Ray: cells at a time; as many as the cluster fits by default.", min=1)
]
Cpus = Annotated[float | None, typer.Option("--cpus", help="Ray: CPUs a worker; 1 by default.", min=0)]
Gpus = Annotated[
    float | None, typer.Option("--gpus", help="Ray: GPUs a worker; 1 by default where the cluster has any.", min=0)
]


def check_executor(
    where: Where, ray_address: str | None, workers: int | None, cpus: float | None, gpus: float | None
) -> None:
    """Make sure that the options belong to the executor.

    Raises:
        LnbenchError: one of Ray's stands without it.
    """
    if where is not Where.RAY and (ray_address, workers, cpus, gpus) != (None, None, None, None):
        raise LnbenchError("--ray-address, --workers, --cpus and --gpus are Ray's: add --executor ray")


@contextmanager
def chosen_executor(
    where: Where, ray_address: str | None, workers: int | None, cpus: float | None, gpus: float | None
) -> Iterator[Executor]:
    """The executor, for as long as the block runs.

    Raises:
        LnbenchError: the cluster cannot be reached, or fits no worker.
    """
    if where is Where.RAY:
        from lnbench.sweeps.on_ray import OnRay

        with OnRay(address=ray_address, workers=workers, cpus=1 if cpus is None else cpus, gpus=gpus) as cluster:
            yield cluster
        return
    from lnbench.sweeps.local import InProcess

    yield InProcess()
