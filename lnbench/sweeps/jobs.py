"""What an executor runs: pieces of a sweep that any process can do that sees the same folders."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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


def executor_of(choice: str) -> AbstractContextManager[Executor]:
    """Return an executor by its choice in text, for a ``with`` block; nothing is started before that.

    Raises:
        LnbenchError: an unknown executor or parameter.
    """
    executor = get_host().resolve("executor", choice)
    return executor if isinstance(executor, AbstractContextManager) else nullcontext(executor)


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
