"""What figures are drawn from, as fixtures."""

from __future__ import annotations

import pytest

from lnbench.figures import labels
from lnbench.leaderboard import Row
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.statistics import Statistics
from tests.support.figure_data import LANGUAGES, leaderboard_rows, matrix_of
from tests.support.samples import normal, statistics_of


@pytest.fixture(scope="session")
def lape() -> NeuronSet:
    chosen = {"hi": {0: [1, 2, 3], 2: [7]}, "ur": {0: [2, 3], 1: [5, 6, 7]}, "en": {}}
    return NeuronSet("org/tiny", 3, 8, chosen, {"name": "lape", "parameters": {"top_fraction": 0.01, "bar": 0.9}})


@pytest.fixture(scope="session")
def act_prob() -> NeuronSet:
    chosen = {"hi": {0: [1, 2], 1: [4]}, "ur": {0: [2], 2: [0]}, "zh": {1: [1]}}
    return NeuronSet("org/tiny", 3, 8, chosen, {"name": "act_prob", "parameters": {}})


@pytest.fixture(scope="session")
def matrix() -> PerplexityMatrix:
    return matrix_of(LANGUAGES)


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    return leaderboard_rows()


@pytest.fixture(scope="session")
def stats() -> dict[str, Statistics]:
    return {code: statistics_of(normal(200, 2, 4, seed=len(code)) + 0.1, language=code) for code in ("en", "hi")}


@pytest.fixture
def only_dejavu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without fonts but matplotlib's own."""
    monkeypatch.setattr(labels, "installed", lambda: frozenset({"DejaVu Sans"}))
    monkeypatch.setattr(labels, "_font", labels._font.__wrapped__)
