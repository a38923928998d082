"""The folder of a run: one process at a time, what it holds already, and the spec that it was made from."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from lnbench.errors import LnbenchError
from lnbench.files import read_json, write_json, write_text
from lnbench.sweeps import records
from lnbench.sweeps.records import Record
from lnbench.sweeps.spec import Sweep

OTHER = "records.other.jsonl"
"""Results that belong to an earlier form of the spec."""
CELLS = "cells"
"""The folder of lm-eval's own files."""
_LOCK, _HOLDER = ".lock", ".running.json"


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Keep a run's folder to this process.

    Raises:
        LnbenchError: another process runs a sweep in it, or it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / _LOCK).acquire(timeout=0)
    except Timeout as error:
        raise LnbenchError(
            f"{out} is in use by {_holder(out)}: wait until it ends, or choose another folder with --out"
        ) from error
    except OSError as error:
        raise LnbenchError(f"cannot use {out} for the results: {error.strerror or error}") from error
    with lock:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        program = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        write_json(
            out / _HOLDER, {"pid": os.getpid(), "host": socket.gethostname(), "command": program, "started": started}
        )
        yield


def _holder(out: Path) -> str:
    try:
        found = read_json(out / _HOLDER)
        return f"process {found['pid']} on {found['host']}, started {found['started']} ({found['command']})"
    except (LnbenchError, KeyError, TypeError):
        return "another process"


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
