"""A sweep against its printed commands, run one by one: how many times faster it is.

    python -m tests.benchmarks.sweep [--spec docs/examples/sweep.yaml] [--cells 165] [--commands 3]

The sweep is timed whole, or its first ``--cells`` cells. Of the commands a sample spread over the cells is timed, and
extrapolated to all of them: running them all is what a sweep is there to avoid. Statistics and the converted model are
in the cache before either starts, which favours the commands.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lnbench.locks import exclusive_lock
from lnbench.plugins.executors.local import Local
from lnbench.sweeps.cells import Cell
from lnbench.sweeps.jobs import Job
from lnbench.sweeps.records import FILE, Record, append, load
from lnbench.sweeps.run_sweep import planned, run
from lnbench.sweeps.spec import Sweep
from lnbench.sweeps.spec import load as load_spec

ROOT = Path(__file__).resolve().parents[2]
NEEDED = 5


def timed_sweep(spec: Sweep, cells: Sequence[Cell], whole: bool, out: Path) -> float:
    """Seconds of a sweep in a process that has imported everything, its model's loading included."""
    started = time.perf_counter()
    if whole:
        run(spec, out, Local(), Console(quiet=True))
    else:
        with exclusive_lock(out):
            for _, lines in Local().run([Job("run", cell, out) for cell in cells]):
                append(out / FILE, lines)
    return time.perf_counter() - started


def timed_command(command: str, out: Path) -> float:
    """Seconds of one printed command, in a shell."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    started = time.perf_counter()
    subprocess.run(
        f"{command} --output_path {out} --log_samples", shell=True, check=True, capture_output=True, env=environment
    )
    return time.perf_counter() - started


def value_of(record: Record, folder: Path) -> float:
    """What a command measured for a record."""

    (file,) = folder.rglob("results_*.json")
    return float(json.loads(file.read_text())["results"][record.task][f"{record.metric},none"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, default=ROOT / "docs" / "examples" / "sweep.yaml")
    parser.add_argument("--cells", type=int, default=None, help="so many cells only")
    parser.add_argument("--commands", type=int, default=3, help="size of the sample of commands")
    given = parser.parse_args()
    spec = load_spec(given.spec)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        everything = planned(spec, out / "sweep")
        cells = everything[: given.cells]
        chosen = [
            cells[round(number * (len(cells) - 1) / max(1, given.commands - 1))] for number in range(given.commands)
        ]
        # Warm: the model converted, Statistics and NeuronSets in the cache, files in the page cache.
        for _ in Local().run([Job("run", cell, out / "warm") for cell in chosen]):
            pass

        took = timed_sweep(spec, cells, given.cells is None, out / "sweep")
        records = load(out / "sweep")
        failed = sum(record.failed for record in records)
        print(f"sweep: {len(cells)} cells in {took:.0f} s, {took / len(cells):.2f} s a cell, {failed} failed")

        times = []
        for number, cell in enumerate(chosen):
            folder = out / f"command-{number}"
            times.append(timed_command(cell.command, folder))
            same = [
                value_of(record, folder) == record.value
                for record in records
                if record.cell == cell.key and record.metric
            ]
            print(f"command {number + 1}: {times[-1]:.1f} s, the same numbers: {all(same)}   {cell.slug}", flush=True)
        each = statistics.mean(times)
        ratio = each * len(cells) / took
        print(
            f"one by one: {each:.1f} s a command (mean of {len(times)}), extrapolated to {len(cells)} commands "
            f"{each * len(cells):.0f} s\nthe sweep is {ratio:.1f} times faster; needed: {NEEDED}"
        )
    sys.exit(0 if ratio >= NEEDED else 1)


if __name__ == "__main__":
    main()
