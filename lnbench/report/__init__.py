"""One HTML page that tells what runs found: findings, tables, figures, samples, and how to repeat each number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PAGE = "index.html"


def build(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Write the report of some runs.

    A run is a folder. The report takes what is in it and in its subfolders: sweeps' records and samples, perplexity
    matrices, NeuronSets, reproductions and adapters' training records.

    Args:
        runs: Folders.
        out: Folder for ``index.html``, ``figures/`` (PNG, SVG, PDF and the numbers as CSV) and the leaderboard's
            files.

    Returns:
        The page, which needs no other file and no network.

    Raises:
        LnbenchError: there is nothing to report in a run, or a file in it is damaged; the message names it.
    """
    from lnbench.report.page import write

    return write([Path(run) for run in runs], Path(out))
