"""The page itself: what it holds, how large it may be, and what a browser may do with it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lnbench import __version__
from lnbench.files import write_text
from lnbench.leaderboard import Row, formats
from lnbench.leaderboard.grids import Grid, grids
from lnbench.report import PAGE, text
from lnbench.report.board import board
from lnbench.report.caveats import caveats
from lnbench.report.findings import findings, overall
from lnbench.report.harm import Harm, harm
from lnbench.report.overview import dates, models, overview
from lnbench.report.pictures import copied, pictures
from lnbench.report.published import comparisons, published
from lnbench.report.samples import Group, groups, within
from lnbench.report.sources import Sources, find
from lnbench.report.view import Picture, Table

MOST_BYTES = 5_000_000
"""A page that is larger is slow to open."""
LEADERBOARD = ("leaderboard.json", "leaderboard.csv")
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
    write_text(out / PAGE, _fitting(sources, _content(sources, out), most_bytes))
    return out / PAGE


def _fitting(sources: Sources, content: dict[str, Any], most_bytes: int) -> str:
    """The page with as much of leaderboard and samples as there is room for."""
    rows, samples = sources.rows, groups(sources.results)
    content = {**content, "total": len(rows), "measured": sum(group.total for group in samples)}
    for shown in _selections(rows):
        page = _rendered(content, shown, [])
        if (room := most_bytes - len(page.encode())) >= 0:
            break
    while room > _ROOM_OF_A_SAMPLE and samples:
        full = _rendered(content, shown, within(samples, room))
        if len(full.encode()) <= most_bytes:
            return full
        # The marks around the text take room too.
        room = room * 2 // 3
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


@dataclass(frozen=True)
class _Perplexity:
    harm: Harm
    picture: Picture
    overlap: Picture | None
    """What the languages share, which explains the matrix."""


def _content(sources: Sources, out: Path) -> dict[str, Any]:
    """All but leaderboard and samples."""
    drawn = pictures(sources, out)
    by_fingerprint = {neurons.fingerprint: neurons for neurons in sources.neuron_sets.values()}
    harms = [
        harm(folder.name, matrix, by_fingerprint.get(matrix.neuron_set)) for folder, matrix in sources.matrices.items()
    ]
    reproductions = [
        published(found, copied(folder, found.figures, drawn, out)) for folder, found in sources.reproductions.items()
    ]
    rows, overlaps = sources.rows, dict(drawn.overlaps)
    return {
        "models": models(sources),
        "dates": dates(sources),
        "runs": [run.name for run in sources.runs],
        "overview": overview(sources),
        "overall": overall(rows) if rows else "",
        "findings": [*findings(rows), *(one.finding for one in harms)],
        "near": [told for one in sources.reproductions.values() for told in comparisons(one)],
        "caveats": caveats(sources),
        "grids": [_table(grid) for grid in grids(rows)],
        "reproductions": reproductions,
        "perplexity": [
            _Perplexity(one, picture, overlaps.pop(matrix.neuron_set, None))
            for one, picture, matrix in zip(harms, drawn.matrices, sources.matrices.values(), strict=True)
        ],
        "pictures": [*drawn.others, *overlaps.values()],
        "data": LEADERBOARD if rows else (),
    }


def _table(grid: Grid) -> Table:
    quiet = frozenset(number for number, line in enumerate(grid.lines) if line.control)
    rows = [line.cells for line in grid.lines]
    return Table(grid.title, [*grid.names, *grid.languages], rows, len(grid.names), grid.notes, quiet)


def _rendered(content: dict[str, Any], rows: Sequence[Row], samples: Sequence[Group]) -> str:
    style, script = _asset("style.css"), _asset("page.js")
    return (
        _environment()
        .get_template("page.html")
        .render(
            **content,
            board=board(rows, content["total"]) if rows else None,
            samples=samples,
            left_out=content["measured"] - sum(len(group.documents) for group in samples),
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
