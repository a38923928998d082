"""Run cells one after the other in one process: the model, the tasks and the Statistics stay loaded between them."""

from __future__ import annotations

import gc
import logging
import math
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lnbench.errors import LnbenchError, one_line_error
from lnbench.files import fingerprint, sync
from lnbench.language_control.questions import is_of_pairs, source_of
from lnbench.lm import LNBenchLM
from lnbench.lm.evaluate import Tasks, UnwrittenError, evaluate, results_file, samples_file
from lnbench.sweeps.cells import Cell, Loading
from lnbench.sweeps.crashes import ATTEMPTS, disk_error
from lnbench.sweeps.folder import CELLS
from lnbench.sweeps.records import Record
from lnbench.sweeps.spec import Invocation
from lnbench.sweeps.statistics_jobs import Counting, count, merge_shards

if TYPE_CHECKING:
    from lnbench.sweeps.model_variants import Training

log = logging.getLogger(__name__)
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "bad allocation")
_FIRST_RETRY = 8
"""Batch size of the first retry where none was found for the memory there is."""
_SEEDS = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
"""What lm_eval's ``--seed`` with one number sets."""
_OF_THE_MODEL = ("revision", "dtype", "quantization", "weights")


class Worker:
    """Runs cells on one model at a time.

    Args:
        out: The folder of the run.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._tasks: dict[str, Tasks] = {}
        self._loading: Loading | None = None
        self._lm: LNBenchLM | None = None
        self._fits: int | None = None
        self._refused: LnbenchError | None = None

    def run(self, cell: Cell) -> list[Record]:
        """Measure one cell; its files are in the run's folder when this returns.

        Returns:
            The cell's records; where it failed, one that says why.

        Raises:
            UnwrittenError: the results could not be written; a later run measures the cell again.
        """
        started = time.monotonic()
        try:
            records = list(self._measured(cell, self._evaluated(cell)))
            if not records:
                raise LnbenchError(f"{cell.task} has no metric: its tasks need a metric_list")
        except UnwrittenError:
            raise
        except Exception as error:
            if full := disk_error(error):
                raise UnwrittenError(one_line_error(error if isinstance(error, LnbenchError) else full)) from error
            log.info("cell %s failed", cell.slug, exc_info=error)
            records = [cell.failure(one_line_error(error)).model_copy(update=self._described(cell))]
        about = {"lines": len(records), "seconds": round(time.monotonic() - started, 3)}
        return [record.model_copy(update=about) for record in records]

    def count(self, counting: Counting) -> None:
        """Put Statistics, or a shard of them, into the cache."""
        count(self.load(counting.loading, counting.cell.invocation), counting)

    def merge_shards(self, counting: Counting) -> None:
        """Make Statistics in the cache from their shards."""
        merge_shards(self.load(counting.loading, counting.cell.invocation), counting)

    def train(self, training: Training) -> Path:
        """Run a fine-tuning; another worker may be at the same one."""
        try:
            return training.job.run(wait=True)
        finally:
            _free_memory()

    def load(self, loading: Loading, invocation: Invocation) -> LNBenchLM:
        """Return a model, loaded unless it is there already; one that cannot be loaded is not tried again.

        Raises:
            LnbenchError: it cannot be loaded.
        """
        if self._loading != loading:
            self._lm = self._refused = self._fits = None
            _free_memory()
            self._loading = loading
            try:
                self._lm = LNBenchLM(**loading.arguments, batch_size=invocation.batch_size, device=invocation.device)
                self._lm.remember()
            except Exception as error:
                if disk_error(error):
                    self._loading = None
                    raise
                log.info("cannot load %s", loading.model, exc_info=error)
                # Without its cause, which would hold what was loaded so far.
                self._refused = LnbenchError(f"cannot load {loading.model}: {one_line_error(error)}")
        if self._lm is None:
            assert self._refused is not None
            raise self._refused
        return self._lm

    def _evaluated(self, cell: Cell) -> dict[str, Any]:
        """Return lm-eval's results, tried with smaller batches until they fit the memory."""
        lm = self.load(cell.loading, cell.invocation)
        size = 1 if cell.crashes >= ATTEMPTS - 1 else cell.invocation.batch_size
        if self._fits is not None:
            size = self._fits if isinstance(size, str) else min(size, self._fits)
        while True:
            lm.batch_size_per_gpu = size
            try:
                return self._attempt(lm, cell)
            except (MemoryError, RuntimeError) as error:
                tried = (lm.last_batch_size or 2 * _FIRST_RETRY) if isinstance(size, str) else size
                if not _is_out_of_memory(error) or tried == 1:
                    raise
                self._fits = tried // 2
                log.warning("out of memory with batch_size=%s, trying %s: %s", size, self._fits, cell.slug)
                size = self._fits
            # Outside the handler, where the error no longer holds what filled the memory.
            _free_memory()

    def _attempt(self, lm: LNBenchLM, cell: Cell) -> dict[str, Any]:
        folder = self.out / CELLS / cell.slug
        # Not the folder itself, in which a kill would leave half of a cell.
        unfinished = folder.with_name(f".{folder.name}-{socket.gethostname()}-{os.getpid()}")
        shutil.rmtree(unfinished, ignore_errors=True)
        options = cell.invocation
        try:
            results = evaluate(
                lm,
                cell.task,
                cell.arguments,
                task_manager=self._manager(cell),
                output_path=unfinished,
                model_args=cell.model_args,
                limit=options.limit,
                num_fewshot=options.num_fewshot,
                apply_chat_template=options.apply_chat_template,
                system_instruction=options.system_instruction,
                gen_kwargs=dict(options.gen_kwargs) or None,
                device=options.device,
                **({} if cell.seed is None else dict.fromkeys(_SEEDS, cell.seed)),
            )
            sync(unfinished)
        except BaseException:
            # What is left behind says that the process died.
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        return results

    def _manager(self, cell: Cell) -> Tasks:
        loading, options = cell.loading, cell.invocation
        # Prompts depend on the tokenizer and its chat template, and tasks may read any model argument.
        arguments = {"pretrained": loading.model, **loading.options}
        if is_of_pairs(cell.task):
            arguments |= {name: cell.arguments[name] for name in ("language", "source") if name in cell.arguments}
        key = fingerprint(arguments)
        if key not in self._tasks:
            self._tasks[key] = Tasks(options.include_path, metadata={**arguments, **options.metadata})
        return self._tasks[key]

    def _measured(self, cell: Cell, results: Mapping[str, Any]) -> Iterator[Record]:
        """Yield one record per language, task and metric."""
        folder = self.out / CELLS / cell.slug
        info = results["config"].get("lnbench", {})
        about = self._described(cell) | {
            "results": str(results_file(folder).relative_to(self.out)),
            "neuron_set": (info.get("neuron_set") or {}).get("fingerprint"),
            "bos": info.get("bos"),
        }
        prompts = info.get("prompts") or {}
        for language in cell.languages:
            about |= {"language": language, "statistics": (info.get("statistics_fingerprints") or {}).get(language)}
            about |= _account(info, language)
            for task in results["samples"]:
                about |= {
                    "task": task,
                    "source": cell.source or source_of(task),
                    "n": results["n-samples"][task]["effective"],
                    "requests": prompts.get(task, {}).get("requests"),
                    "cut_prompts": prompts.get(task, {}).get("cut"),
                    "samples": str(samples_file(folder, task).relative_to(self.out)),
                }
                for metric, value, stderr in _metrics(results["results"][task]):
                    yield Record.model_validate({**about, "metric": metric, "value": value, "stderr": stderr})

    def _described(self, cell: Cell) -> dict[str, Any]:
        """Return what all records of a cell say, with what is known of the loaded model."""
        if self._lm is None:
            return cell.described
        size = self._lm.batch_size
        asked = replace(cell, invocation=cell.invocation.model_copy(update={"batch_size": size}))
        return asked.described | {name: self._lm.described.get(name) for name in _OF_THE_MODEL}


def _account(info: Mapping[str, Any], language: str) -> dict[str, float | None]:
    """Return how many neurons ``language`` has, and which share is tied, its own, and all languages', if known."""
    neuron_set = info.get("neuron_set") or {}
    own = ((neuron_set.get("account") or {}).get("languages") or {}).get(language) or {}
    shares = {f"neurons_{name}": own.get(f"share_{name}") for name in ("tied", "own", "common")}
    return {"neurons": (neuron_set.get("neurons") or {}).get(language), **shares}


def _metrics(results: Mapping[str, Any]) -> Iterator[tuple[str, float | None, float | None]]:
    """Yield ``(metric, value, standard error)`` of one task's results, which lm-eval names ``metric,filter``."""
    for key, value in results.items():
        name, comma, filter_name = key.partition(",")
        if comma and not name.endswith("_stderr"):
            stderr = results.get(f"{name}_stderr,{filter_name}")
            yield name if filter_name == "none" else key, _number(value), _number(stderr)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        sign in str(error).lower() for sign in _OUT_OF_MEMORY
    )


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
