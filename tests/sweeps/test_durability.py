"""What a kill, a full disk and a second process do to a sweep: nothing that the same command does not mend."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from lnbench.locks import exclusive_lock
from lnbench.sweeps.crashes import consecutive_crashes
from lnbench.sweeps.records import FILE, load
from lnbench.sweeps.run_sweep import planned
from tests.support.messages import refused
from tests.support.sweeps import DISK_WAS_FULL, child, comparable, spec_of, sweep, sweep_with_small_disk

pytestmark = pytest.mark.slow

SECONDS_OF_A_SWEEP = 3.0


def test_killed_five_times_it_ends_with_the_same_records(
    given: dict[str, Any], undisturbed: Path, tmp_path: Path
) -> None:
    out, spec, chance = tmp_path / "out", spec_of(given), random.Random(0)
    measured = [0]
    for number in range(5):
        process = child(sweep, spec, out)
        # Once at any moment, then when something is at stake: when the child has measured something.
        while number > 0 and process.is_alive() and cells_in(out) == measured[-1]:
            time.sleep(0.01)
        process.join(chance.uniform(0, SECONDS_OF_A_SWEEP / 3))
        process.kill()
        process.join()
        measured.append(cells_in(out))
        assert measured[-1] >= measured[-2], "nothing that was recorded is lost"
    last = sweep(spec, out)
    assert last.measured == 10 - measured[-1]
    assert comparable(out) == comparable(undisturbed)
    folders = [path.name for path in (out / "cells").iterdir() if not path.name.startswith(".")]
    assert len(folders) == 10


def cells_in(out: Path) -> int:
    return len({record.cell for record in load(out)}) if (out / FILE).exists() else 0


@pytest.mark.parametrize("first_to_fail", ["lm-eval's files", "the records"])
def test_on_a_full_disk_it_stops_and_goes_on_later(
    first_to_fail: str, given: dict[str, Any], undisturbed: Path, tmp_path: Path
) -> None:
    files = [path for path in (undisturbed / "cells").rglob("*") if path.is_file() and path.suffix != ".log"]
    largest = max(path.stat().st_size for path in files)
    file_bytes = largest // 2 if first_to_fail == "lm-eval's files" else largest + 500
    assert file_bytes < (undisturbed / FILE).stat().st_size
    out, spec = tmp_path / "out", spec_of(given)
    process = child(sweep_with_small_disk, spec, out, file_bytes)
    process.join(120)
    assert process.exitcode == DISK_WAS_FULL
    before = cells_in(out)
    assert (before > 0) == (first_to_fail == "the records")
    assert not before or not [record for record in load(out) if record.failed], "a full disk is no cell's fault"
    assert sweep(spec, out).measured == 10 - before
    assert comparable(out) == comparable(undisturbed)


def test_a_cut_file_is_mended_and_said(
    given: dict[str, Any], undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from lnbench.plugins.executors.local import Local
    from lnbench.sweeps.run_sweep import run

    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    whole = (undisturbed / FILE).read_bytes()
    (out / FILE).write_bytes(whole[: len(whole) * 2 // 3])
    outcome = run(spec_of(given), out, Local(), Console(stderr=True, width=300))
    assert 0 < outcome.measured < 10
    assert "took out" in capsys.readouterr().err
    assert comparable(out) == comparable(undisturbed)


def test_cells_whose_files_are_gone_are_measured_again(
    given: dict[str, Any], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    gone, cut = sorted((out / "cells").iterdir())[:2]
    shutil.rmtree(gone)
    samples = next(cut.rglob("samples_*.jsonl"))
    samples.write_bytes(samples.read_bytes()[:-10])
    assert sweep(spec_of(given), out).measured == 2
    assert comparable(out) == comparable(undisturbed)


def test_a_cell_that_ends_three_processes_in_a_row_fails(given: dict[str, Any], tmp_path: Path) -> None:
    spec = spec_of(given, interventions=["none"])
    first, second = planned(spec, tmp_path)
    left = tmp_path / "cells" / f".{first.slug}-some-host-1"
    assert consecutive_crashes(tmp_path, [first, second]) == {}
    for deaths in (1, 2):
        left.mkdir(parents=True, exist_ok=True)
        assert consecutive_crashes(tmp_path, [first, second]) == {first.key: deaths}
    outcome = sweep(spec, tmp_path)
    assert list(outcome.failed) == [first.key]
    assert "after 3 crashes" in outcome.failed[first.key]
    left.mkdir()
    assert consecutive_crashes(tmp_path, [first]) == {first.key: 1}, "it begins anew"
    shutil.rmtree(left)
    assert consecutive_crashes(tmp_path, [first]) == {}
    left.mkdir()
    assert consecutive_crashes(tmp_path, [first]) == {first.key: 1}
    assert sweep(spec, tmp_path).failed == {}
    assert {record.batch_size for record in load(tmp_path) if record.cell == first.key} == {1}


def hold(out: Path, seconds: float) -> None:
    with exclusive_lock(out):
        (out / "held").touch()
        time.sleep(seconds)


def test_a_folder_is_one_processs(given: dict[str, Any], tmp_path: Path) -> None:
    process = child(hold, tmp_path, 60)
    try:
        while not (tmp_path / "held").exists() and process.is_alive():
            time.sleep(0.01)
        with refused(tmp_path, process.pid):
            sweep(spec_of(given), tmp_path)
    finally:
        process.kill()
        process.join()
    with exclusive_lock(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(given: dict[str, Any], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with refused(tmp_path / "out"):
        sweep(spec_of(given), tmp_path / "out")
