"""Small sweeps on the tiny model, run here or in a child that can be killed; and how their records are compared."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import sys
from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.utils import collect_env

from lnbench.errors import LnbenchError
from lnbench.plugins.executors.local import Local
from lnbench.sweeps import run_sweep as running
from lnbench.sweeps.records import FILE, Record, load
from lnbench.sweeps.run_sweep import Outcome
from lnbench.sweeps.spec import Sweep, parse

torch.set_num_threads(1)
# It asks pip for all packages, which takes seconds; here nobody reads it.
collect_env.get_pretty_env_info = lambda: "a test"

_OWN = {"seconds", "finished_at", "samples", "results"}
"""Fields in which two runs of one spec differ."""


def spec_of(given: dict[str, Any], **changes: Any) -> Sweep:
    """Two languages, one task, three interventions and a control: ten cells."""
    return parse(
        {
            "models": [given["pretrained"]],
            "selectors": [given["selector"]],
            "corpus": given["corpus"],
            "corpus_tokens": given["corpus_tokens"],
            "interventions": ["none", "p10", "zero"],
            "languages": ["en", "hi"],
            "tasks": ["lnbench_demo_continuation_{lang}"],
            "limit": 2,
            "controls": 1,
            "batch_size": 4,
            **changes,
        }
    )


def sweep(spec: Sweep, out: Path) -> Outcome:
    """Run a sweep in this process, in silence."""
    return running.run(spec, out, Local(), Console(quiet=True))


def comparable(records: Path | Iterable[Record]) -> list[str]:
    """Records without what differs between runs, in one order."""
    found = load(records / FILE) if isinstance(records, Path) else records
    return sorted(record.model_dump_json(exclude=_OWN) for record in found)


def child(target: Any, *arguments: Any) -> BaseProcess:
    """Start a function in a process of its own, which has everything imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lnbench.sweeps.run_sweep", "lnbench.sweeps.worker", "lm_eval.__main__"])
    process = context.Process(target=_with_environment, args=(dict(os.environ), target, *arguments))
    process.start()
    return process


def _with_environment(environment: dict[str, str], target: Any, *arguments: Any) -> None:
    os.environ.update(environment)
    target(*arguments)


DISK_WAS_FULL = 3


def sweep_with_small_disk(spec: Sweep, out: Path, file_bytes: int) -> None:
    """Run a sweep in which no file can grow beyond so many bytes; exit with :data:`DISK_WAS_FULL` if it says so."""
    logging.disable()  # what other tests made lm-eval say would not fit, either
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    try:
        sweep(spec, out)
    except LnbenchError as error:
        sys.exit(DISK_WAS_FULL if "disk" in str(error) or "File too large" in str(error) else 1)
