"""The Ray executor on a cluster of two workers, one of which is killed in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lnbench.errors import LnbenchError
from lnbench.plugins.executors import ray as on_ray
from lnbench.plugins.executors.ray import Ray
from lnbench.sweeps import run_sweep as running
from lnbench.sweeps.cells import Loading
from lnbench.sweeps.crashes import CrashedError
from lnbench.sweeps.jobs import Job
from lnbench.sweeps.records import load
from tests.support.messages import refused
from tests.support.sweeps import comparable, spec_of

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LNBENCH_CACHE", str(tmp_path_factory.mktemp("cache-of-ray")))
        patch.setenv("LNBENCH_DISABLE_PLUGINS", "1")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        with Ray(workers=2) as executor:
            yield executor


def kill_one(out: Path, killed: list[str]) -> None:
    """Kill the first worker that is seen in the middle of a cell: its process id ends the unfinished folder's name."""
    until = time.monotonic() + 120
    while not killed and time.monotonic() < until:
        for path in (out / "cells").glob(".*"):
            os.kill(int(path.name.rpartition("-")[2]), signal.SIGKILL)
            killed.append(path.name)
            return
        time.sleep(0.001)


def test_a_killed_worker_loses_nothing(cluster: Ray, given: dict[str, Any], undisturbed: Path, tmp_path: Path) -> None:
    killed: list[str] = []
    killer = threading.Thread(target=kill_one, args=(tmp_path, killed))
    killer.start()
    outcome = running.run(spec_of(given), tmp_path, cluster, Console(quiet=True))
    killer.join()
    assert outcome.failed == {}
    assert len(killed) == 1
    assert (tmp_path / "cells" / killed[0]).exists(), "it left its cell unfinished"
    counts = Counter((record.cell, record.metric) for record in load(tmp_path))
    assert set(counts.values()) == {1}
    assert comparable(tmp_path) == comparable(undisturbed)


def test_a_cell_that_kills_its_workers_fails_alone(
    cluster: Ray, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deadly:
        """In place of a real worker, which takes seconds to import everything."""

        def __init__(self, *_: Any) -> None: ...

        def ready(self) -> None: ...

        def run(self, job: Any) -> list[str]:
            if job.item.languages == ("en",):
                os._exit(1)
            return [job.item.key]

    monkeypatch.setattr(on_ray, "_Actor", Deadly)
    cells = running.planned(spec_of(given, interventions=["none"]), tmp_path)
    found = {job.item.languages: result for job, result in cluster.run([Job("run", cell, tmp_path) for cell in cells])}
    assert found["hi",] == [cells[1].key]
    assert isinstance(found["en",], CrashedError)
    assert "3 workers" in str(found["en",])


def test_a_worker_that_cannot_start_leaves_its_cells_to_others(
    cluster: Ray, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = tmp_path / "starts"
    starts.mkdir()

    class Unlucky:
        """All starts fail but the first."""

        def __init__(self, _: str) -> None:
            (starts / str(os.getpid())).touch()
            if os.getpid() != min(int(path.name) for path in starts.iterdir()):
                os._exit(1)

        def ready(self) -> None: ...

        def run(self, job: Any) -> list[str]:
            return [job.item.key]

    cells = running.planned(spec_of(given, interventions=["none"]), tmp_path)
    monkeypatch.setattr(on_ray, "_Actor", Unlucky)
    found = {job.item.key: result for job, result in cluster.run([Job("run", cell, starts) for cell in cells])}
    assert found == {cell.key: [cell.key] for cell in cells}


class _Training:
    """In place of a fine-tuning."""

    def __init__(self, out: Path, error: str | None = None) -> None:
        self.out, self.error, self.job = out, error, self
        self.loading = Loading("model", {})

    def run(self, **_: Any) -> Path:
        if self.error:
            raise LnbenchError(self.error)
        return self.out / str(os.getpid())


def test_fine_tunings_run_in_workers(cluster: Ray, tmp_path: Path) -> None:
    trainings = [_Training(tmp_path), _Training(tmp_path, "no data")]
    jobs = [Job("train", training, tmp_path) for training in trainings]
    results = [result for _, result in cluster.run(jobs)]
    (adapter,) = [result for result in results if isinstance(result, Path)]
    assert adapter.parent == tmp_path and adapter.name != str(os.getpid())
    (error,) = [result for result in results if isinstance(result, Exception)]
    assert str(error) == "no data"


def test_a_cluster_that_is_too_small() -> None:
    with refused("2 CPUs", "0 GPUs", "4", "ray:cpus=…:gpus=…"):
        Ray(cpus=4)._room({"CPU": 2})
    with refused("2 CPUs", "0 GPUs", "1", "ray:cpus=…:gpus=…"):
        Ray(gpus=1)._room({"CPU": 2})
    assert Ray(cpus=2)._room({"CPU": 8}) == 4
    assert Ray(cpus=2)._room({"CPU": 8, "GPU": 3}) == 3
    assert Ray(cpus=0, gpus=0.5)._room({"CPU": 8, "GPU": 3}) == 6
