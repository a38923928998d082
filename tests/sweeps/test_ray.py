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
from lnbench.sweeps import run_sweep as running
from lnbench.sweeps.model_variants import Training
from lnbench.sweeps.records import load
from tests.support.sweeps import comparable, spec_of

ray = pytest.importorskip("ray")
from lnbench.sweeps import on_ray  # noqa: E402 - it cannot be imported without Ray
from lnbench.sweeps.on_ray import OnRay  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnRay]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LNBENCH_CACHE", str(tmp_path_factory.mktemp("cache-of-ray")))
        patch.setenv("LNBENCH_DISABLE_PLUGINS", "1")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        with OnRay(workers=2) as executor:
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


def test_a_killed_worker_loses_nothing(
    cluster: OnRay, given: dict[str, Any], undisturbed: Path, tmp_path: Path
) -> None:
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
    cluster: OnRay, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deadly:
        """In place of a real worker, which takes seconds to import everything."""

        def __init__(self, *_: Any) -> None: ...

        def ready(self) -> None: ...

        def run(self, cell: Any) -> list[str]:
            if cell.languages == ("en",):
                os._exit(1)
            return [cell.key]

    monkeypatch.setattr(on_ray, "_Actor", Deadly)
    cells = running.planned(spec_of(given, interventions=["none"]), tmp_path)
    found = {cell.languages: lines for cell, lines in cluster.run(cells, tmp_path)}
    assert found["hi",] == [cells[1].key]
    (record,) = found["en",]
    assert (record.failed, record.cell, record.language) == (True, cells[0].key, "en")
    assert "3 workers died of it" in str(record.error)


def test_a_worker_that_cannot_start_leaves_its_cells_to_others(
    cluster: OnRay, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unlucky:
        """All starts fail but the first."""

        def __init__(self, out: Path, _: str) -> None:
            (out / str(os.getpid())).touch()
            if os.getpid() != min(int(path.name) for path in out.iterdir()):
                os._exit(1)

        def ready(self) -> None: ...

        def run(self, cell: Any) -> list[str]:
            return [cell.key]

    cells = running.planned(spec_of(given, interventions=["none"]), tmp_path)
    monkeypatch.setattr(on_ray, "_Actor", Unlucky)
    (tmp_path / "starts").mkdir()
    assert {cell.key: lines for cell, lines in cluster.run(cells, tmp_path / "starts")} == {
        cell.key: [cell.key] for cell in cells
    }


def test_fine_tunings_are_ray_tasks(cluster: OnRay, tmp_path: Path) -> None:
    class Job:
        def run(self, **_: Any) -> Path:
            return tmp_path / str(os.getpid())

    (training,) = [Training(Job(), None)]  # type: ignore[arg-type]
    ((done, adapter),) = cluster.train([training])
    assert done is training
    assert isinstance(adapter, Path)
    assert adapter.name != str(os.getpid())

    class Failing:
        def run(self, **_: Any) -> Path:
            raise LnbenchError("no data")

    ((_, error),) = cluster.train([Training(Failing(), None)])  # type: ignore[arg-type]
    assert str(error) == "no data"


def test_a_cluster_that_is_too_small() -> None:
    with pytest.raises(LnbenchError, match="2 CPUs and 0 GPUs, and a worker needs 4 and 0: ask for less"):
        OnRay(cpus=4)._room({"CPU": 2})
    with pytest.raises(LnbenchError, match="a worker needs 1 and 1: ask for less"):
        OnRay(gpus=1)._room({"CPU": 2})
    assert OnRay(cpus=2)._room({"CPU": 8}) == 4
    assert OnRay(cpus=2)._room({"CPU": 8, "GPU": 3}) == 3
    assert OnRay(cpus=0, gpus=0.5)._room({"CPU": 8, "GPU": 3}) == 6
