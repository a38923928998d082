"""Run one cell through lm-eval on a loaded model, and keep lm-eval's own files of it."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from io import FileIO, TextIOWrapper
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager
from torch.utils import collect_env

from lnbench.lm.experiment import Experiment
from lnbench.lm.model import LNBenchLM
from lnbench.paths import tasks_dir

# lm-eval asks pip and the hardware at every invocation, though neither changes between cells.
collect_env.get_pretty_env_info = functools.cache(collect_env.get_pretty_env_info)


def evaluate(
    lm: LNBenchLM,
    tasks: Sequence[str],
    arguments: Mapping[str, Any],
    *,
    task_manager: TaskManager,
    limit: int | None = None,
    output_path: Path | None = None,
) -> dict[str, Any]:
    """One lm-eval invocation, in this process and on a model that is loaded already.

    Args:
        lm: The model; it takes up ``arguments`` as its experiment.
        tasks: Task names.
        arguments: The lnbench part of ``--model_args``.
        task_manager: Where lm-eval finds the tasks; shared by all invocations.
        limit: Documents a task, as lm-eval's ``--limit``.
        output_path: Where lm-eval writes its results and samples, and ``lm_eval.log`` what it says.

    Returns:
        lm-eval's results, with samples.
    """
    lm.configure(Experiment(**arguments))
    tracker = EvaluationTracker(output_path=str(output_path) if output_path is not None else None)
    with _said_to(output_path / "lm_eval.log" if output_path is not None else None):
        results: dict[str, Any] = lm_eval.simple_evaluate(
            model=lm,
            model_args=dict(arguments),
            tasks=list(tasks),
            limit=limit,
            task_manager=task_manager,
            batch_size=lm.batch_size,
            log_samples=True,
            evaluation_tracker=tracker,
        )
        if output_path is not None:
            samples = results["samples"]
            shown = {key: value for key, value in results.items() if key != "samples"}
            tracker.save_results_aggregated(results=shown, samples=samples)
            for task, rows in samples.items():
                tracker.save_results_samples(task_name=task, samples=rows)
    return results


def command(
    tasks: Sequence[str], arguments: Mapping[str, Any], *, limit: int | None, batch_size: int | str | None
) -> str:
    """The shell command that gives the same numbers by hand."""
    parts = [
        "lm_eval",
        "--model",
        "lnbench",
        "--model_args",
        ",".join(f"{key}={value}" for key, value in arguments.items()),
    ]
    parts += ["--include_path", str(tasks_dir()), "--tasks", ",".join(tasks)]
    parts += ["--limit", str(limit)] if limit is not None else []
    parts += ["--batch_size", str(batch_size)] if batch_size is not None else []
    return shlex.join(parts)


@contextmanager
def _said_to(log: Path | None) -> Iterator[None]:
    """Send what lm-eval and the programs it starts print on stderr to a file, or nowhere."""
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(log or os.devnull).open("ab") as target:
        os.dup2(target.fileno(), 2)
        try:
            with target, TextIOWrapper(FileIO(os.dup(2), "w"), write_through=True) as stream, redirect_stderr(stream):
                yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
