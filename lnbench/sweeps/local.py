"""The executor of one process: cells one after the other, each model loaded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lnbench.sweeps.cells import Cell
from lnbench.sweeps.records import Record

if TYPE_CHECKING:
    from lnbench.sweeps.loadings import Training


class InProcess:
    """Runs cells and fine-tunings in this process."""

    def train(self, trainings: Sequence[Training]) -> Iterator[tuple[Training, Path]]:
        """See :class:`lnbench.sweeps.run.Executor`."""
        for training in trainings:
            yield training, training.job.run()

    def run(self, cells: Sequence[Cell], out: Path) -> Iterator[tuple[Cell, list[Record]]]:
        """See :class:`lnbench.sweeps.run.Executor`."""
        if not cells:
            return
        from lnbench.sweeps.worker import Worker

        worker = Worker(out)
        for cell in cells:
            yield cell, worker.run(cell)
