"""The executor of a Slurm cluster: an array of jobs, each of which keeps its model for the cells that it is given."""

from __future__ import annotations

import pickle
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass as plain_dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError, one_line_error
from lnbench.files import atomic_path
from lnbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from types import TracebackType

    from lnbench.sweeps.jobs import Job

_POLLED_EVERY = {"slurm": 5.0, "local": 0.2}
"""Seconds between two looks at the results."""
_LATE = 120.0
"""Seconds that results of a job that ended well may take to appear: file systems of clusters show files late."""


@dataclass(kw_only=True)
class Slurm:
    """Run cells, Statistics and fine-tunings as jobs of a Slurm cluster; this machine must have ``sbatch``."""

    workers: int = Field(default=4, ge=1, description="Slurm jobs at a time, one array")
    cpus: int = Field(default=4, ge=1, description="CPUs per job")
    gpus: int = Field(default=1, ge=0, description="GPUs per job")
    memory: float = Field(default=32, gt=0, description="GiB of memory per job")
    minutes: int = Field(default=240, ge=1, description="time limit per job; what is not done then is submitted again")
    partition: str | None = Field(default=None, description="Slurm partition")
    account: str | None = Field(default=None, description="Slurm account")
    qos: str | None = Field(default=None, description="Slurm quality of service")
    folder: str = Field(default="slurm", description="folder of logs and results, which all machines see")
    cluster: Literal["slurm", "local"] = Field(
        default="slurm", description="local: processes of this machine, to try it without Slurm"
    )

    def __enter__(self) -> Slurm:
        """Look for Slurm.

        Raises:
            LnbenchError: submitit is not installed, or there is no Slurm here.
        """
        _submitit()
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise LnbenchError(
                "the executor slurm needs the command sbatch, which this machine lacks: run it on a login node of the "
                "cluster, or try slurm:cluster=local"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Jobs are cancelled where :meth:`run` ends."""

    def describe(self) -> str:
        """Return what each job asks Slurm for, for a dry run."""
        asked = ", ".join(f"{name}={value}" for name, value in self._parameters().items() if value is not None)
        return f"in Slurm jobs, {self.workers} at a time: {asked}; logs in {self.folder}"

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
        """Submit jobs as an array, and yield each as its result appears.

        Raises:
            LnbenchError: Slurm refuses them.
        """
        if jobs:
            submission = _Submission(self._executor(), Path(self.folder), _POLLED_EVERY[self.cluster])
            try:
                yield from submission.each(_chunks(jobs, self.workers))
            finally:
                submission.cancel()

    def _parameters(self) -> dict[str, Any]:
        if self.cluster == "local":
            return {"timeout_min": self.minutes}
        chosen = {f"slurm_{name}": getattr(self, name) for name in ("partition", "account", "qos")}
        return {
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus,
            "mem_gb": self.memory,
            "timeout_min": self.minutes,
            "slurm_array_parallelism": self.workers,
            "slurm_setup": [f"export OMP_NUM_THREADS={self.cpus}"],
            **{name: value for name, value in chosen.items() if value is not None},
        }

    def _executor(self) -> Any:
        executor = _submitit().AutoExecutor(folder=Path(self.folder) / "%j", cluster=self.cluster)
        executor.update_parameters(name="lnbench", **self._parameters())
        return executor


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise LnbenchError("the executor slurm needs submitit: pip install 'lnbench[slurm]'") from error
    return submitit


def _chunks(jobs: Sequence[Job], workers: int) -> list[tuple[Job, ...]]:
    """Return jobs as parts for one process each: of one model, and about as many parts as there are workers."""
    size = -(-len(jobs) // workers)
    of_models = (tuple(group) for _, group in groupby(jobs, key=lambda job: job.loading))
    return [group[start : start + size] for group in of_models for start in range(0, len(group), size)]


@plain_dataclass
class _Part:
    """What one Slurm job does: called there, it runs jobs one after the other, and keeps each result as it ends."""

    jobs: tuple[Job, ...]
    results: tuple[Path, ...]

    def __call__(self) -> None:
        from lnbench.sweeps.jobs import Process

        process = Process()
        for job, target in zip(self.jobs, self.results, strict=True):
            if target.exists():
                continue
            try:
                result: Any = job.run(process)
            except Exception as error:
                result = error
            with atomic_path(target) as path:
                path.write_bytes(_pickled(result))

    def checkpoint(self) -> Any:
        """Return what Slurm is to run after the time limit or a preemption: the same, where it stopped."""
        return _submitit().helpers.DelayedSubmission(self)


def _pickled(result: Any) -> bytes:
    try:
        return pickle.dumps(result)
    except Exception:
        # An exception of a library may hold what cannot leave its process.
        return pickle.dumps(LnbenchError(one_line_error(result) if isinstance(result, Exception) else repr(result)))


class _Submission:
    """Parts that were submitted, and what has come back of them."""

    def __init__(self, executor: Any, folder: Path, seconds: float) -> None:
        self._executor, self._folder, self._seconds = executor, folder.absolute() / "results", seconds
        self._running: list[tuple[Any, _Part]] = []
        self._ended: dict[str, float] = {}

    def each(self, chunks: Sequence[Sequence[Job]]) -> Iterator[tuple[Job, Any]]:
        """Submit chunks; yield every job with its result or exception, as they end."""
        from lnbench.sweeps.crashes import CrashedError, after_crash

        self._folder.mkdir(parents=True, exist_ok=True)
        self._submit(chunks)
        while self._running:
            for entry in list(self._running):
                handle, part = entry
                # Asked before the results are read: what ends in between is read next time.
                ended = handle.done()
                left = []
                for job, path in zip(part.jobs, part.results, strict=True):
                    if path.exists():
                        yield job, pickle.loads(path.read_bytes())
                        path.unlink()
                    else:
                        left.append((job, path))
                self._running.remove(entry)
                if not left:
                    continue
                if not ended or self._may_appear(handle):
                    jobs, paths = zip(*left, strict=True)
                    self._running.append((handle, _Part(jobs, paths)))
                    continue
                (stopped, _), *others = left
                lost = LnbenchError(f"its results did not appear in {self._folder}")
                again = after_crash(stopped, _error(handle) or lost)
                if isinstance(again, CrashedError):
                    yield stopped, again
                remaining = [*([] if isinstance(again, CrashedError) else [again]), *(job for job, _ in others)]
                if remaining:
                    self._submit([remaining])
            if self._running:
                time.sleep(self._seconds)

    def _may_appear(self, handle: Any) -> bool:
        """Return whether results that are missing are on their way, of a job that ended well a moment ago."""
        since = self._ended.setdefault(handle.job_id, time.monotonic())
        return _error(handle) is None and time.monotonic() - since < _LATE

    def cancel(self) -> None:
        """Cancel what still runs."""
        for handle, _ in self._running:
            handle.cancel()

    def _submit(self, chunks: Sequence[Sequence[Job]]) -> None:
        parts = [_Part(tuple(chunk), tuple(self._folder / uuid.uuid4().hex for _ in chunk)) for chunk in chunks]
        try:
            with self._executor.batch():
                handles = [self._executor.submit(part) for part in parts]
        except Exception as error:
            raise LnbenchError(f"Slurm takes no job: {one_line_error(error)}") from error
        self._running += zip(handles, parts, strict=True)


def _error(handle: Any) -> Exception | None:
    """Return what a Slurm job that has ended failed with; None if it ended well."""
    try:
        error: Exception | None = handle.exception()
    except Exception as unknown:
        return unknown
    return error


@hookimpl
def lnbench_register_executors(register: Callable[[str, Any], None]) -> None:
    register("slurm", Slurm)
