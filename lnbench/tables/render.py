"""Tables for people and programs: one renderer per format, chosen by name in :data:`RENDERERS`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lnbench.tables.table import EMPTY, Table

if TYPE_CHECKING:
    from markupsafe import Markup
    from rich.console import Group

_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "−": "$-$"}
    | {"†": r"\dag{}", "<": "$<$", ">": "$>$", "≤": r"$\leq$", "×": r"$\times$"}
)
_NUMBERS = ("value", "change", "low", "high", "marks", "published", "difference", "note")


def terminal(table: Table) -> Group:
    """Return the table for ``rich``, with its legend below."""
    from rich.console import Group
    from rich.text import Text

    from lnbench.console import numeric_table

    first, *others = table.headings
    shown = numeric_table("", first, *others)
    shown.title = Text(table.title)
    for column in shown.columns[1 : len(table.headings) - len(table.columns)]:
        column.justify = "left"
    for row, texts in table.lines():
        words = len(texts) - len(row.cells)
        cells = [
            Text(text, style="bold" if place >= words and row.cells[place - words].emphasis else "")
            for place, text in enumerate(texts)
        ]
        shown.add_row(*cells, style="dim" if row.quiet else None, end_section=row.section)
    return Group(shown, *map(Text, table.legend()), "")


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
    return re.sub(r"([\\|<>`*_\[\]])", r"\\\1", " ".join(text.split()))


def csv_text(*tables: Table) -> str:
    """Return every number of the tables, one per line, with its table, row and column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "row", "column", *_NUMBERS])
    for table in tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                if cell is not EMPTY:
                    place = [table.title, " / ".join(row.labels), column]
                    writer.writerows([*place, *(getattr(it, name) for name in _NUMBERS)] for it in cell.numbers())
    return text.getvalue()


def html(table: Table, identifier: str | None = None) -> Markup:
    """Return the table as an HTML element, escaped, with its legend as a list.

    Args:
        table: The table.
        identifier: The ``id`` of its caption, by which the page refers to it.
    """
    from markupsafe import Markup, escape

    words = len(table.headings) - len(table.columns)

    def cells(texts: Sequence[str]) -> Markup:
        parts = []
        for place, text in enumerate(texts):
            opening = (
                'th scope="row" dir="auto"' if place == 0 else 'td dir="auto"' if place < words else 'td class="number"'
            )
            parts.append(Markup("<{}>{}</{}>").format(Markup(opening), text, opening[:2]))
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
    frame = Markup("<table>\n{}\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>\n</table>{}")
    return frame.format(caption, headings, body, listed)


def latex(table: Table) -> str:
    """Return the table for LaTeX with ``booktabs``; the legend stands below the rules."""
    words = len(table.headings) - len(table.columns)
    lines = [
        "% \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escape_latex(table.title)}}}",
        f"\\begin{{tabular}}{{{'l' * words}{'r' * len(table.columns)}}}",
        "\\toprule",
        _latex_row(table.headings),
        "\\midrule",
    ]
    rows = list(table.lines())
    for number, (row, texts) in enumerate(rows):
        lines.append(_latex_row(texts))
        ends = number + 1 < len(rows) and rows[number + 1][0] is not row
        if ends and (row.section or table.has_published):
            lines.append("\\midrule")
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"\\par\\footnotesize {escape_latex(sentence)}" for sentence in table.legend()]
    return "\n".join([*lines, "\\end{table}", ""])


def escape_latex(text: str) -> str:
    """Return ``text`` with the characters that LaTeX would read as commands escaped."""
    return text.translate(_LATEX)


def _latex_row(texts: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, texts)) + " \\\\"


RENDERERS: dict[str, Callable[..., Any]] = {
    "terminal": terminal,
    "markdown": markdown,
    "csv": csv_text,
    "html": html,
    "latex": latex,
}
"""Formats that a table is printed in, as ``--format`` names them."""
