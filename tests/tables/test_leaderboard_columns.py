"""A new column of the leaderboard is one field of a row and one entry of the table of columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator

import pytest

from lnbench.leaderboard import Row
from lnbench.report import page_context
from lnbench.sweeps.records import Record
from lnbench.tables.leaderboard import COLUMNS, Column, rows_table
from lnbench.tables.render import FORMATS
from lnbench.tables.table import Cell
from tests.support.figure_data import leaderboard_rows

ROWS = leaderboard_rows()


class RowWithEffect(Row):
    """What a row is with one more field."""

    effect_size: float | None = None


@pytest.fixture
def one_more_column() -> Iterator[None]:
    COLUMNS.append(Column("Effect size", lambda row: Cell(getattr(row, "effect_size", None), ".2f"), numeric=True))
    yield
    COLUMNS.pop()


def test_two_steps_add_a_column_everywhere(one_more_column: None) -> None:
    rows = [RowWithEffect(**row.model_dump(), effect_size=place + 0.25) for place, row in enumerate(ROWS)]
    table = rows_table(rows)
    assert table.columns[-1] == "Effect size"
    assert [row.cells[-1].text() for row in table.rows] == [f"{place}.25" for place in range(len(rows))]
    for name, render in FORMATS.items():
        text = render(table)
        assert "Effect size" in text, name
        assert "1.25" in text, name
    assert rows[1].model_dump()["effect_size"] == 1.25
    on_page = page_context._leaderboard(rows)
    assert on_page.columns[-1].heading == "Effect size"
    assert on_page.columns[-1].cell(rows[1]).text() == "1.25"


def test_numbers_are_sorted_by_their_values() -> None:
    for column in COLUMNS:
        for row in ROWS:
            cell = column.cell(row)
            assert cell.value is None or isinstance(cell.value, int | float if column.numeric else str)


@pytest.mark.parametrize("heading", [column.heading for column in COLUMNS if column.optional])
def test_optional_columns_are_there_where_rows_differ(heading: str) -> None:
    changes: dict[str, Callable[[Row], dict[str, object]]] = {
        "Model": lambda row: {"model": "other"},
        "Adapter": lambda row: {"finetune": "other"},
        "Task": lambda row: {"task": "other"},
        "Setup": lambda row: {"setup": "other"},
        "Seed": lambda row: {"seed": 77},
        "Limit": lambda row: {"limit": 7.0},
    }
    assert heading not in rows_table(ROWS).labels
    other = ROWS[0].model_copy(update=changes[heading](ROWS[0]))
    assert heading in rows_table([*ROWS, other]).labels


def test_a_row_is_a_record_without_what_belongs_to_its_run() -> None:
    assert issubclass(Row, Record)
    dumped = ROWS[0].model_dump()
    assert not {"format", "lines", "samples", "results", "seconds"} & set(dumped)
    assert {"site", "source"} <= set(dumped)
    assert Row(**dumped) == ROWS[0]


def test_the_csv_of_one_table_has_each_number_once() -> None:
    read = list(csv.DictReader(io.StringIO(FORMATS["csv"](rows_table(ROWS)))))
    assert len(read) == len(ROWS) * sum(column.numeric for column in COLUMNS)
