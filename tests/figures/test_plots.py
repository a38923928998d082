"""Every figure from Python: a figure of matplotlib, of whatever has its numbers."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from lnbench import analysis, figures
from lnbench.analysis.until_stable import StabilityCurve
from lnbench.figures.drawable import data_in
from lnbench.figures.registry import FIGURES
from lnbench.leaderboard import Leaderboard, Row
from lnbench.leaderboard import rows as leaderboard
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.statistics import Statistics
from tests.support.figure_data import curve_of, dose_rows, pair_rows
from tests.support.messages import refused
from tests.support.runs import RIGHT, WRONG, Run


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    lape: NeuronSet,
    act_prob: NeuronSet,
    matrix: PerplexityMatrix,
    rows: list[Row],
    stats: dict[str, Statistics],
) -> Path:
    """The folder of a run that has the numbers of every figure."""
    folder = tmp_path_factory.mktemp("run")
    lape.save(folder / "lape.json")
    act_prob.save(folder / "act_prob.json")
    matrix.save(folder / "perplexity.json")
    leaderboard.save([*rows, *pair_rows(), *dose_rows()], folder / "leaderboard.json")
    curve_of().save(folder / StabilityCurve.usual_name)
    for own in stats.values():
        own.save(folder / "statistics")
    halves = analysis.compare_halves({"lape": (lape, act_prob)})
    about: dict[str, Any] = {"model": "tiny", "corpus": "x", "site": "post", "tokens": {"hi": (1, 1)}, "length": 64}
    analysis.Stability(**about, seed=0, rows=halves).save(folder / "stability.json")
    return folder


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_one_of_matplotlib(name: str, run: Path, tmp_path: Path) -> None:
    kind = getattr(figures, name)
    assert isinstance(kind, figures.FigureKind)
    plot = kind(run)
    assert isinstance(plot, MatplotlibFigure) and plot.axes
    assert plot.caption and plot.alt and len(plot.rows[0]) == len(plot.columns)
    (saved,) = (file for file in figures.save(plot, tmp_path, []) if file.suffix == ".csv")
    assert len(list(csv.reader(io.StringIO(saved.read_text(encoding="utf-8"))))) == len(plot.rows) + 1
    with refused("99", plot.name):
        kind(run, which=99)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures as data in place of those of matplotlib, which take a second each."""
    monkeypatch.setattr(figures.Figure, "draw", lambda figure: figure)


def test_one_of_several_is_chosen_by_number_or_name(run: Path, tmp_path: Path, undrawn: None) -> None:
    names = [figure.name for figure in FIGURES["neurons_per_layer"](data_in([run]))]
    assert len(names) == 2
    assert [plot.name for plot in figures.neurons_per_layer.every(run)] == names
    assert figures.neurons_per_layer(str(run), which=names[1]).name == names[1]
    assert figures.neurons_per_layer(run / "lape.json", which=0).name in names
    with refused("neurons_per_layer", tmp_path.name):
        figures.neurons_per_layer(tmp_path)


def test_results_are_drawn_as_they_are(
    lape: NeuronSet,
    act_prob: NeuronSet,
    matrix: PerplexityMatrix,
    rows: list[Row],
    stats: dict[str, Statistics],
    undrawn: None,
) -> None:
    assert figures.neurons_per_layer(lape).rows == figures.neurons_per_layer.data(lape).rows
    assert figures.neurons_per_language({"a": lape, "b": act_prob}).rows[0][0] == "a"
    assert figures.selector_overlap(lape, act_prob) == figures.selector_overlap.data(lape, act_prob)
    assert figures.perplexity_matrix(matrix, unit="nats") == figures.perplexity_matrix.data(matrix, "nats")
    assert figures.interventions(Leaderboard(rows)) == figures.interventions.data(rows)
    assert figures.stability_curve(curve_of()) == figures.stability_curve.data(curve_of())
    assert figures.activation_statistics(stats).rows[0][0] == "en"
    assert [row[0] for row in figures.activation_statistics(stats["hi"], which=1).rows] == ["hi"]
    with refused("neurons_per_layer", "Statistics"):
        figures.neurons_per_layer(stats["hi"])


def test_numbers_can_be_read_back_from_the_drawing(lape: NeuronSet) -> None:
    axes = figures.neurons_per_layer(lape).axes[0]
    (mesh,) = (own for own in axes.collections if hasattr(own, "get_coordinates"))
    expected = [lape.per_layer(language).tolist() for language in lape]
    np.testing.assert_array_equal(np.asarray(mesh.get_array()), np.transpose(expected))
    assert figures.neurons_per_layer(lape)._repr_png_().startswith(b"\x89PNG")


def test_a_run_without_leaderboard_is_compared_when_it_is_drawn(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.add("none", {"acc": RIGHT})
    run.add("zero", {"acc": WRONG})
    assert [row[8] for row in figures.interventions(tmp_path).rows] == [-1.0]
