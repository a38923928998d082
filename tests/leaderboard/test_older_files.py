"""Records and leaderboards that lnbench 0.1.0 wrote, in ``version_0_1``, give the same rows and files as then."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from lnbench import leaderboard
from lnbench.leaderboard import Row, build, read_runs
from lnbench.sweeps import records
from lnbench.tables import leaderboard_files

_FOLDER = Path(__file__).parent / "version_0_1"
_NEW = {
    "model_files",
    "site",
    "source",
    "neurons",
    "neurons_tied",
    "neurons_own",
    "neurons_common",
    "task_title",
    "requests",
    "cut_prompts",
    "bos",
    "least_p",
    "chance",
    "top_choice",
    "top_share",
    "control_kind",
    "control_draws",
    "rho",
    "rho_low",
    "rho_high",
}
"""Fields that rows and records have since then."""
_CHANGED = {
    *("control_ci_low", "control_ci_high", "control_p_value", "control_p_holm", "control_significant", "control_mde"),
}
"""Fields that were of a test against the two draws that were made, and are now of one that takes three."""


_INTERVAL = {"ci_low", "ci_high"}
"""Where no document changed, it was a point then."""


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return build(read_runs([_FOLDER / "run"]))


def test_records_are_read() -> None:
    lines = (_FOLDER / "run" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    for record, line in zip(records.load(_FOLDER / "run"), lines, strict=True):
        dumped = record.model_dump()
        old = json.loads(line)
        assert {name: dumped[name] for name in old} == old
        assert all(dumped[name] is None for name in dumped.keys() - old.keys())


def test_a_leaderboard_is_read() -> None:
    document = json.loads((_FOLDER / "leaderboard.json").read_text(encoding="utf-8"))
    for row, old in zip(leaderboard.load(_FOLDER / "leaderboard.json"), document["rows"], strict=True):
        assert row.model_dump() == old | dict.fromkeys(_NEW)


def test_records_give_the_same_leaderboard(rows: list[Row]) -> None:
    for row, old in zip(rows, leaderboard.load(_FOLDER / "leaderboard.json"), strict=True):
        left_out = _NEW | _CHANGED | (_INTERVAL if row.delta == 0 else set())
        now, then = (each.model_dump(exclude=left_out) for each in (row, old))
        assert now == then
        assert all(getattr(row, name) is None for name in _CHANGED)


def test_the_csv_has_the_same_values(rows: list[Row], tmp_path: Path) -> None:
    leaderboard_files.write(rows, tmp_path / "leaderboard.csv")
    then, now = (
        list(csv.DictReader((folder / "leaderboard.csv").open(encoding="utf-8", newline="")))
        for folder in (_FOLDER, tmp_path)
    )
    left_out = _NEW | _CHANGED | _INTERVAL
    same = [{name: row[name] for name in row if name not in left_out} for row in now]
    assert same == [{name: row[name] for name in row if name not in left_out} for row in then]


def test_the_readable_tables_are_the_same(rows: list[Row], tmp_path: Path) -> None:
    leaderboard_files.write(rows, tmp_path / "leaderboard.md")
    then, now = ((folder / "leaderboard.md").read_text(encoding="utf-8") for folder in (_FOLDER, tmp_path))
    then = then.replace("†", "")  # of the test against the two draws that were made
    now = now.replace("**", "")  # of the best of each column
    tables = [[line for line in text.splitlines() if line.startswith(("#", "|"))] for text in (then, now)]
    assert tables[0] == tables[1]
