"""Records of sweeps → a leaderboard: every result beside its baseline and its controls, with honest statistics."""

from lnbench.leaderboard.cells import Cell, cell_values, rows_of
from lnbench.leaderboard.compared import build
from lnbench.leaderboard.results import read_runs
from lnbench.leaderboard.rows import FORMAT, Row, load, save

__all__ = ["FORMAT", "Cell", "Row", "build", "cell_values", "load", "read_runs", "rows_of", "save"]
