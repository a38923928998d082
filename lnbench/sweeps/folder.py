"""The folder of a run: what it holds already, and the spec that it was made from."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from lnbench.files import write_text
from lnbench.sweeps import records
from lnbench.sweeps.cells import Cell
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


def reconcile(out: Path, cells: Sequence[Cell]) -> tuple[list[Record], list[str]]:
    """Repair the records, and keep those of the spec's cells apart from those of earlier forms of it.

    Cells whose files are gone or damaged lose their records.

    Args:
        out: The folder, held by this process.
        cells: Those of the spec.

    Returns:
        The records of these cells, and what was repaired or put aside, in words.
    """
    repairs = []
    ours, cut = records.repair(out / records.FILE)
    if cut:
        repairs.append(f"{records.FILE}: took out {cut}, left by an interrupted run")
    others, _ = records.repair(out / OTHER)
    planned = {cell.key: cell for cell in cells}
    everything = {record.model_dump_json(): record for record in [*ours, *others]}
    keep = [record for record in everything.values() if record.cell in planned]
    aside = [record for record in everything.values() if record.cell not in planned]
    if lost := {record.cell for record in keep if not _has_whole_files(record, out)}:
        repairs.append(f"the files of {len(lost)} finished cells are gone or damaged: they are measured again")
        keep = [record for record in keep if record.cell not in lost]
    keep = _in_languages(keep, planned)
    if keep != ours or aside != others:
        # The file that takes up records first, so that a kill between the two leaves none of them in neither.
        records.replace(out / OTHER, everything.values())
        records.replace(out / records.FILE, keep)
        records.replace(out / OTHER, aside)
        moved = {record.cell for record in aside} - {record.cell for record in others}
        back = {record.cell for record in keep} - {record.cell for record in ours}
        if moved:
            repairs.append(f"{len(moved)} cells are not in this spec any more: their results are now in {OTHER}")
        if back:
            repairs.append(f"{len(back)} cells were measured for an earlier form of the spec: taken from {OTHER}")
    return keep, repairs


def _has_whole_files(record: Record, out: Path) -> bool:
    """Return whether lm-eval's files of a record, JSON or lines of it, have their end."""
    try:
        for name in filter(None, (record.results, record.samples)):
            with (out / name).open("rb") as file:
                file.seek(-1, os.SEEK_END)
                if file.read() not in b"}\n":
                    return False
    except OSError:
        return False
    return True


def _in_languages(kept: Sequence[Record], cells: Mapping[str, Cell]) -> list[Record]:
    """Return the records, with each cell's once for each of its languages.

    Where a cell overrides nothing, the spec may have other languages than when it was measured.
    """
    by_cell: dict[str, list[Record]] = defaultdict(list)
    for record in kept:
        by_cell[record.cell].append(record)
    repeated: list[Record] = []
    for key, lines in by_cell.items():
        languages = cells[key].languages
        if not lines[0].failed and {line.language for line in lines} != set(languages):
            measured = [line for line in lines if line.language == lines[0].language]
            count = len(measured) * len(languages)
            lines = [
                line.model_copy(update={"language": language, "lines": count})
                for language in languages
                for line in measured
            ]
        repeated += lines
    return repeated
