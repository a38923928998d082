"""records.jsonl: appended, cut at any byte, repaired, read."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench.sweeps.records import FILE, Record, append, load, repair
from tests.support.messages import refused


def lines_of(cell: str, count: int = 2, **changes: object) -> list[Record]:
    given = {"model": "m", "intervention": "zero", "language": "hi", "task": "t", "command": "lm_eval"}
    return [
        Record.model_validate({**given, "cell": cell, "lines": count, "metric": f"m{number}", "value": 0.5, **changes})
        for number in range(count)
    ]


def failure_of(cell: str, error: str) -> list[Record]:
    return lines_of(cell, 1, status="failed", error=error, metric=None, value=None)


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    first, second = lines_of("a", 2), lines_of("b", 3)
    append(tmp_path / "run" / FILE, first)
    append(tmp_path / "run" / FILE, second)
    assert load(tmp_path / "run") == load(tmp_path / "run" / FILE) == first + second
    assert repair(tmp_path / "run" / FILE) == (first + second, "")
    for line in (tmp_path / "run" / FILE).read_text().splitlines():
        assert json.loads(line)["format"] == "lnbench.record/1"


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_cut_anywhere_whole_cells_stay(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    file = tmp_path_factory.mktemp("cut") / FILE
    cells = [lines_of(name, count) for name, count in (("a", 1), ("b", 3), ("c", 2))]
    ends = []
    for one in cells:
        append(file, one)
        ends.append(file.stat().st_size)
    size = data.draw(st.integers(0, ends[-1]))
    os.truncate(file, size)
    whole = [record for one, end in zip(cells, ends, strict=True) if end <= size for record in one]
    assert load(file) == whole
    kept, cut = repair(file)
    assert kept == whole
    assert bool(cut) == (size not in (0, *ends))
    assert repair(file) == (whole, "")
    append(file, lines_of("d"))
    assert load(file) == whole + lines_of("d")


def test_a_failure_stays_until_its_cell_succeeds(tmp_path: Path) -> None:
    file = tmp_path / FILE
    append(file, failure_of("a", "no memory"))
    append(file, failure_of("a", "no luck"))
    assert [record.error for record in load(file)] == ["no luck"]
    append(file, lines_of("a"))
    assert load(file) == lines_of("a")


def test_a_value_that_is_no_number_is_null(tmp_path: Path) -> None:
    append(tmp_path / FILE, lines_of("a", 1, value=float("nan")))
    (found,) = load(tmp_path)
    assert found.value is None
    assert found.status == "done"


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / FILE
    append(file, lines_of("a"))
    file.write_bytes(b'{"format": "something else"}\n' + file.read_bytes())
    for read in (load, repair):
        with refused(file, "line 1", "lnbench.record/1"):
            read(file)


def test_no_file(tmp_path: Path) -> None:
    assert repair(tmp_path / FILE) == ([], "")
    with refused(tmp_path / FILE):
        load(tmp_path)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / FILE
    append(file, lines_of("a"))
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with refused(file, "No space left on device"):
        append(file, lines_of("b"))
    assert file.read_bytes() == before
