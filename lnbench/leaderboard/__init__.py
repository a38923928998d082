"""Records of sweeps → a leaderboard: every result beside its baseline and its controls, with honest statistics."""

from pathlib import Path

from lnbench.leaderboard.compared import build
from lnbench.leaderboard.merged_records import read_runs
from lnbench.leaderboard.rows import FORMAT, Leaderboard, Row, load, save
from lnbench.leaderboard.versus import compare_sides

__all__ = ["FORMAT", "Leaderboard", "Row", "build", "compare_sides", "load", "load_leaderboard", "read_runs", "save"]


def load_leaderboard(*sources: str | Path) -> Leaderboard:
    """Return the leaderboard of one or more runs, or read one that was saved.

    Args:
        sources: Folders of sweeps or their ``records.jsonl``; or one ``leaderboard.json``.

    Raises:
        LnbenchError: a file is missing or damaged, or two runs disagree.
    """
    (first, *others) = map(Path, sources)
    return load(first) if first.suffix == ".json" and not others else build(read_runs([first, *others]))
