"""Records of sweeps → a leaderboard: every result beside its baseline and its controls, with honest statistics."""

from lnbench.leaderboard.compared import build
from lnbench.leaderboard.merged_records import read_runs
from lnbench.leaderboard.rows import FORMAT, Row, load, save
from lnbench.leaderboard.versus import compare_sides

__all__ = ["FORMAT", "Row", "build", "compare_sides", "load", "read_runs", "save"]
