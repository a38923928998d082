"""The folder of a run: what it holds already, and the spec that it was made from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from lnbench.files import write_text
from lnbench.sweeps import records
from lnbench.sweeps.records import Record
from lnbench.sweeps.spec import Sweep

OTHER = "records.other.jsonl"
"""Results that belong to an earlier form of the spec."""
CELLS = "cells"
"""The folder of lm-eval's own files."""


def clear_unfinished(out: Path) -> None:
    """Remove what cells left that did not end."""
    for leftover in (out / CELLS).glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)


def save_spec(out: Path, spec: Sweep) -> None:
    """Write the spec in full, so that a folder says what it holds."""
    write_text(out / "sweep.yaml", yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def sort_out(out: Path, keys: Sequence[str]) -> tuple[list[Record], list[str]]:
    """Repair the records, and keep those of the spec's cells apart from those of earlier forms of it.

    Args:
        out: The folder, held by this process.
        keys: The cells of the spec.

    Returns:
        The records of these cells, and what was repaired or put aside, in words.

    Raises:
        LnbenchError: a file is damaged or cannot be written.
    """
    said = []
    ours, cut = records.repair(out / records.FILE)
    if cut:
        said.append(f"{records.FILE}: took out {cut}, left by an interrupted run")
    others, _ = records.repair(out / OTHER)
    wanted = set(keys)
    everything = {record.model_dump_json(): record for record in [*ours, *others]}
    keep = [record for record in everything.values() if record.cell in wanted]
    aside = [record for record in everything.values() if record.cell not in wanted]
    if len(keep) != len(ours) or len(aside) != len(others):
        # The file that takes up records first, so that a kill between the two leaves none of them in neither.
        records.replace(out / OTHER, everything.values())
        records.replace(out / records.FILE, keep)
        records.replace(out / OTHER, aside)
        moved = {record.cell for record in aside} - {record.cell for record in others}
        back = {record.cell for record in keep} - {record.cell for record in ours}
        if moved:
            said.append(f"{len(moved)} cells are not in this spec any more: their results are now in {OTHER}")
        if back:
            said.append(f"{len(back)} cells were measured for an earlier form of the spec, and are taken from {OTHER}")
    return keep, said
