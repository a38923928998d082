"""Executors: the built-in local one, one of a plugin, and the policies that all share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic.dataclasses import dataclass
from rich.console import Console

from lnbench.hookspecs import hookimpl
from lnbench.host import get_host
from lnbench.plugins.executors.local import Local
from lnbench.sweeps import run_sweep
from lnbench.sweeps.cells import Loading
from lnbench.sweeps.crashes import ATTEMPTS, CrashedError, after_crash
from lnbench.sweeps.jobs import Job, Process, executor_of, next_job
from tests.support.sweeps import comparable, spec_of, sweep


@dataclass
class LastFirst:
    """Run everything in this process, the last job first."""

    workers: int = 2

    def __enter__(self) -> LastFirst:
        self.entered = True
        return self

    def __exit__(self, *_: object) -> None:
        self.entered = False

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
        assert self.entered
        process = Process()
        for job in reversed(jobs):
            yield job, job.run(process)


class Plugin:
    @hookimpl
    def lnbench_register_executors(self, register: Any) -> None:
        register("last_first", LastFirst)


@pytest.fixture
def plugin() -> Iterator[None]:
    added = Plugin()
    get_host().register(added, name="executors")
    yield
    get_host().unregister(added)


@plain_dataclass(frozen=True)
class Model:
    """What a job is done with, in place of a cell."""

    loading: Loading
    by: int = 1


class Division(Job):
    """A job that needs no worker."""

    def run(self, process: Process) -> int:
        return 2 // int(self.item.by)


def job(model: str = "a", by: int = 1) -> Job:
    return Division("run", Model(Loading(model, {}), by), Path())


def test_a_job_that_fails_is_a_result() -> None:
    (_, result), (_, error) = Local().run([job(by=1), job(by=0)])
    assert result == 2
    assert isinstance(error, ZeroDivisionError)


@pytest.mark.usefixtures("plugin")
def test_an_executor_of_a_plugin_gives_the_same_records(given: dict[str, Any], tmp_path: Path) -> None:
    spec = spec_of(given, interventions=["none", "zero"])
    sweep(spec, tmp_path / "local")
    with executor_of("last_first:workers=3") as executor:
        outcome = run_sweep.run(spec, tmp_path / "plugin", executor, Console(quiet=True))
    assert outcome.failed == {}
    assert comparable(tmp_path / "plugin") == comparable(tmp_path / "local")


def test_a_job_is_tried_so_often_and_then_given_up() -> None:
    tried: Any = job()
    for crashes in range(1, ATTEMPTS):
        tried = after_crash(tried, RuntimeError("gone"))
        assert tried.crashes == crashes
    assert isinstance(after_crash(tried, RuntimeError("gone")), CrashedError)


def test_the_next_job_is_one_for_what_is_loaded() -> None:
    jobs = [job(name) for name in "abc"]
    loaded = [Loading(name, {}) for name in "abc"]
    assert next_job(jobs, loaded[1], []) == 1
    assert next_job(jobs, None, loaded[:2]) == 2
    assert next_job(jobs, None, loaded) == 0
