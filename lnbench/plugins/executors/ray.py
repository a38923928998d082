"""The executor of a Ray cluster: workers that keep their model, jobs that outlive their worker."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass as plain_dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError, one_line_error
from lnbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from lnbench.sweeps.cells import Loading
    from lnbench.sweeps.jobs import Job

_PASSED_ON = ("LNBENCH_", "HF_", "TOKENIZERS_")
"""Beginnings of the environment variables that workers on other machines get too."""
_SECRET = "HF_TOKEN"
"""Not this one, as a cluster shows them to all its users."""


@dataclass(kw_only=True)
class Ray:
    """Run cells, Statistics and fine-tunings on a Ray cluster; a new one on this machine by default."""

    address: str | None = Field(default=None, description="a running cluster; auto: this machine's")
    workers: int | None = Field(default=None, ge=1, description="jobs at a time; by default what the cluster fits")
    cpus: float = Field(default=1, ge=0, description="CPUs per worker, and its number of threads")
    gpus: float | None = Field(default=None, ge=0, description="GPUs per worker; by default 1 if the cluster has any")

    def __enter__(self) -> Ray:
        """Start or join the cluster.

        Raises:
            LnbenchError: Ray is not installed, the cluster cannot be reached, or it fits no worker.
        """
        passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON) and name != _SECRET}
        environment = {"env_vars": passed | {"OMP_NUM_THREADS": str(max(1, int(self.cpus)))}}
        cluster: dict[str, Any] = {"address": self.address}
        if self.address is None:
            cores = max(os.cpu_count() or 1, int((self.workers or 1) * self.cpus))
            cluster = {"address": "local", "num_cpus": cores, "include_dashboard": False}
        ray = _ray()
        try:
            ray.init(runtime_env=environment, log_to_driver=False, **cluster)
        except (OSError, RuntimeError, ValueError) as error:
            if "AF_UNIX" in str(error):
                folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
                raise LnbenchError(
                    f"Ray keeps its sockets in {folder}, and the path of one may have 107 bytes at most: set "
                    "RAY_TMPDIR to a folder with a shorter path"
                ) from error
            raise LnbenchError(f"cannot reach a Ray cluster at {self.address or 'local'}: {error}") from error
        room = self._room(ray.cluster_resources())
        self.workers = min(room, self.workers or room)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _ray().shutdown()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
        """Run jobs; use it in a ``with`` block.

        Raises:
            LnbenchError: no worker can start.
        """
        if jobs:
            resources = {"num_cpus": self.cpus, "num_gpus": self.gpus or 0}
            with closing(_Pool(min(self.workers or 1, len(jobs)), resources)) as pool:
                yield from pool.each(jobs)

    def _room(self, resources: dict[str, float]) -> int:
        """Return how many workers fit the cluster."""
        cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
        if self.gpus is None:
            self.gpus = 1 if gpus else 0
        fits = min((int(has / need) for has, need in ((cpus, self.cpus), (gpus, self.gpus)) if need), default=int(cpus))
        if fits < 1:
            raise LnbenchError(
                f"the Ray cluster has {cpus:g} CPUs and {gpus:g} GPUs, and a worker needs {self.cpus:g} and "
                f"{self.gpus:g}: ask for less, with ray:cpus=…:gpus=…"
            )
        return fits


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise LnbenchError("the executor ray needs Ray: pip install 'lnbench[ray]'") from error
    return ray


class _Actor:
    """A worker in a process of its own."""

    def __init__(self, folder: str) -> None:
        from lnbench.sweeps.jobs import Process

        os.chdir(folder)
        self._process = Process()

    def ready(self) -> None:
        """Do nothing: that this is answered says that lnbench could be imported there."""

    def run(self, job: Job) -> Any:
        return job.run(self._process)


@plain_dataclass
class _Slot:
    """An actor, replaced when it dies, and what it has loaded."""

    actor: Any
    loading: Loading | None = None
    failed_starts: int = 0
    """In a row."""


class _Pool:
    """A number of actors, and the next job for each that is free."""

    def __init__(self, size: int, resources: dict[str, float]) -> None:
        self._remote = _ray().remote(**resources)(_Actor)
        self.slots = [_Slot(self._new()) for _ in range(size)]

    def each(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
        """Yield every job with its result, or with the exception, as they end."""
        from ray.exceptions import RayError, RayTaskError

        from lnbench.sweeps.crashes import CrashedError, after_crash
        from lnbench.sweeps.jobs import next_job

        ray = _ray()
        waiting, free = list(jobs), list[_Slot]()
        # A slot without a job is starting: what a dead worker leaves goes to whoever is free first.
        running: dict[Any, tuple[_Slot, Job | None]] = {slot.actor.ready.remote(): (slot, None) for slot in self.slots}
        while waiting or any(job is not None for _, job in running.values()):
            while waiting and free:
                slot = free.pop()
                elsewhere = [other.loading for other in self.slots if other is not slot]
                job = waiting.pop(next_job(waiting, slot.loading, elsewhere))
                slot.loading = job.loading
                running[slot.actor.run.remote(job)] = (slot, job)
            (done,), _ = ray.wait(list(running), num_returns=1)
            slot, finished = running.pop(done)
            try:
                result = ray.get(done)
                slot.failed_starts = 0
                free.append(slot)
            except RayTaskError as error:
                result = error.cause
                free.append(slot)
            except RayError as error:
                if self._renewed(slot, started=finished is not None, error=error):
                    running[slot.actor.ready.remote()] = (slot, None)
                if finished is None:
                    continue
                result = after_crash(finished, error)
                if not isinstance(result, CrashedError):
                    waiting.insert(0, result)
                    continue
            if finished is not None:
                yield finished, result

    def close(self) -> None:
        """Give the actors' processors back."""
        for slot in self.slots:
            _ray().kill(slot.actor)

    def _renewed(self, slot: _Slot, *, started: bool, error: Exception) -> bool:
        """Put a new actor in the place of a dead one; return False if none starts there."""
        from lnbench.sweeps.crashes import ATTEMPTS

        # It may be alive, and only out of reach.
        _ray().kill(slot.actor)
        slot.failed_starts = 0 if started else slot.failed_starts + 1
        if slot.failed_starts == ATTEMPTS:
            self.slots.remove(slot)
            if not self.slots:
                raise LnbenchError(f"no worker can start on the Ray cluster: {one_line_error(error)}") from error
            return False
        slot.actor, slot.loading = self._new(), None
        return True

    def _new(self) -> Any:
        return self._remote.remote(os.getcwd())  # noqa: PTH109 - a string for the other machine


@hookimpl
def lnbench_register_executors(register: Callable[[str, Any], None]) -> None:
    register("ray", Ray)
