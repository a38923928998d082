"""The README and the pages of ``docs/``, taken apart: links, code blocks, table rows and shell commands."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import typer

from lnbench.cli import app
from lnbench.cli.listing import every_command

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(page for page in DOCS.rglob("*.md") if not page.name.startswith("benchmarks-gpu"))]
PROJECT_PAGES = sorted((ROOT / ".github").glob("*.md"))
"""Those for contributors, which are not on the site."""

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    """A page as it is called in ``docs/``; ``README.md``."""
    return str(page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT))


def read(page: str | Path) -> str:
    """A page of ``docs/`` by name, or any by path."""
    return (DOCS / page).read_text(encoding="utf-8")


def everything() -> str:
    """All pages, one after the other."""
    return "\n".join(read(page) for page in PAGES)


def blocks(page: str | Path, language: str) -> list[str]:
    """The fenced code blocks of one language."""
    return [textwrap.dedent(body) for _, found, body in _BLOCK.findall(read(page)) if found == language]


def prose(page: str | Path) -> str:
    """A page without its fenced code blocks."""
    return _BLOCK.sub("", read(page))


def row(page: str | Path, name: str, under: str = "") -> list[str]:
    """The other cells of the table row that starts with ``name`` in backticks, below the heading ``under``."""
    text = read(page)
    if under:
        assert under in text, f"{page} has no heading {under}"
        text = text.partition(under)[2]
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and f"`{name}`" in cells[0].split(", "):
            return cells[1:]
    raise AssertionError(f"{page} has no table row for `{name}`" + (f" under {under}" if under else ""))


def links(page: Path) -> list[str]:
    """The targets of a page's links inside the project."""
    return [target for target in _LINK.findall(prose(page)) if not target.startswith(("http:", "https:"))]


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get on GitHub and on the site."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path, *programs: str) -> Iterator[list[str]]:
    """The shell commands of a page that run one of ``programs``, as lists of words.

    Commands stand in ``sh`` blocks; in running text those count that have options and no placeholder.
    """
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += [
        code for code in inline(page) if " -" in code and "…" not in code and not re.search(r"\b[A-Z]{4,}\b", code)
    ]
    for line in lines:
        if line.split(" ", 1)[0] in programs:
            yield words_of(line)


def words_of(line: str) -> list[str]:
    """Split a command into words, without a file that its output goes to."""
    words = shlex.split(line, comments=True)
    return words[: words.index(">")] if ">" in words else words


def inline(page: str | Path) -> list[str]:
    """The code in a page's running text."""
    return _INLINE.findall(prose(page))


def commandline() -> typer.core.TyperGroup:
    """The command line with every command's work taken out: it parses, and does nothing."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    for _, command in every_command(group):
        command.callback = lambda *_, **__: None
    group.callback = lambda *_, **__: None
    return group


def section(page: str | Path, heading: str) -> str:
    """What stands below a heading, up to the next heading."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", prose(page), re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no section {heading}"
    return found.group(1)
