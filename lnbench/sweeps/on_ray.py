"""The executor of a Ray cluster: workers that keep their model, cells that outlive their worker."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from lnbench.errors import LnbenchError, one_line_error
from lnbench.statistics.corpus_statistics import WHOLE
from lnbench.sweeps.cells import Cell, Loading
from lnbench.sweeps.crashes import ATTEMPTS
from lnbench.sweeps.provenance import failure
from lnbench.sweeps.records import Record
from lnbench.sweeps.statistics_jobs import countings

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise LnbenchError("--executor ray needs Ray: pip install 'lnbench[ray]'") from error

if TYPE_CHECKING:
    from lnbench.sweeps.model_variants import Training

_PASSED_ON = ("LNBENCH_", "HF_", "TOKENIZERS_")
"""Beginnings of the environment variables that workers on other machines get too."""
_SECRET = "HF_TOKEN"
"""Not this one, as a cluster shows them to all its users."""


class _Work(Protocol):
    @property
    def loading(self) -> Loading: ...


Item = TypeVar("Item", bound=_Work)


class OnRay:
    """Runs cells, Statistics and fine-tunings on a Ray cluster. Use it in a ``with`` block.

    Args:
        address: A running cluster; a new one on this machine if None.
        workers: How many things run at a time; as many as the cluster fits if None.
        cpus: Processors of each worker, and its number of threads.
        gpus: Graphics processors of each worker; 1 if None and the cluster has any.

    Raises:
        LnbenchError: by ``with``: the cluster cannot be reached, or fits no worker.
    """

    def __init__(
        self, address: str | None = None, workers: int | None = None, cpus: float = 1, gpus: float | None = None
    ) -> None:
        self._address, self._asked, self._cpus, self._gpus = address, workers, cpus, gpus
        self._fits = 0

    def __enter__(self) -> OnRay:
        given = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON) and name != _SECRET}
        options: dict[str, Any] = {
            "runtime_env": {"env_vars": given | {"OMP_NUM_THREADS": str(max(1, int(self._cpus)))}},
            "log_to_driver": False,
        }
        if self._address is None:
            cores = max(os.cpu_count() or 1, int((self._asked or 1) * self._cpus))
            options |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
        else:
            options["address"] = self._address
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise LnbenchError(f"cannot reach a Ray cluster at {self._address or 'local'}: {error}") from error
        self._fits = self._room(ray.cluster_resources())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ray.shutdown()

    def train(self, trainings: Sequence[Training]) -> Iterator[tuple[Training, Path | Exception]]:
        """See :class:`lnbench.sweeps.run_sweep.Executor`."""
        if trainings:
            with self._pool(len(trainings), Path()) as pool:
                yield from pool.each("train", trainings)

    def run(self, cells: Sequence[Cell], out: Path) -> Iterator[tuple[Cell, list[Record]]]:
        """See :class:`lnbench.sweeps.run_sweep.Executor`."""
        if not cells:
            return
        with self._pool(len(cells), out) as pool:
            read = countings(cells, len(pool.slots))
            # Where Statistics cannot be had, the cells that need them say so.
            first_shards = [one for one in read if one.shard != WHOLE and one.shard[0] == 0]
            deque(pool.each("count", read), maxlen=0)
            deque(pool.each("merge_shards", first_shards), maxlen=0)
            for cell, lines in pool.each("run", cells):
                if isinstance(lines, _WorkersDiedError):
                    yield cell, [failure(cell, str(lines))]
                elif isinstance(lines, Exception):
                    # A worker keeps failures to itself, except those that end the sweep.
                    raise lines
                else:
                    yield cell, lines

    def _pool(self, things: int, out: Path) -> closing[_Pool]:
        size = min(self._fits, self._asked or self._fits, things)
        return closing(_Pool(size, out, {"num_cpus": self._cpus, "num_gpus": self._gpus or 0}))

    def _room(self, resources: dict[str, float]) -> int:
        """Return how many workers fit the cluster."""
        has = {"CPU": resources.get("CPU", 0), "GPU": resources.get("GPU", 0)}
        if self._gpus is None:
            self._gpus = 1 if has["GPU"] else 0
        wanted = {"CPU": self._cpus, "GPU": self._gpus}
        fits = min((int(has[name] / need) for name, need in wanted.items() if need), default=int(has["CPU"]))
        if fits < 1:
            raise LnbenchError(
                f"the Ray cluster has {has['CPU']:g} CPUs and {has['GPU']:g} GPUs, and a worker needs "
                f"{self._cpus:g} and {self._gpus:g}: ask for less with --cpus and --gpus"
            )
        return fits


class _WorkersDiedError(LnbenchError):
    """Something that no worker survives."""


class _Actor:
    """A worker in a process of its own."""

    def __init__(self, out: Path, folder: str) -> None:
        from lnbench.sweeps.worker import Worker

        os.chdir(folder)
        self._worker = Worker(out)

    def ready(self) -> None:
        """Do nothing: that this is answered says that lnbench could be imported there."""

    def run(self, cell: Cell) -> list[Record]:
        return self._worker.run(cell)

    def count(self, wanted: Any) -> None:
        self._worker.count(wanted)

    def merge_shards(self, wanted: Any) -> None:
        self._worker.merge_shards(wanted)

    def train(self, training: Training) -> Path:
        return self._worker.train(training)


@dataclass
class _Slot:
    """An actor, replaced when it dies, and what it has loaded."""

    actor: Any
    loading: Loading | None = None
    failed_starts: int = 0
    """In a row."""


class _Pool:
    """So many actors, and the next thing to do for each that is free."""

    def __init__(self, size: int, out: Path, resources: dict[str, float]) -> None:
        self._remote = ray.remote(**resources)(_Actor)
        self._arguments = (out, os.getcwd())  # noqa: PTH109 - a string for the other machine
        self.slots = [_Slot(self._new()) for _ in range(size)]

    def each(self, method: str, items: Sequence[Item]) -> Iterator[tuple[Item, Any]]:
        """Yield every item with what ``method`` made of it, or with the exception, as they end.

        Raises:
            LnbenchError: a worker cannot start.
        """
        left, free = deque(range(len(items))), list[_Slot]()
        # A slot without a number is starting: what a dead worker leaves goes to whoever is free first.
        running: dict[Any, tuple[_Slot, int | None]] = {slot.actor.ready.remote(): (slot, None) for slot in self.slots}
        deaths: Counter[int] = Counter()
        while left or any(number is not None for _, number in running.values()):
            while left and free:
                slot = free.pop()
                number = self._next(slot, left, items)
                slot.loading = items[number].loading
                running[getattr(slot.actor, method).remote(_after(deaths[number], items[number]))] = (slot, number)
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
                deaths[finished] += 1
                if deaths[finished] < ATTEMPTS:
                    left.appendleft(finished)
                    continue
                result = _WorkersDiedError(f"{ATTEMPTS} workers died of it, the last one: {one_line_error(error)}")
            if finished is not None:
                yield items[finished], result

    def close(self) -> None:
        """Give the actors' processors back."""
        for slot in self.slots:
            ray.kill(slot.actor)

    def _renewed(self, slot: _Slot, *, started: bool, error: RayError) -> bool:
        """Put a new actor in the place of a dead one, unless none starts there.

        Raises:
            LnbenchError: it was the last slot.
        """
        # It may be alive, and only out of reach.
        ray.kill(slot.actor)
        slot.failed_starts = 0 if started else slot.failed_starts + 1
        if slot.failed_starts == ATTEMPTS:
            self.slots.remove(slot)
            if not self.slots:
                raise LnbenchError(f"no worker can start on the Ray cluster: {one_line_error(error)}") from error
            return False
        slot.actor, slot.loading = self._new(), None
        return True

    def _new(self) -> Any:
        return self._remote.remote(*self._arguments)

    def _next(self, slot: _Slot, left: deque[int], items: Sequence[Item]) -> int:
        """Return something for the model that is loaded there, else for one that is loaded nowhere."""
        elsewhere = [other.loading for other in self.slots if other is not slot]
        wishes = (
            lambda loading: loading == slot.loading,
            lambda loading: loading not in elsewhere,
            lambda _: True,
        )
        number = next(number for wish in wishes for number in left if wish(items[number].loading))
        left.remove(number)
        return number


def _after(deaths: int, item: Item) -> Any:
    """Return a cell that knows how many workers it took down, so that the last one is careful."""
    return replace(item, deaths=item.deaths + deaths) if isinstance(item, Cell) else item
