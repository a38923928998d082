"""The executor of one process: cells one after the other, each model loaded once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lnbench.sweeps.cells import Cell
from lnbench.sweeps.records import Record

if TYPE_CHECKING:
    from lnbench.sweeps.model_variants import Training
    from lnbench.sweeps.worker import Worker

log = logging.getLogger(__name__)


class InProcess:
    """Runs cells and fine-tunings in this process."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def worker(self, out: Path) -> Worker:
        """Return what runs the cells whose results go to ``out``; it keeps the model that it loaded last."""
        if self._worker is None or self._worker.out != out:
            from lnbench.sweeps.worker import Worker

            self._worker = Worker(out)
        return self._worker

    def train(self, trainings: Sequence[Training]) -> Iterator[tuple[Training, Path | Exception]]:
        """See :class:`lnbench.sweeps.run_sweep.Executor`."""
        for training in trainings:
            result: Path | Exception
            try:
                result = training.job.run()
            except Exception as error:
                log.info("fine-tuning %s failed", training.loading.finetune, exc_info=error)
                result = error
            yield training, result

    def run(self, cells: Sequence[Cell], out: Path) -> Iterator[tuple[Cell, list[Record]]]:
        """See :class:`lnbench.sweeps.run_sweep.Executor`."""
        for cell in cells:
            yield cell, self.worker(out).run(cell)
