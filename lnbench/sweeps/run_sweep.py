"""Run a sweep: what is finished already stays, the rest goes to an executor, and every result is kept as it comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lnbench.errors import LnbenchError, one_line_error
from lnbench.interruption import reached
from lnbench.locks import exclusive_lock
from lnbench.progress import Bar
from lnbench.statistics.corpus_statistics import WHOLE
from lnbench.sweeps import needs, records
from lnbench.sweeps.cells import Cell, Loading, plan
from lnbench.sweeps.crashes import ATTEMPTS, CrashedError, consecutive_crashes, disk_error
from lnbench.sweeps.folder import clear_unfinished, reconcile, save_spec
from lnbench.sweeps.jobs import Job
from lnbench.sweeps.model_variants import Training, loadings
from lnbench.sweeps.records import Record
from lnbench.sweeps.spec import Sweep
from lnbench.sweeps.statistics_jobs import check_texts, countings

if TYPE_CHECKING:
    from lnbench.hookspecs import Executor

_SHOWN_METRICS = 2


@dataclass(frozen=True)
class Outcome:
    """The counts of a sweep that ended."""

    cells: int
    measured: int
    """In this run; the others were finished already."""
    failed: dict[str, str]
    """Cell → error."""


def planned(spec: Sweep, out: Path) -> list[Cell]:
    """Return the cells of a spec, before anything is run."""
    variants = loadings(spec, out)
    return plan(spec, [variant.loading if isinstance(variant, Training) else variant for variant in variants])


def planned_commands(spec: Sweep, out: Path) -> Iterator[str]:
    """Yield the commands that do by hand what a spec asks for, each fine-tuning before the cells that need it."""
    variants = loadings(spec, out)
    trainings = {str(variant.job.out): variant for variant in variants if isinstance(variant, Training)}
    for cell in planned(spec, out):
        if (training := trainings.pop(cell.loading.adapter or "", None)) is not None:
            yield training.command
        yield cell.command


def run(
    spec: Sweep,
    out: Path,
    executor: Executor,
    console: Console | None = None,
    *,
    further: Sequence[Sweep] = (),
    order: Callable[[Cell], Any] | None = None,
    watch: Callable[[Cell, Sequence[Record], Sequence[Cell]], None] | None = None,
) -> Outcome:
    """Measure every cell of a spec that is not measured yet. Cells that failed before are tried again.

    Args:
        spec: The spec.
        out: Folder for ``records.jsonl``, ``cells/`` and ``finetune/``; one process at a time.
        executor: Where cells are run.
        console: Where to talk.
        further: Specs of the same models whose cells are run beside those of ``spec``.
        order: Returns what cells are sorted by before they are run, in place of the order of the spec; in the end, the
            records have that of the spec.
        watch: Is called with each cell that has ended, its records and the cells that are left, in place of an estimate
            and a progress bar; first with those that were finished before.

    Raises:
        LnbenchError: the spec cannot be run, the folder is in use, or results cannot be written. What is finished
            stays; the same call continues from there.
    """
    console = console or Console(stderr=True)
    with exclusive_lock(out):
        measured, untrained = _trained(loadings(spec, out), out, executor, console)
        cells = list({cell.key: cell for one in (spec, *further) for cell in plan(one, measured)}.values())
        in_spec = {cell.key: number for number, cell in enumerate(cells)}
        cells = cells if order is None else sorted(cells, key=order)
        save_spec(out, spec)
        kept, repairs = reconcile(out, cells)
        for repair in repairs:
            console.print(repair, highlight=False)
        finished = {record.cell for record in kept if not record.failed}
        todo = [cell for cell in cells if cell.key not in finished]
        crashes = consecutive_crashes(out, todo)
        todo = [replace(cell, crashes=crashes.get(cell.key, 0)) for cell in todo]
        clear_unfinished(out)
        check_texts(todo)
        if getattr(executor, "here", False) and watch is None:
            needs.check(todo, out, console)
        console.print(f"{len(cells)} cells, {len(cells) - len(todo)} of them finished: {out}", highlight=False)
        failed: dict[str, str] = {}
        left = {cell.key: cell for cell in todo}
        if watch is not None:
            for cell in cells:
                if lines := [record for record in kept if record.cell == cell.key and cell.key not in left]:
                    watch(cell, lines, todo)
        bar = Bar(
            total=len(cells), initial=len(cells) - len(todo), unit="cell", desc="cells", disable=watch is not None
        )
        with bar:
            for cell, lines in _results(todo, untrained, executor, out):
                records.append(out / records.FILE, lines)
                failed |= {line.cell: f"{cell.slug}: {line.error}" for line in lines if line.failed}
                del left[cell.key]
                if watch is not None:
                    watch(cell, lines, list(left.values()))
                bar.set_postfix_str(_result(cell, lines), refresh=False)
                bar.update()
                reached(f"{len(cells) - len(left)} of {len(cells)} cells")
        if order is not None:
            # Tables and pages have the order of the records.
            ended = records.load(out / records.FILE)
            records.replace(out / records.FILE, sorted(ended, key=lambda record: in_spec[record.cell]))
    return Outcome(len(cells), len(todo), failed)


def _trained(
    variants: Sequence[Loading | Training], out: Path, executor: Executor, console: Console
) -> tuple[list[Loading], dict[str | None, str]]:
    """Return what is to be loaded, in order, and adapter → error of the fine-tunings that failed."""
    trainings = [variant for variant in variants if isinstance(variant, Training)]
    finished: dict[Path, Loading] = {}
    failed: dict[str | None, str] = {}
    for job, adapter in executor.run([Job("train", training, out) for training in trainings]):
        training: Training = job.item
        name = training.loading.finetune
        if isinstance(adapter, Exception):
            if full := disk_error(adapter):
                raise LnbenchError(f"finetune.{name}: {one_line_error(full)}; run the same command again") from adapter
            line = failed[training.loading.adapter] = f"fine-tuning {name} failed: {one_line_error(adapter)}"
        else:
            finished[training.job.out] = training.finished(adapter)
            line = f"fine-tuning {name}: {adapter}"
        console.print(line, highlight=False, markup=False)
    measured = [
        finished.get(variant.job.out, variant.loading) if isinstance(variant, Training) else variant
        for variant in variants
    ]
    return measured, failed


def _results(
    cells: Sequence[Cell], untrained: Mapping[str | None, str], executor: Executor, out: Path
) -> Iterator[tuple[Cell, list[Record]]]:
    """Yield the cells with their records: first those that need not be tried."""
    left = []
    for cell in cells:
        if cell.loading.adapter in untrained:
            yield cell, [cell.failure(untrained[cell.loading.adapter])]
        elif cell.crashes >= ATTEMPTS:
            reason = f"skipped after {ATTEMPTS} crashes, probably out of memory"
            yield cell, [cell.failure(f"{reason}: lower batch_size; the next run retries it")]
        else:
            left.append(cell)
    _count(left, executor, out)
    for job, result in executor.run([Job("run", cell, out) for cell in left]):
        if isinstance(result, CrashedError):
            yield job.item, [job.item.failure(str(result))]
        elif isinstance(result, Exception):
            # A worker keeps failures to itself, except those that end the sweep.
            raise result
        else:
            yield job.item, result


def _count(cells: Sequence[Cell], executor: Executor, out: Path) -> None:
    """Put what several workers would all count into the cache first, each piece once."""
    workers = min(executor.workers, len(cells))
    if workers < 2:
        return
    counted = countings(cells, workers)
    # Where Statistics cannot be had, the cells that need them say so.
    deque(executor.run([Job("count", counting, out) for counting in counted]), maxlen=0)
    first_shards = [counting for counting in counted if counting.shard != WHOLE and counting.shard[0] == 0]
    deque(executor.run([Job("merge_shards", counting, out) for counting in first_shards]), maxlen=0)


def _result(cell: Cell, lines: Sequence[Record]) -> str:
    """Return the last result, for the progress bar."""
    named = f"{'→'.join(filter(None, (cell.source, '+'.join(cell.languages))))} {cell.selector} {cell.intervention}"
    if lines[0].failed:
        return f"{named}: failed"
    shown = [f"{line.metric} {line.value:.3f}" for line in lines[:_SHOWN_METRICS] if line.value is not None]
    return f"{named}: {', '.join(shown)}"
