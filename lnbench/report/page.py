"""The page itself: how large it may be, and what a browser may do with it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lnbench._version import __version__
from lnbench.files import write_text
from lnbench.leaderboard import Row
from lnbench.report import PAGE, text
from lnbench.report.inputs import Sources, find
from lnbench.report.leaderboard_table import board
from lnbench.report.page_context import LEADERBOARD, content
from lnbench.report.samples import Group, groups, within
from lnbench.tables import leaderboard_files as formats

MOST_BYTES = 5_000_000
"""A page that is larger is slow to open."""
_FEWEST_ROWS = 50
_ROOM_OF_A_SAMPLE = 5_000


def write(runs: Sequence[Path], out: Path, most_bytes: int = MOST_BYTES) -> Path:
    """Write the page, the figures and the leaderboard of some runs.

    Args:
        runs: Folders.
        out: Folder for all of it.
        most_bytes: Samples, then rows of the leaderboard, are left out of the page to keep it below.

    Raises:
        LnbenchError: there is nothing to report; a file is damaged or cannot be written.
    """
    sources = find(runs)
    rows = sources.rows
    if rows:
        for name in LEADERBOARD:
            formats.write(rows, out / name)
    write_text(out / PAGE, _fitting(sources, content(sources, out), most_bytes))
    return out / PAGE


def _fitting(sources: Sources, held: dict[str, Any], most_bytes: int) -> str:
    """The page with as much of leaderboard and samples as there is room for."""
    rows, samples = sources.shown_rows, groups(sources)
    held = {**held, "total": len(rows), "measured": sum(group.total for group in samples)}
    for shown in _selections(rows):
        page = _rendered(held, shown, [])
        if (room := most_bytes - len(page.encode())) >= 0:
            break
    while room > _ROOM_OF_A_SAMPLE and samples:
        full = _rendered(held, shown, within(samples, room))
        if len(full.encode()) <= most_bytes:
            return full
        # The marks around the text take room too.
        room = room * 4 // 5
    return page


def _selections(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """All rows; those of selectors; and of them ever fewer, those that changed most surely first."""
    own = [row for row in rows if row.control_of is None]
    surest = sorted(own, key=lambda row: 1.0 if row.p_holm is None else row.p_holm)
    found: list[Sequence[Row]] = [rows, own]
    while len(found[-1]) > _FEWEST_ROWS:
        kept = {id(row) for row in surest[: len(found[-1]) // 2]}
        found.append([row for row in own if id(row) in kept])
    return found


def _rendered(held: dict[str, Any], rows: Sequence[Row], samples: Sequence[Group]) -> str:
    style, script = _asset("style.css"), _asset("page.js")
    return (
        _environment()
        .get_template("page.html")
        .render(
            **held,
            board=board(rows, held["total"]) if rows else None,
            samples=samples,
            left_out=held["measured"] - sum(len(group.documents) for group in samples),
            version=__version__,
            # Both were written here; what comes from runs never gets near them.
            style=Markup(style),
            script=Markup(script),
            policy=_policy(style, script),
        )
    )


def _policy(style: str, script: str) -> str:
    """What a browser may do with the page: nothing but what was written here, and no network."""
    return "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"script-src {_hash(script)}",
            f"style-src {_hash(style)}",
            # matplotlib's figures say their colours so.
            "style-src-attr 'unsafe-inline'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


@cache
def _asset(name: str) -> str:
    return files("lnbench.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lnbench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=text.visible,
    )
    environment.filters["language_tag"] = text.language_tag
    return environment
