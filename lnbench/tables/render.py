"""Tables for people and programs: one renderer per format, chosen by name in :data:`FORMATS`."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from lnbench.tables.table import EMPTY, Cell, Part, Table, TableRow

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup
    from rich.console import Group

_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "−": "$-$"}
    | {
        "†": r"\dag{}",
        "<": "$<$",
        ">": "$>$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "×": r"$\times$",
        "±": r"$\pm$",
        "→": r"$\to$",
        "\u00a0": "~",
        "\n": " ",
    }
)
_MINUS = re.compile(r"(?<![\w.])-(?=[\d.]|inf)")
_NUMBERS = ("value", "change", "low", "high", "marks", "published", "difference", "note")


def terminal(*tables: Table) -> Group:
    """Return tables for ``rich``, each with its legend below."""
    from rich.console import Group

    return Group(*(part for table in tables for part in _terminal(table)))


def _terminal(table: Table) -> Iterator[Any]:
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD)
    lines = list(table.lines())
    for place, heading in enumerate(table.headings):
        if place < table.text_columns:
            shown.add_column(Text(heading), overflow="fold")
        else:
            widest = max(cell_len(text) for text in [heading, *(texts[place] for _, texts in lines)])
            shown.add_column(Text(heading), justify="right", no_wrap=True, min_width=widest)
    for row, texts in lines:
        styles = [""] * table.text_columns + ["bold" if cell.emphasis else "" for cell in row.cells]
        shown.add_row(*map(Text, texts, styles), style="dim" if row.quiet else None, end_section=row.section)
    yield shown
    yield from map(Text, table.legend())
    yield ""


def markdown(table: Table) -> str:
    """Return the table as Markdown, with a heading and its legend."""
    alignment = ["---"] * table.text_columns + ["--:"] * len(table.columns)
    headings = [*map(escape_markdown, table.headings)]
    lines = ([*map(_markdown_cell, parts)] for _, parts in table.parts())
    rows = ["| " + " | ".join(line) + " |" for line in (headings, alignment, *lines)]
    legend = "  \n".join(map(escape_markdown, _with_best(table)))
    return "\n".join([f"## {escape_markdown(table.title)}", "", *rows, *(["", legend] if legend else []), ""])


def _markdown_cell(part: Part) -> str:
    text = escape_markdown(part.text)
    return (f"**{text}**" if part.is_best else text) + escape_markdown(part.marks)


def _with_best(table: Table) -> list[str]:
    """Return the legend, and what bold means in it."""
    return [*table.legend(), *filter(None, [table.best_note])]


def escape_markdown(text: str) -> str:
    """Return ``text`` in one line, with the characters that Markdown would read as markup escaped."""
    return re.sub(r"([\\|<>`*_&\[\]])", r"\\\1", " ".join(text.split()))


def csv_text(*tables: Table) -> str:
    """Return every number of the tables, one per line, with its table, row and column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "row", "column", *_NUMBERS])
    for table in tables:
        for row in table.rows:
            place = [table.title, " / ".join(row.labels)]
            writer.writerows([*place, column, *_numbers(number).values()] for column, number in _cells(table, row))
            if not row.cells:
                writer.writerow([*place, *[""] * (1 + len(_NUMBERS))])
    return text.getvalue()


