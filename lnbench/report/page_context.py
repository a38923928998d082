"""What a page holds, but for its leaderboard and samples, which depend on how much room there is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lnbench.report.caveats import caveats
from lnbench.report.findings import findings, overall
from lnbench.report.inputs import Sources
from lnbench.report.overview import dates, models, overview
from lnbench.report.page_figures import copied, pictures
from lnbench.report.perplexity_section import Harm, harm
from lnbench.report.published import finding, published
from lnbench.report.view import Picture, Table
from lnbench.tables.leaderboard import leaderboard_tables
from lnbench.tables.table import Table as DataTable

LEADERBOARD = ("leaderboard.json", "leaderboard.csv")


@dataclass(frozen=True)
class _Perplexity:
    harm: Harm
    picture: Picture
    overlap: Picture | None
    """What the languages share, which explains the matrix."""


def content(sources: Sources, out: Path) -> dict[str, Any]:
    """What the page's templates are given; the figures are written to ``out``.

    Raises:
        LnbenchError: a file cannot be written.
    """
    drawn = pictures(sources, out)
    by_fingerprint = {neurons.fingerprint: neurons for neurons in sources.neuron_sets.values()}
    harms = {
        folder: harm(folder.name, matrix, by_fingerprint.get(matrix.neuron_set))
        for folder, matrix in sources.shown_matrices.items()
    }
    reproductions = [
        published(found, copied(folder, found.figures, drawn, out)) for folder, found in sources.reproductions.items()
    ]
    # Those of a reproduction's matrices it has told itself.
    told = {(folder / run).resolve() for folder, found in sources.reproductions.items() for run in found.runs}
    rows, overlaps = sources.shown_rows, dict(drawn.overlaps)
    return {
        "models": models(sources),
        "dates": dates(sources),
        "runs": [run.name for run in sources.runs],
        "overview": overview(sources),
        "overall": overall(rows) if rows else "",
        "findings": [
            *(one for one in map(finding, sources.reproductions.values()) if one.verdict or one.details),
            *findings(rows),
            *(one.finding for folder, one in harms.items() if folder not in told),
        ],
        "caveats": caveats(sources),
        "grids": [_table(table) for table in leaderboard_tables(rows)],
        "reproductions": reproductions,
        "perplexity": [
            _Perplexity(one, picture, overlaps.pop(matrix.neuron_set, None))
            for one, picture, matrix in zip(harms.values(), drawn.matrices, sources.matrices.values(), strict=True)
        ],
        "pictures": [*drawn.others, *overlaps.values()],
        "data": LEADERBOARD if rows else (),
    }


def _table(table: DataTable) -> Table:
    quiet = frozenset(number for number, row in enumerate(table.rows) if row.quiet)
    texts = [texts for _, texts in table.lines()]
    return Table(table.title, table.headings, texts, len(table.labels), table.legend(), quiet)
