"""Tables for people and programs: one renderer per format, chosen by name in :data:`FORMATS`."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lnbench.tables.table import EMPTY, Cell, Table

if TYPE_CHECKING:
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
"""A hyphen that is a minus."""
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
    words = len(table.headings) - len(table.columns)
    for place, heading in enumerate(table.headings):
        if place >= words:
            widest = max(cell_len(texts[place]) for texts in [table.headings, *(texts for _, texts in table.lines())])
            shown.add_column(Text(heading), justify="right", no_wrap=True, min_width=widest)
        else:
            shown.add_column(Text(heading), overflow="fold")
    for row, texts in table.lines():
        cells = [
            Text(text, style="bold" if place >= words and row.cells[place - words].emphasis else "")
            for place, text in enumerate(texts)
        ]
        shown.add_row(*cells, style="dim" if row.quiet else None, end_section=row.section)
    yield shown
    yield from map(Text, table.legend())
    yield ""


def markdown(table: Table) -> str:
    """Return the table as Markdown, with a heading and its legend."""
    alignment = ["---"] * (len(table.headings) - len(table.columns)) + ["--:"] * len(table.columns)
    texts = [table.headings, *(texts for _, texts in table.lines())]
    headings, *lines = ([*map(escape_markdown, line)] for line in texts)
    rows = ["| " + " | ".join(line) + " |" for line in (headings, alignment, *lines)]
    legend = "  \n".join(map(escape_markdown, table.legend()))
    return "\n".join([f"## {escape_markdown(table.title)}", "", *rows, *(["", legend] if legend else []), ""])


def escape_markdown(text: str) -> str:
    """Return ``text`` in one line, with the characters that Markdown would read as markup escaped."""
    return re.sub(r"([\\|<>`*_&\[\]])", r"\\\1", " ".join(text.split()))


def csv_text(*tables: Table) -> str:
    """Return every number of the tables, one per line, with its table, row and column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "row", "column", *_NUMBERS])
    for title, labels, column, cell in _cells(tables):
        for number in cell.numbers():
            writer.writerow([title, " / ".join(labels), column, *(getattr(number, name) for name in _NUMBERS)])
    return text.getvalue()


def _cells(tables: Sequence[Table]) -> Iterator[tuple[str, Sequence[str], str, Cell]]:
    """Yield each cell with its table's title, its row's labels and its column."""
    for table in tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                if cell is not EMPTY:
                    yield table.title, row.labels, column, cell


def json_text(*tables: Table) -> str:
    """Return the tables as JSON: a list, with each cell's text and numbers by row and column."""
    return json.dumps([_plain(table) for table in tables], ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _plain(table: Table) -> dict[str, Any]:
    rows = [
        {
            "labels": dict(zip(table.labels, row.labels, strict=True)),
            "cells": [
                {"column": column, "text": cell.text()} | {name: _finite(getattr(cell, name)) for name in _NUMBERS}
                for column, cell in zip(table.columns, row.cells, strict=True)
                if cell is not EMPTY
            ],
        }
        for row in table.rows
    ]
    return {"title": table.title, "rows": rows, "notes": table.legend()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def html(table: Table, identifier: str | None = None) -> Markup:
    """Return the table as an HTML element, escaped, with its legend as a list.

    Args:
        table: The table.
        identifier: The ``id`` of its caption in a page, where the table gets a box that scrolls if it is too wide.
    """
    from markupsafe import Markup, escape

    words = len(table.headings) - len(table.columns)

    def cells(texts: Sequence[str]) -> Markup:
        parts = []
        for place, text in enumerate(texts):
            if place >= words:
                opening = 'td class="number"'
            elif place or not text:  # A line that continues a row has no name of its own.
                opening = 'td dir="auto"'
            else:
                opening = 'th scope="row" dir="auto"'
            shown = _MINUS.sub("−", text) if place >= words else text
            parts.append(Markup("<{}>{}</{}>").format(Markup(opening), shown, opening[:2]))
        return Markup("").join(parts)

    headings = Markup("").join(
        Markup('<th scope="col"{} dir="auto">{}</th>').format(Markup(' class="number"' if place >= words else ""), name)
        for place, name in enumerate(table.headings)
    )
    body = Markup("\n").join(
        Markup("<tr{}>{}</tr>").format(Markup(' class="quiet"' if row.quiet else ""), cells(texts))
        for row, texts in table.lines()
    )
    named = Markup(' id="{}"').format(identifier) if identifier else ""
    caption = Markup('<caption{} dir="auto">{}</caption>').format(named, table.title)
    notes = Markup("").join(Markup('<li dir="auto">{}</li>').format(note) for note in table.legend())
    listed = Markup('\n<ul class="notes">{}</ul>').format(notes) if notes else escape("")
    frame = Markup("<table>\n{}\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>\n</table>")
    element = frame.format(caption, headings, body)
    if identifier:
        box = Markup('<div class="scroll" role="region" aria-labelledby="{}" tabindex="0">\n{}\n</div>')
        element = box.format(identifier, element)
    return element + listed


def latex(table: Table) -> str:
    """Return the table for LaTeX with ``booktabs``, its legend below the rules."""
    words = len(table.headings) - len(table.columns)
    lines = [
        "% needs \\usepackage{booktabs}; for text in other scripts, LuaLaTeX or XeLaTeX with fonts that have them",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escape_latex(table.title)}}}",
        f"\\begin{{tabular}}{{{'l' * words}{'r' * len(table.columns)}}}",
        "\\toprule",
        _latex_row(table.headings, len(table.headings)),
        "\\midrule",
    ]
    rows = list(table.lines())
    for number, (row, texts) in enumerate(rows):
        lines.append(_latex_row(texts, words))
        ends = number + 1 < len(rows) and rows[number + 1][0] is not row
        if ends and (row.section or table.has_published):
            lines.append("\\midrule")
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"\\par\\smallskip{{\\footnotesize {escape_latex(sentence)}\\par}}" for sentence in table.legend()]
    return "\n".join([*lines, "\\end{table}", ""])


def escape_latex(text: str) -> str:
    """Return ``text`` with the characters that LaTeX would read as commands escaped."""
    return text.translate(_LATEX)


def _latex_row(texts: Sequence[str], words: int) -> str:
    cells = []
    for place, text in enumerate(texts):
        escaped = escape_latex(_MINUS.sub("−", text) if place >= words else text)
        # Behind the end of a line, a bracket or asterisk would be read as its argument.
        cells.append(f"{{{escaped}}}" if escaped.startswith(("[", "*")) else escaped)
    return " & ".join(cells) + " \\\\"


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
