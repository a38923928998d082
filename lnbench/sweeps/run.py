"""Run a sweep: what is finished already stays, the rest goes to an executor, and every result is kept as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console
from tqdm import tqdm

from lnbench.files import sole_use
from lnbench.sweeps import records
from lnbench.sweeps.cells import Cell, Loading, plan
from lnbench.sweeps.folder import clear_unfinished, save_spec, sort_out
from lnbench.sweeps.loadings import Training, loadings
from lnbench.sweeps.records import Record
from lnbench.sweeps.spec import Sweep

_SHOWN_METRICS = 2


class Executor(Protocol):
    """Where cells and fine-tunings are run. It writes nothing but their own folders."""

    def train(self, trainings: Sequence[Training]) -> Iterator[tuple[Training, Path]]:
        """Each fine-tuning with its adapter's folder, as they end."""

    def run(self, cells: Sequence[Cell], out: Path) -> Iterator[tuple[Cell, list[Record]]]:
        """Each cell with its records, as they end."""


@dataclass(frozen=True)
class Outcome:
    """What a sweep has come to."""

    cells: int
    measured: int
    """In this run; the others were finished already."""
    failed: dict[str, str]
    """Cell → error."""


def planned(spec: Sweep, out: Path) -> list[Cell]:
    """The cells of a spec, before anything is run."""
    return plan(spec, [one.loading if isinstance(one, Training) else one for one in loadings(spec, out)])


def run(spec: Sweep, out: Path, executor: Executor, console: Console | None = None) -> Outcome:
    """Measure every cell of a spec that is not measured yet. Cells that failed before are tried again.

    Args:
        spec: The spec.
        out: Folder for ``records.jsonl``, ``cells/`` and ``finetune/``; one process at a time.
        executor: Where cells are run.
        console: Where to talk.

    Raises:
        LnbenchError: the spec cannot be run, the folder is in use, or results cannot be written. What is finished
            stays; the same call goes on from there.
    """
    console = console or Console(stderr=True)
    with sole_use(out):
        cells = plan(spec, _trained(loadings(spec, out), executor, console))
        save_spec(out, spec)
        clear_unfinished(out)
        kept, said = sort_out(out, [cell.key for cell in cells])
        for line in said:
            console.print(line, highlight=False)
        finished = {record.cell for record in kept if not record.failed}
        todo = [cell for cell in cells if cell.key not in finished]
        console.print(f"{len(cells)} cells, {len(cells) - len(todo)} of them finished: {out}", highlight=False)
        failed: dict[str, str] = {}
        with tqdm(total=len(cells), initial=len(cells) - len(todo), unit="cell", desc="cells") as bar:
            for cell, lines in executor.run(todo, out):
                records.append(out / records.FILE, lines)
                failed |= {line.cell: f"{cell.slug}: {line.error}" for line in lines if line.failed}
                bar.set_postfix_str(_result(cell, lines), refresh=False)
                bar.update()
    return Outcome(len(cells), len(todo), failed)


def _trained(wanted: Sequence[Loading | Training], executor: Executor, console: Console) -> list[Loading]:
    trainings = [one for one in wanted if isinstance(one, Training)]
    adapters: dict[Path, Path] = {}
    for training, adapter in executor.train(trainings):
        adapters[training.job.out] = adapter
        console.print(f"fine-tuning {training.loading.finetune}: {adapter}", highlight=False)
    return [one.finished(adapters[one.job.out]) if isinstance(one, Training) else one for one in wanted]


def _result(cell: Cell, lines: Sequence[Record]) -> str:
    """The last result, for the progress bar."""
    named = f"{'+'.join(cell.languages)} {cell.selector} {cell.intervention}"
    if lines[0].failed:
        return f"{named}: failed"
    shown = [f"{line.metric} {line.value:.3f}" for line in lines[:_SHOWN_METRICS] if line.value is not None]
    return f"{named}: {', '.join(shown)}"
