"""The Slurm executor on submitit's local processes: the same records, crashes, what it asks for, what it refuses."""

from __future__ import annotations

import os
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from rich.console import Console

from lnbench.errors import LnbenchError
from lnbench.host import get_host
from lnbench.plugins.executors.slurm import Slurm, _chunks, _Submission
from lnbench.sweeps import run_sweep as running
from lnbench.sweeps.crashes import CrashedError
from tests.support.messages import refused
from tests.support.sweeps import comparable, spec_of

pytest.importorskip("submitit")


@dataclass(frozen=True)
class Small:
    """In place of a job, for what happens around it."""

    name: str
    loading: str = "model"
    crashes: int = 0

    def run(self, _process: Any) -> str:
        if self.name.startswith("deadly"):
            os._exit(1)
        if self.name == "slow":
            time.sleep(60)
        if self.name == "once" and self.crashes == 0:
            os._exit(1)
        if self.name.startswith("bad"):
            raise LnbenchError(f"{self.name} failed")
        return f"{self.name} in {os.getpid()}"


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return Slurm(cluster="local", workers=2, folder=str(tmp_path / "slurm"))


@pytest.mark.processes
def test_the_records_are_those_of_one_process(
    local: Slurm, given: dict[str, Any], undisturbed: Path, tmp_path: Path
) -> None:
    with local as executor:
        outcome = running.run(spec_of(given), tmp_path / "run", executor, Console(quiet=True))
    assert outcome.failed == {}
    assert comparable(tmp_path / "run") == comparable(undisturbed)
    assert not list((tmp_path / "slurm" / "results").iterdir())


class Forked:
    """In place of a Slurm job: a copy of this process, which starts at once."""

    def __init__(self, part: Any) -> None:
        self.job_id, self.code = str(id(self)), None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                part()
            finally:
                os._exit(0)

    def done(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def exception(self) -> Exception | None:
        return RuntimeError(f"ended with {self.code}") if self.code else None

    def cancel(self) -> None:
        if not self.done():
            os.kill(self.pid, signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_errors_and_crashes_fail_alone(tmp_path: Path) -> None:
    jobs = [Small(name) for name in ("one", "bad two", "deadly three", "four", "once", "six")]
    submission = _Submission(SimpleNamespace(batch=nullcontext, submit=Forked), tmp_path, 0.01)
    found = {job.name: result for job, result in submission.each(_chunks(jobs, 2))}  # type: ignore[arg-type,attr-defined]
    assert set(found) == {job.name for job in jobs}
    assert isinstance(found["deadly three"], CrashedError)
    assert "ended with 1" in str(found["deadly three"])
    assert str(found["bad two"]) == "bad two failed"
    for name in ("one", "four", "once", "six"):
        assert found[name].startswith(f"{name} in "), found[name]
    assert str(os.getpid()) not in found["one"]
    assert not list((tmp_path / "results").iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_what_runs_is_cancelled_when_nobody_waits_any_more(tmp_path: Path) -> None:
    submission = _Submission(SimpleNamespace(batch=nullcontext, submit=Forked), tmp_path, 0.01)
    ended = submission.each([[Small("one")], [Small("slow")]])  # type: ignore[list-item]
    assert next(ended)[0] == Small("one")
    (slow,) = [handle for handle, part in submission._running if part.jobs == (Small("slow"),)]
    submission.cancel()
    os.waitpid(slow.pid, 0)


@drawn(
    loadings=st.lists(st.sampled_from("ab"), min_size=1, max_size=12),
    workers=st.integers(1, 5),
)
def test_parts_are_of_one_model_and_leave_nothing_out(loadings: list[str], workers: int) -> None:
    jobs = [Small(str(number), loading) for number, loading in enumerate(loadings)]
    parts = _chunks(jobs, workers)  # type: ignore[arg-type]
    assert [job for part in parts for job in part] == jobs
    assert all(len({job.loading for job in part}) == 1 for part in parts)
    assert all(len(part) <= -(-len(jobs) // workers) for part in parts)


def test_what_it_asks_for() -> None:
    chosen = get_host().resolve("executor", "slurm:workers=8:gpus=2:memory=80:partition=long:minutes=90")
    said = chosen.describe()
    for part in ("8 at a time", "gpus_per_node=2", "mem_gb=80", "slurm_partition=long", "timeout_min=90"):
        assert part in said
    assert "account" not in said


def test_a_machine_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with refused("sbatch", "slurm:cluster=local"), Slurm():
        pass
