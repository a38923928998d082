"""Jobs that take their process down, as when memory ends: how often they are tried; and errors of the disk."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lnbench.errors import LnbenchError, one_line_error
from lnbench.files import read_json, write_json
from lnbench.sweeps.cells import Cell
from lnbench.sweeps.folder import CELLS

if TYPE_CHECKING:
    from lnbench.sweeps.jobs import Job

ATTEMPTS = 3
"""How many processes or workers a cell may take down; the last of them tries it with a batch of 1."""
_FILE = ".deaths.json"
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class CrashedError(LnbenchError):
    """A job that no process survives."""


def after_crash(job: Job, error: BaseException) -> Job | CrashedError:
    """Return the job to try again after its process ended in the middle of it, or the error of its last attempt."""
    if job.crashes + 1 < ATTEMPTS:
        return replace(job, crashes=job.crashes + 1)
    return CrashedError(f"{ATTEMPTS} workers died of it, the last one: {one_line_error(error)}")


def consecutive_crashes(out: Path, cells: Sequence[Cell]) -> dict[str, int]:
    """Return how often each cell's process died in the latest runs of the sweep; call it once, at the start.

    A cell whose process died has left an unfinished folder. One that left none counts from 0 again: another cell was at
    fault, or none.
    """
    leftovers = [path.name for path in (out / CELLS).glob(".*")]
    try:
        before = read_json(out / _FILE)
    except LnbenchError:
        before = {}
    died = [cell.key for cell in cells if any(name.startswith(f".{cell.slug}-") for name in leftovers)]
    crashes = {key: before.get(key, 0) + 1 for key in died}
    # A cell that is given up is tried again by the next run, as all that fail.
    write_json(out / _FILE, {key: count for key, count in crashes.items() if count < ATTEMPTS})
    return crashes


def disk_error(error: BaseException | None) -> OSError | None:
    """Return the error of the disk that another error comes from; it ends a sweep."""
    while error is not None and not (isinstance(error, OSError) and error.errno in _DISK):
        error = error.__cause__ or error.__context__
    return error
