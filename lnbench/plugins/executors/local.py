"""The executor of one process: jobs one after the other, each model loaded once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic.dataclasses import dataclass

from lnbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from lnbench.sweeps.jobs import Job, Process

log = logging.getLogger(__name__)


@dataclass
class Local:
    """Run everything in this process; a model that was loaded stays for what follows."""

    workers = 1
    here = True

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
        for job in jobs:
            try:
                result = job.run(self.process)
            except Exception as error:
                log.info("%s failed", type(job).__name__, exc_info=error)
                result = error
            yield job, result

    @cached_property
    def process(self) -> Process:
        from lnbench.sweeps.jobs import Process

        return Process()


@hookimpl
def lnbench_register_executors(register: Callable[[str, Any], None]) -> None:
    register("local", Local)
