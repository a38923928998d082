"""Run lm-eval in this process on a model that is loaded already, and keep lm-eval's own files of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import FileIO, TextIOWrapper
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

from lnbench import quiet
from lnbench.errors import LnbenchError
from lnbench.files import tasks_dir
from lnbench.lm import compat
from lnbench.lm.experiment import Experiment
from lnbench.lm.lnbench_lm import LNBenchLM
from lnbench.model.names import name_of


class UnwrittenError(LnbenchError):
    """Results that could not be written, as on a full disk; to continue would lose more."""


class Tasks(TaskManager):  # type: ignore[misc]
    """lm-eval's tasks, each loaded, prompted and tokenised once, for as many invocations as there are.

    The tasks that come with lm-eval are indexed when one of them is first asked for, as that takes longer than a small
    cell.

    Args:
        include_path: The user's folder of tasks, beside ours; if both have a name, the user's wins.
        metadata: As lm-eval's ``--metadata``.
    """

    def __init__(self, include_path: str | None = None, *, metadata: Mapping[str, Any] | None = None) -> None:
        self._options: dict[str, Any] = {
            "include_path": [str(tasks_dir()), *([include_path] if include_path else [])],
            "metadata": dict(metadata or {}),
        }
        super().__init__(**self._options, include_defaults=False)
        self._complete = False
        self._loaded: dict[tuple[str, ...], Any] = {}

    def has(self, name: str) -> bool:
        """Return whether there is a task, group or tag of this name."""
        if not self._complete and not self._is_known_in_full(name):
            super().__init__(**self._options)
            self._complete = True
        return name in self.task_index

    def _is_known_in_full(self, name: str) -> bool:
        entry = self.task_index.get(name)
        if entry is None:
            return name.startswith("lnbench_")
        # A group or tag of the user's may have lm-eval's tasks in it; ours have our own.
        ours = entry.yaml_path is not None and entry.yaml_path.is_relative_to(tasks_dir())
        return ours or compat.is_single_task(entry)

    def load(self, task_list: Any) -> Any:
        """Load as lm-eval does; the same tasks are handed out again."""
        key = tuple(task_list)
        if key not in self._loaded:
            for name in key:
                self.has(name)
            self._loaded[key] = super().load(task_list)
            for task in self._loaded[key]["tasks"].values():
                compat.keep_requests(task)
        return self._loaded[key]


def evaluate(
    lm: LNBenchLM,
    task: str,
    arguments: Mapping[str, Any],
    *,
    task_manager: Tasks,
    output_path: Path,
    model_args: Mapping[str, Any],
    **options: Any,
) -> dict[str, Any]:
    """Run one lm-eval invocation, in this process and on a model that is loaded already.

    Args:
        lm: The model; it takes up ``arguments`` as its experiment.
        task: Name of a task, group or tag.
        arguments: The lnbench part of ``--model_args``.
        task_manager: Where lm-eval finds the task; shared by all invocations.
        output_path: Where lm-eval writes its results and samples, and ``lm_eval.log`` what it says.
        model_args: All of ``--model_args``, for the results.
        options: Of ``lm_eval.simple_evaluate``, as ``limit``.

    Returns:
        lm-eval's results, with samples.

    Raises:
        UnwrittenError: lm-eval's files did not come out whole.
    """
    lm.configure(Experiment(**arguments))
    tracker = EvaluationTracker(output_path=str(output_path))
    with redirect_output(output_path / "lm_eval.log"):
        results: dict[str, Any] = lm_eval.simple_evaluate(
            model=lm,
            model_args=dict(model_args),
            tasks=[task],
            task_manager=task_manager,
            batch_size=lm.batch_size,
            log_samples=True,
            evaluation_tracker=tracker,
            **options,
        )
        samples = results["samples"]
        compat.name_folder(tracker, name_of(str(model_args.get("pretrained", ""))))
        shown = {key: value for key, value in results.items() if key != "samples"}
        tracker.save_results_aggregated(results=shown, samples=samples)
        for name, rows in samples.items():
            tracker.save_results_samples(task_name=name, samples=rows)
    _check_written(output_path, {name: len(rows) for name, rows in samples.items()})
    return results


def results_file(folder: Path) -> Path:
    """Return lm-eval's results in the output path of one invocation.

    Raises:
        UnwrittenError: there are none.
    """
    results = max(folder.glob("*/results_*.json"), default=None)
    if results is None:
        raise UnwrittenError(f"lm-eval left no results in {folder}: the disk may be full, or the folder not writable")
    return results


def samples_file(folder: Path, task: str) -> Path:
    """Return lm-eval's samples of a task in the output path of one invocation."""
    results = results_file(folder)
    return results.with_name(f"samples_{task}_{results.stem.removeprefix('results_')}.jsonl")


def _check_written(folder: Path, samples: Mapping[str, int]) -> None:
    """Check lm-eval's files, since lm-eval only warns when it cannot write them."""
    try:
        json.loads(results_file(folder).read_bytes())
        for task, rows in samples.items():
            if samples_file(folder, task).read_bytes().count(b"\n") != rows:
                raise UnwrittenError(f"lm-eval's samples of {task} in {folder} are cut off: the disk may be full")
    except (OSError, json.JSONDecodeError) as error:
        raise UnwrittenError(f"lm-eval's results in {folder} are cut off ({error}): the disk may be full") from error


@contextmanager
def redirect_output(log: Path) -> Iterator[None]:
    """Send what lm-eval prints, and what the programs it starts print on stderr, to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    kept = os.dup(2)
    with log.open("ab") as target:
        os.dup2(target.fileno(), 2)
        try:
            with (
                target,
                quiet.lifted(),
                TextIOWrapper(FileIO(os.dup(2), "w"), encoding="utf-8", write_through=True) as stream,
                redirect_stderr(stream),
                redirect_stdout(stream),
            ):
                yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
