"""The paper's tables: marks as in every other view of the same numbers, intervals, and headings."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from lnbench.figures.perplexity_matrix import perplexity_matrix
from lnbench.leaderboard.rows import Row
from lnbench.perplexity.changes import SliceNats, cells_and_selectivity
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.significance import LEVEL
from lnbench.tables import perplexity
from lnbench.tables.paper import heading, matrix_tables, score, score_interval
from lnbench.tables.render import terminal
from lnbench.tables.reproduction import StoredRow, StoredTable, StoredValue
from tests.support import report

BLOCKS = 8


@pytest.fixture
def sparse() -> PerplexityMatrix:
    """A matrix in which only Hindi has neurons: its p-values are significant among three cells, not among nine."""
    unchanged = np.linspace(3.0, 4.0, BLOCKS)
    changed = {"hi": unchanged + np.linspace(0.1, 0.2, BLOCKS)}
    sums = SliceNats(np.full(BLOCKS, 31.0), np.full(BLOCKS, 90.0), unchanged, changed, {}, {"hi": None})
    cells, selectivity = cells_and_selectivity(dict.fromkeys(report.LANGUAGES, sums), report.LANGUAGES)
    neurons = {language: 6 if language == "hi" else 0 for language in report.LANGUAGES}
    return report.matrix().model_copy(update={"cells": cells, "selectivity": selectivity, "neurons": neurons})


def test_all_views_of_a_matrix_mark_the_same_cells(sparse: PerplexityMatrix) -> None:
    languages = list(report.LANGUAGES)
    marked = [cell.p_holm < LEVEL for cell in sparse.cells]
    assert marked == [changed == "hi" for changed in languages for _ in languages]
    assert [cell.p_holm for cell in sparse.cells if cell.changed == "hi"] == pytest.approx([3 * 2 / 2**BLOCKS] * 3)
    for table in matrix_tables("Change", sparse):
        assert [value.significant for value in table.values] == marked
        assert ["*" in cell.text() for row in table.table.rows for cell in row.cells] == marked
    figure = perplexity_matrix(sparse)
    place = figure.columns.index("p_holm")
    assert [row[place] < LEVEL for row in figure.rows] == marked
    _, *page = perplexity.change_table(sparse, "nats", with_interval=True).rows
    assert ["*" in cell.text() for row in page for cell in row.cells[1 : 1 + len(languages)]] == marked
    console = Console(width=200, file=io.StringIO())
    with console.capture() as capture:
        console.print(terminal(*perplexity.matrix_tables(sparse)))
    lines = [line.split() for line in capture.get().splitlines()]
    rows = [words[2 : 2 + len(languages)] for words in lines if words and words[0] in languages and words[1].isdigit()]
    assert ["*" in text for row in rows for text in row] == marked * 2


def row_of(**fields: object) -> Row:
    return Row.model_validate(
        {
            **{name: "-" for name, field in Row.model_fields.items() if field.is_required()},
            "metric": "acc",
            "intervention": "p10",
            "language": "hi",
            "limit": None,
            "stderr": None,
            **fields,
        }
    )


def test_intervals_of_shares_are_wilsons() -> None:
    interval = pytest.importorskip("statsmodels.stats.proportion").proportion_confint(30, 48, method="wilson")
    assert score_interval(row_of(value=30 / 48, n=48)) == pytest.approx([100 * end for end in interval])
    assert score_interval(row_of(value=None, n=None)) == (None, None)
    low, high = score_interval(row_of(value=0.4, n=10, stderr=0.1, metric="f1"))
    assert low is not None
    assert high is not None
    assert (low + high) / 2 == pytest.approx(40)


def test_a_score_keeps_the_papers_number_beside_it() -> None:
    value = score("acc", row_of(value=0.5, n=8, significant=True, control=0.25), 41.0, None)
    assert (value.measured, value.published, value.difference, value.control) == (50, 41, 9, 25)
    missing = score("acc", None, 41.0, "OutOfMemoryError")
    assert (missing.measured, missing.published, missing.note) == (None, 41, "failed: OutOfMemoryError")
    assert score("acc", None, None, None).note == "not measured"


def test_a_second_metric_is_in_brackets_behind_the_first() -> None:
    second = StoredValue(metric="f1", unit="%", measured=64.1, published=60.0, significant=True)
    first = StoredValue(metric="exact_match", unit="%", measured=38.0, significant=True, bracketed=second)
    table = StoredTable(title="t", row_labels=["EL"], columns=["Int"], rows=[StoredRow(labels=["hi"], cells=[first])])
    assert first.cell.text() == "38.0 (64.1)*"
    assert table.values == [first, second]
    assert table.table.has_published


@pytest.mark.parametrize(("name", "text"), [("none", "No Int"), ("mean", "Int"), ("zero", "Int 0"), ("p90", "Int P90")])
def test_interventions_are_called_as_in_the_paper(name: str, text: str) -> None:
    assert heading(name) == text
