"""Tables in every format: nothing is lost, and no text becomes markup."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from html.parser import HTMLParser
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from lnbench.cli.options import Format
from lnbench.tables.render import FORMATS, csv_text, escape_latex, escape_markdown, html, latex, markdown, terminal
from lnbench.tables.table import EMPTY, Cell, Table, TableRow

_HOSTILE = ["हिन्दी", "اردو", "a|b", "<b>&amp;</b>", "5 % of $x_1^2$ #", "*", "[2]", r"\end{tabular}", "[red]x[/]", "{}"]
_PRINTED = st.characters(exclude_categories=["Cs", "Sk", "Cc", "Zl", "Zp", "Zs", "Cf", "Mn", "Me"])
TEXT = st.sampled_from(_HOSTILE) | st.text(_PRINTED, min_size=1, max_size=12)
NUMBER = st.floats() | st.integers(-(10**9), 10**9)


@st.composite
def cells(draw: Any) -> Cell:
    value = draw(st.one_of(st.none(), NUMBER, TEXT))
    optional = st.none() | st.floats(-1e6, 1e6)
    return Cell(
        value,
        draw(st.sampled_from([".3f", "+.1f", ".2g"])),
        change=draw(optional),
        low=draw(optional),
        high=draw(optional),
        with_interval=draw(st.booleans()),
        marks=draw(st.sampled_from(["", "*", "*†"])),
        published=draw(optional),
        bracketed=draw(st.none() | st.builds(Cell, NUMBER)),
        emphasis=draw(st.booleans()),
    )


@st.composite
def tables(draw: Any) -> Table:
    columns = draw(st.lists(TEXT, max_size=3))
    rows = st.builds(
        TableRow,
        st.tuples(TEXT),
        st.tuples(*[cells() | st.just(EMPTY) for _ in columns]),
        quiet=st.booleans(),
        section=st.booleans(),
    )
    best = draw(st.dictionaries(st.sampled_from(columns), st.sampled_from(["highest", "lowest"]))) if columns else {}
    return Table(
        draw(TEXT), ["label"], columns, draw(st.lists(rows, max_size=3)), {"*": "a mark"}, draw(st.lists(TEXT)), best
    )


def texts_of(table: Table) -> list[str]:
    return [*table.headings, *(text for _, texts in table.lines() for text in texts), *table.legend()]


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.texts:
            self.texts[-1] += data


@settings(max_examples=150, deadline=None)
@given(tables())
def test_every_text_is_in_every_format(table: Table) -> None:
    wanted = texts_of(table)
    shown, source = markdown(table), latex(table)
    reader = _Text()
    reader.feed(str(html(table)))
    in_page = {found.rstrip("\n") for found in reader.texts}
    console = Console(width=100_000, color_system=None)
    with console.capture() as captured:
        console.print(terminal(table))
    for text in wanted:
        assert text in captured.get()
        assert {text, _with_minus(text)} & in_page
    notes = [re.sub(r"^([*†]) ", "", sentence) for sentence in table.legend()]
    for text in [*table.headings, *notes, *(part.text for _, parts in table.parts() for part in parts)]:
        assert escape_markdown(text) in shown
        assert escape_latex(text) in source or escape_latex(_with_minus(text)) in source
    assert set(reader.tags) <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "ul", "li"}


def _with_minus(text: str) -> str:
    return re.sub(r"(?<![\w.])-(?=[\d.]|inf)", "−", text)


def _slow_best(table: Table, place: int) -> set[int]:
    """The rows whose number is the best of a column, by comparing every two."""
    way = table.best.get(table.columns[place])
    numbers = {
        number: (float(row.cells[place].value), format(row.cells[place].value, row.cells[place].format))
        for number, row in enumerate(table.rows)
        if not row.quiet and not row.summary and isinstance(row.cells[place].value, int | float)
        if math.isfinite(row.cells[place].value)
    }
    if way is None or len({text for _, text in numbers.values()}) < 2:
        return set()
    ends = [value for value, _ in numbers.values()]
    end = max(ends) if way == "highest" else min(ends)
    texts = {text for value, text in numbers.values() if value == end}
    return {number for number, (_, text) in numbers.items() if text in texts}


@settings(max_examples=100, deadline=None)
@given(tables())
def test_the_best_of_a_column_is_bold(table: Table) -> None:
    best = {place: _slow_best(table, place) for place in range(len(table.columns))}
    lines = [parts for _, parts in table.parts()]
    step = 3 if table.has_published else 1
    marked = {
        place: {number // step for number, parts in enumerate(lines) if parts[table.text_columns + place].is_best}
        for place in best
    }
    if all(len({cell.cells[place].format for cell in table.rows}) <= 1 for place in best):
        assert marked == best
    count = sum(part.is_best for parts in lines for part in parts)
    assert latex(table).count("\\textbf{") == count
    assert bool(table.best_note) == bool(count)
    if count:
        assert table.best_note in latex(table)
        assert table.best_note in markdown(table)


def test_marks_are_footnotes() -> None:
    cells = [Cell(0.5, marks="*†"), Cell(1.0)]
    rows = [TableRow([name], [cell]) for name, cell in zip("ab", cells, strict=True)]
    source = latex(Table("t", ["x"], ["y"], rows, {"*": "one", "†": "two"}, best={"y": "lowest"}))
    assert "a & \\textbf{0.500}\\textsuperscript{*\\dag{}} \\\\" in source
    assert "{\\footnotesize \\textsuperscript{\\dag{}} two.\\par}" in source
    shown = markdown(Table("t", ["x"], ["y"], rows, {"*": "one"}, best={"y": "highest"}))
    assert "| b | **1.000** |" in shown


@settings(max_examples=100, deadline=None)
@given(tables())
def test_the_shape_survives(table: Table) -> None:
    width, lines = len(table.headings), len(list(table.lines()))
    rows = [line for line in markdown(table).splitlines() if line.startswith("| ")]
    assert len(rows) == lines + 2
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == width + 1 for line in rows)
    source = latex(table)
    body = source[source.index("\\toprule") : source.index("\\bottomrule")].splitlines()
    ends = [line for line in body if line.endswith(" \\\\")]
    assert len(ends) == lines + 1
    assert all(len(re.findall(r"(?<!\\) & ", line)) == width - 1 for line in ends)
    assert str(html(table)).count("<tr") == lines + 1


@settings(max_examples=100, deadline=None)
@given(tables())
def test_latex_braces_are_balanced(table: Table) -> None:
    bare = latex(table).replace("\\\\", "").replace("\\{", "").replace("\\}", "")
    assert bare.count("{") == bare.count("}")
    assert bare.count("\\begin{") == bare.count("\\end{") == 2


@settings(max_examples=150, deadline=None)
@given(tables())
def test_csv_keeps_every_number(table: Table) -> None:
    read = list(csv.DictReader(io.StringIO(csv_text(table), newline="")))
    given_cells = [part for row in table.rows for cell in row.cells if cell is not EMPTY for part in cell.numbers()]
    if not table.columns:  # a table of text alone
        assert [line["row"] for line in read] == [label for row in table.rows for label in row.labels]
        return
    assert len(read) == len(given_cells)
    for line, cell in zip(read, given_cells, strict=True):
        for name in ("value", "change", "low", "high", "published", "difference"):
            number = getattr(cell, name)
            if number is None:
                assert line[name] == ""
            elif isinstance(number, str):
                assert line[name] == number
            else:
                assert float(line[name]) == number or (math.isnan(number) and math.isnan(float(line[name])))


@settings(max_examples=50, deadline=None)
@given(st.lists(tables(), max_size=2))
def test_json_is_json(several: list[Table]) -> None:
    (*read,) = json.loads(FORMATS["json"](*several), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [table["title"] for table in read] == [table.title for table in several]


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_table(name: str) -> None:
    assert FORMATS[name](Table("empty", ["label"], [], []))
    assert isinstance(FORMATS[name](), str)


def test_a_number_in_brackets_has_a_column_of_its_own() -> None:
    table = Table("t", ["row"], ["a"], [TableRow(["x"], [Cell(0.5, bracketed=Cell(0.25))])])
    (read,) = json.loads(FORMATS["json"](table))
    numbers = {cell["column"]: cell["value"] for row in read["rows"] for cell in row["cells"]}
    assert numbers == {"a": 0.5, "a (in brackets)": 0.25}
    assert [line.split(",")[2:4] for line in csv_text(table).splitlines()[1:]] == [
        [*pair] for pair in (("a", "0.5"), ("a (in brackets)", "0.25"))
    ]


def test_published_values_have_lines_of_their_own() -> None:
    table = Table(
        "t", ["row"], ["a"], [TableRow(["x"], [Cell(41.25, ".1f", published=40.0, bracketed=Cell(2, ".0f"))])]
    )
    assert [texts for _, texts in table.lines()] == [
        ["x", "measured", "41.2 (2)"],
        ["", "published", "40.0 (–)"],
        ["", "difference", "+1.2 (–)"],
    ]


def test_the_option_names_the_formats() -> None:
    assert set(get_args(get_args(Format)[0])) == {"terminal", *FORMATS}
