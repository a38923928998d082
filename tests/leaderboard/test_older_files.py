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
_NEW = {"site", "source", "requests", "cut_prompts", "bos"}
"""Fields that rows and records have since then."""


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return build(read_runs([_FOLDER / "run"]))


def test_records_are_read() -> None:
    lines = (_FOLDER / "run" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    for record, line in zip(records.load(_FOLDER / "run"), lines, strict=True):
        dumped = record.model_dump()
        assert {name: dumped[name] for name in dumped if name not in _NEW} == json.loads(line)
        assert all(dumped[name] is None for name in _NEW)


def test_a_leaderboard_is_read() -> None:
    document = json.loads((_FOLDER / "leaderboard.json").read_text(encoding="utf-8"))
    for row, old in zip(leaderboard.load(_FOLDER / "leaderboard.json"), document["rows"], strict=True):
        assert row.model_dump() == old | dict.fromkeys(_NEW)


def test_records_give_the_same_leaderboard(rows: list[Row]) -> None:
    assert rows == leaderboard.load(_FOLDER / "leaderboard.json")


def test_the_csv_has_the_same_values(rows: list[Row], tmp_path: Path) -> None:
    leaderboard_files.write(rows, tmp_path / "leaderboard.csv")
    then, now = (
        list(csv.DictReader((folder / "leaderboard.csv").open(encoding="utf-8", newline="")))
        for folder in (_FOLDER, tmp_path)
    )
    assert [{name: row[name] for name in row if name not in _NEW} for row in now] == then


def test_the_readable_tables_are_the_same(rows: list[Row], tmp_path: Path) -> None:
    leaderboard_files.write(rows, tmp_path / "leaderboard.md")
    then, now = ((folder / "leaderboard.md").read_text(encoding="utf-8") for folder in (_FOLDER, tmp_path))
    tables = [[line for line in text.splitlines() if line.startswith(("#", "|"))] for text in (then, now)]
    assert tables[0] == tables[1]