def json_text(*tables: Table) -> str:
    """Return the tables as JSON: a list, with each cell's text and numbers by row and column."""
    return json.dumps([_plain(table) for table in tables], ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _plain(table: Table) -> dict[str, Any]:
    rows = []
    for row in table.rows:
        cells = [
            {"column": column, "text": cell.text()} | {name: _finite(value) for name, value in _numbers(cell).items()}
            for column, cell in _cells(table, row)
        ]
        rows.append({"labels": dict(zip(table.labels, row.labels, strict=True)), "cells": cells})
    return {"title": table.title, "rows": rows, "notes": table.legend()}


def _cells(table: Table, row: TableRow) -> list[tuple[str, Cell]]:
    """Return each cell of a row with its column, and each number in its brackets in a column of its own."""
    return [
        (column + " (in brackets)" * depth, number)
        for column, cell in zip(table.columns, row.cells, strict=True)
        if cell is not EMPTY
        for depth, number in enumerate(cell.numbers())
    ]


def _numbers(cell: Cell) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in _NUMBERS}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def html(table: Table, identifier: str | None = None) -> Markup:
    """Return the table as an HTML element, escaped, with its legend as a list.

    Args:
        table: The table.
        identifier: The ``id`` of its caption in a page, where the table gets a box that scrolls if it is too wide.
    """
    from markupsafe import Markup

    return Markup(template("table.html").render(table=table, identifier=identifier))


@cache
def template(name: str) -> Template:
    """Return one of the templates of this package, which escape whatever they are given."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("lnbench.tables"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["minus"] = _with_minus
    return environment.get_template(name)


def latex(table: Table) -> str:
    """Return the table for LaTeX with ``booktabs``: the best of a column in bold, marks as notes below the rules."""
    lines = [
        "% needs \\usepackage{booktabs}; for text in other scripts, LuaLaTeX or XeLaTeX with fonts that have them",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escape_latex(table.title)}}}",
        f"\\begin{{tabular}}{{{'l' * table.text_columns}{'r' * len(table.columns)}}}",
        "\\toprule",
        _latex_row([*map(Part, table.headings)], len(table.headings)),
        "\\midrule",
    ]
    rows = list(table.parts())
    for number, (row, parts) in enumerate(rows):
        lines.append(_latex_row(parts, table.text_columns))
        ends = number + 1 < len(rows) and rows[number + 1][0] is not row
        if ends and (row.section or table.has_published):
            lines.append("\\midrule")
    lines += ["\\bottomrule", "\\end{tabular}"]
    marks = {mark for _, parts in rows for part in parts for mark in part.marks}
    notes = (_latex_note(sentence, marks) for sentence in _with_best(table))
    lines += [f"\\par\\smallskip{{\\footnotesize {note}\\par}}" for note in notes]
    return "\n".join([*lines, "\\end{table}", ""])


def escape_latex(text: str) -> str:
    """Return ``text`` with the characters that LaTeX would read as commands escaped."""
    return text.translate(_LATEX)


def _latex_note(sentence: str, marks: Collection[str]) -> str:
    """Return a sentence of the legend; the mark that it explains is raised, as in the table."""
    mark, space, meaning = sentence.partition(" ")
    if space and mark in marks:
        return f"\\textsuperscript{{{escape_latex(mark)}}} {escape_latex(meaning)}"
    return escape_latex(sentence)


def _latex_row(parts: Sequence[Part], text_columns: int) -> str:
    cells = []
    for place, part in enumerate(parts):
        escaped = escape_latex(_with_minus(part.text) if place >= text_columns else part.text)
        escaped = f"\\textbf{{{escaped}}}" if part.is_best else escaped
        escaped += f"\\textsuperscript{{{escape_latex(part.marks)}}}" if part.marks else ""
        # Behind the end of a line, a bracket or asterisk would be read as its argument.
        cells.append(f"{{{escaped}}}" if escaped.startswith(("[", "*")) else escaped)
    return " & ".join(cells) + " \\\\"


def _with_minus(text: str) -> str:
    """Return ``text`` with a minus for each hyphen that is one."""
    return _MINUS.sub("−", text)


def _each(renderer: Callable[[Table], str]) -> Callable[..., str]:
    return lambda *tables: "\n".join(map(renderer, tables))


FORMATS: dict[str, Callable[..., str]] = {
    "markdown": _each(markdown),
    "csv": csv_text,
    "json": json_text,
    "html": _each(html),
    "latex": _each(latex),
}
"""Formats of text that tables are printed in, as ``--format`` names them, beside ``terminal``."""
