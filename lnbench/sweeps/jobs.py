"""What an executor runs: pieces of a sweep that any process can do that sees the same folders."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lnbench.errors import LnbenchError, plugin_call
from lnbench.host import get_host
from lnbench.sweeps.cells import Cell, Loading

if TYPE_CHECKING:
    from lnbench.hookspecs import Executor
    from lnbench.sweeps.worker import Worker


class Process:
    """What stays loaded between the jobs of one process. An executor makes one in each, and hands it to every job."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def worker(self, out: Path) -> Worker:
        """Return what runs the cells whose results go to ``out``; it keeps the model that it loaded last."""
        if self._worker is None or self._worker.out != out:
            from lnbench.sweeps.worker import Worker

            self._worker = Worker(out)
        return self._worker


@dataclass(frozen=True)
class Job:
    """One piece of work for a :class:`~lnbench.sweeps.worker.Worker`. It can be pickled, with all that it refers to."""

    method: Literal["run", "train", "count", "merge_shards"]
    """What the worker does."""
    item: Any
    """The cell, fine-tuning or Statistics that it does it with."""
    out: Path
    """The folder of the run."""
    crashes: int = 0
    """How many processes ended in the middle of it, see :func:`lnbench.sweeps.crashes.after_crash`."""

    @property
    def loading(self) -> Loading:
        """What it loads: jobs with the same are best run one after another in one process."""
        return self.item.loading  # type: ignore[no-any-return]

    def run(self, process: Process) -> Any:
        """Do it, and return its result."""
        item = self.item
        if isinstance(item, Cell):  # with smaller batches, if it has taken down processes
            item = replace(item, crashes=item.crashes + self.crashes)
        return getattr(process.worker(self.out), self.method)(item)


_RESULTS: dict[str, type] = {"run": list, "train": Path}
"""What a job returns that ends without an error, where anything is done with it."""


class CheckedExecutor:
    """An executor, and the checks that it keeps its contract.

    Raises:
        LnbenchError: it does not say how many jobs it runs at a time.
    """

    def __init__(self, name: str, executor: Executor) -> None:
        self._name, self._executor = name, executor
        self.here = getattr(executor, "here", False) is True
        """Whether it says that jobs run on this machine."""
        with plugin_call("executor", name):
            self.workers = executor.workers
            if type(self.workers) is not int or self.workers < 1:
                raise LnbenchError(f"has workers={self.workers!r}: a whole number from 1 is needed")

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
        """Yield every job with its result, in the order in which they end.

        Raises:
            LnbenchError: the executor failed, or did not yield every job once, as it was given or after crashes.
        """
        left = [replace(job, crashes=0) for job in jobs]
        with plugin_call("executor", self._name), ExitStack() as stack:
            running = self._executor.run(list(jobs))
            if isinstance(running, Generator):
                stack.callback(running.close)
            for ended in running:
                job, result = _ended(ended, left)
                left.remove(replace(job, crashes=0))
                yield job, result
            if left:
                raise LnbenchError(f"ended before {len(left)} of {len(jobs)} jobs had a result")


def _ended(ended: object, left: Sequence[Job]) -> tuple[Job, Any]:
    """Return what an executor yielded, if it is one of the jobs that are left, with a result that it can have."""
    match ended:
        case (Job() as job, result) if replace(job, crashes=0) in left:
            expected = _RESULTS.get(job.method, object)
            if not isinstance(result, expected | Exception if expected is not object else object):
                raise LnbenchError(f"yielded {type(result).__name__} as the result of a job {job.method!r}")
            return job, result
    raise LnbenchError(f"yielded {type(ended).__name__}, not a job that is left with its result; each is yielded once")


@contextmanager
def executor_of(choice: str) -> Iterator[CheckedExecutor]:
    """Enter an executor, by its choice in text; nothing is started before that.

    Raises:
        LnbenchError: an unknown executor or parameter.
    """
    executor = get_host().resolve("executor", choice)
    with executor if isinstance(executor, AbstractContextManager) else nullcontext(executor):
        yield CheckedExecutor(choice, executor)


def next_job(jobs: Sequence[Job], loaded: Loading | None, elsewhere: Sequence[Loading | None]) -> int:
    """Return the number of the job to run next: one for what is loaded, else for what is loaded nowhere.

    Args:
        jobs: Those that wait, at least one.
        loaded: What this process has loaded.
        elsewhere: What other processes have loaded.
    """
    for wish in (lambda loading: loading == loaded, lambda loading: loading not in elsewhere):
        for number, job in enumerate(jobs):
            if wish(job.loading):
                return number
    return 0
