"""What records say of a cell whatever came of it, and the record of one that gave nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from lnbench.files import versions
from lnbench.sweeps.cells import Cell
from lnbench.sweeps.records import Record
from lnbench.sweeps.spec import Sweep


def failure(cell: Cell, error: str) -> Record:
    """Return the record of a cell that gave no numbers."""
    about = {"task": cell.task, "language": "+".join(cell.languages), "status": "failed", "error": error}
    return Record.model_validate({**described_by(cell), **about})


def described_by(cell: Cell) -> dict[str, Any]:
    """Return what a cell says of itself, in the words of records."""
    return {
        "cell": cell.key,
        "model": cell.loading.model,
        "adapter": cell.loading.adapter,
        "finetune": cell.loading.finetune,
        "selector": cell.selector,
        "control_of": cell.control_of,
        "control_seed": cell.control_seed,
        "seed": cell.seed or 0,
        "setup": cell.setup,
        "override_setup": cell.override_setup,
        "intervention": cell.intervention,
        "site": cell.arguments.get("site", Sweep.model_fields["site"].default) if cell.override_setup else None,
        "command": cell.command,
        "limit": cell.invocation.limit,
        "batch_size": cell.invocation.batch_size,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **versions(),
    }
