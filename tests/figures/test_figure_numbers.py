"""Every figure shows the numbers that it was given: read back from what is drawn, and from its table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lnbench import analysis, figures
from lnbench.figures.registry import FIGURES, FigureData
from lnbench.figures.style import SMALLEST
from lnbench.leaderboard import Row
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.statistics import Statistics
from tests.support.figure_data import DELTAS, LANGUAGES, curve_of, dose_rows, matrix_of, pair_rows
from tests.support.messages import lacks, refused
from tests.support.samples import normal, statistics_of


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def table(figure: figures.Figure) -> list[dict[str, Any]]:
    return [dict(zip(figure.columns, row, strict=True)) for row in figure.rows]


def image(axes: Any) -> np.ndarray[Any, Any]:
    """The numbers behind the colours, NaN where there is none."""
    (mesh,) = (one for one in axes.collections if hasattr(one, "get_coordinates"))
    return np.ma.filled(mesh.get_array(), np.nan)


# Neurons


def test_bars_are_the_counts(lape: NeuronSet, act_prob: NeuronSet) -> None:
    figure = figures.neurons_per_language.data({"one": lape, "two": act_prob})
    (axes,) = figure.draw().axes
    drawn = [[bar.get_width() for bar in container] for container in axes.containers]
    assert drawn == [[0, 4, 5, 0], [0, 3, 2, 1]]  # en hi ur zh
    assert texts(axes) == ["0", "4", "5", "–", "–", "3", "2", "1"]
    assert [label.get_text().split(" · ")[:2] for label in axes.get_yticklabels()] == [
        *(["en", "English"], ["hi", "Hindi"], ["ur", "Urdu"], ["zh", "Chinese"])
    ]
    assert not lacks(axes.get_xlabel(), "neurons", "24")
    counts = {(row["selector"], row["language"]): row["neurons"] for row in table(figure)}
    assert counts["one", "ur"] == 5 and counts["one", "zh"] is None
    assert {row["share_of_model"] for row in table(figure) if row["neurons"] == 4} == {4 / 24}


def test_sets_of_two_models_are_not_put_side_by_side(lape: NeuronSet) -> None:
    other = NeuronSet("other", 4, 8, {"hi": {0: [1]}})
    with refused("two", "other", "org/tiny"):
        figures.neurons_per_language.data({"one": lape, "two": other})
    with refused("to draw"):
        figures.neurons_per_language.data({})


def test_layers_are_drawn_from_the_bottom_up(lape: NeuronSet) -> None:
    figure = figures.neurons_per_layer.data(lape)
    axes, bar = figure.draw().axes[:2]
    assert image(axes).tolist() == [[0, 3, 2], [0, 0, 3], [0, 1, 0]]  # layers × (en, hi, ur)
    low, high = axes.get_ylim()
    assert low < high and axes.get_ylabel() == "layer" and bar.get_ylabel() == "neurons"
    assert texts(axes) == ["3", "2", "3", "1"]
    assert {row["share_of_layer"] for row in table(figure) if row["neurons"] == 3} == {3 / 8}
    assert len(figure.rows) == 9


def test_ridges_have_one_scale(lape: NeuronSet) -> None:
    figure = figures.layer_profile.data(lape)
    (axes,) = figure.draw().axes
    steps = [patch.get_data() for patch in axes.patches if patch.get_fill()]
    heights = [(step.baseline - np.asarray(step.values)) / 1.5 * 3 for step in steps]  # 3 is the most in a layer
    np.testing.assert_allclose(heights, [lape.per_layer(code).tolist() for code in lape.languages])
    assert all(step.edges.tolist() == [-0.5, 0.5, 1.5, 2.5] for step in steps)
    assert texts(axes) == ["none", "4", "5"]
    high, low = axes.get_ylim()
    assert high > low and axes.get_xlabel() == "layer"  # a ridge rises
    assert {row["share_of_language"] for row in table(figure) if row["language"] == "hi"} == {3 / 4, 0, 1 / 4}
    assert {row["share_of_language"] for row in table(figure) if row["language"] == "en"} == {None}


@pytest.mark.parametrize(
    "make", [figures.neurons_per_layer.data, figures.layer_profile.data, figures.language_overlap.data]
)
def test_a_set_without_languages_is_an_error(make: Any) -> None:
    with refused("NeuronSet", "languages"):
        make(NeuronSet("tiny", 3, 8, {}))


def test_many_layers_and_one_language() -> None:
    chosen = {"hi": torch.rand(80, 50, generator=torch.Generator().manual_seed(0)) < 0.1}
    neurons = NeuronSet.from_masks("deep", chosen)
    axes = figures.neurons_per_layer.data(neurons).draw().axes[0]
    assert image(axes)[:, 0].tolist() == neurons.per_layer("hi").tolist()
    assert len(axes.get_yticks()) == 40


# Overlaps


def test_overlap_between_languages(lape: NeuronSet) -> None:
    figure = figures.language_overlap.data(lape)
    axes, beside = figure.draw().axes[:2]
    nan = float("nan")
    expected = [[nan, nan, nan], [0, nan, 0.5], [0, 0.4, nan]]  # of en's (none), hi's, ur's neurons
    np.testing.assert_allclose(image(axes), expected)
    np.testing.assert_allclose(image(beside), [[nan], [0.5], [0.6]])
    assert texts(axes)[4:] == ["4", "50%\nchance 19%", "0%\nchance 0%", "40%\nchance 15%", "5"]
    assert axes.get_xlabel() and axes.get_ylabel()
    low, high = axes.get_ylim()
    assert low > high  # the first language on top
    row = next(row for row in table(figure) if (row["language"], row["other"]) == ("hi", "ur"))
    assert (row["shared"], row["neurons"], row["share"]) == (2, 4, 0.5)
    assert row["expected"] == pytest.approx(3 * 2 / 8) and row["excess"] == pytest.approx(2 - 6 / 8)
    assert "2 of Hindi's 4 neurons are Urdu's too, where chance would give 0.8" in figure.caption


def test_overlap_between_selectors(lape: NeuronSet, act_prob: NeuronSet) -> None:
    figure = figures.selector_overlap.data(lape, act_prob)
    (axes,) = figure.draw().axes
    drawn = {one.get_label(): [bar.get_width() for bar in one] for one in axes.containers}
    assert drawn == {"lape:bar=0.9 only": [2, 4], "both": [2, 1], "act_prob only": [1, 1]}
    assert texts(axes)[0] == "both 2 (chance 0.8), Jaccard 0.40"
    row = table(figure)[0]
    assert (row["first"], row["second"], row["shared"], row["jaccard"]) == (4, 3, 2, 0.4)


def test_stability(lape: NeuronSet, act_prob: NeuronSet) -> None:
    rows = analysis.compare_halves({"lape": (lape, act_prob), "other": (lape, lape)})
    kept = analysis.Stability(
        model="tiny", corpus="x", site="post", tokens={"hi": (1, 1)}, length=64, seed=0, rows=rows
    )
    figure = figures.stability.data(kept)
    (axes,) = figure.draw().axes
    drawn = {line.get_label(): line.get_xdata() for line in axes.lines if not line.get_label().startswith("_")}
    np.testing.assert_allclose(drawn["lape"], [2 / 5, 1 / 6])
    np.testing.assert_allclose(drawn["other"], [float("nan"), 1, 1])  # en has no neurons
    assert "Jaccard" in axes.get_xlabel() and "0.17 to 1.00" in figure.alt
    assert table(figure)[0]["expected"] == pytest.approx(0.75)
    with refused("rows"):
        figures.stability.data(kept.model_copy(update={"rows": []}))


def test_a_curve_of_stability() -> None:
    curve = curve_of()
    figure = figures.stability_curve.data(curve)
    panels = figure.draw().axes
    assert [axes.get_title() for axes in panels] == curve.selectors == ["lape", "act_prob"]
    for axes, selector in zip(panels, curve.selectors, strict=True):
        *lines, target = axes.lines
        for line, language in zip(lines, curve.languages, strict=True):
            expected = np.array(curve.of(selector, language), dtype=float)
            np.testing.assert_array_equal(line.get_xydata(), expected)
        assert set(target.get_ydata()) == {0.95} and axes.get_xscale() == "log"
        assert axes.get_xticks().tolist() == [8192, 16384, 32768]
    assert np.isnan(panels[0].lines[0].get_xydata()[0, 1])  # en has no neurons at first
    assert not lacks(figure.caption, "32,768", "0.80", "0.95")
    assert [row["jaccard"] for row in table(figure)][:4] == [None, 0.75, 0.9, 0.5]
    with refused("points"):
        figures.stability_curve.data(curve.model_copy(update={"points": []}))


# Perplexity


def test_a_perplexity_matrix_in_nats(matrix: PerplexityMatrix) -> None:
    figure = figures.perplexity_matrix.data(matrix)
    axes, beside, bar = figure.draw().axes
    expected = [[DELTAS[i, j] for j in LANGUAGES] for i in LANGUAGES]
    np.testing.assert_allclose(image(axes), expected)
    assert texts(axes) == ["(+0.01)", "(−0.02)", "(0.00)", "+0.10", "+2.50", "+3.50", "+0.20", "+1.25", "+12.0"]
    assert texts(beside)[1:] == ["+0.70\nmost: ur", "+11.3\nmost: own"]
    framed = {patch.get_xy() for patch in axes.patches if patch.get_linewidth() > 1}
    assert framed == {(0, 0), (1, 1), (2, 2)}
    hatched = {patch.get_xy() for patch in axes.patches if patch.get_hatch()}
    assert hatched == {(0, 0), (1, 0), (2, 0)}
    (mesh,) = axes.collections
    assert mesh.norm.vmin == -12 and mesh.norm.vmax == 12  # white is no change
    assert not lacks(axes.get_ylabel(), "neurons") and not lacks(axes.get_xlabel(), "text")
    assert "nats per token" in bar.get_ylabel()
    assert "Hindi neurons Urdu text (+3.50)" in figure.alt and "3 draws" in figure.caption
    row = next(row for row in table(figure) if (row["changed"], row["read"]) == ("hi", "ur"))
    assert (row["delta"], row["low"], row["high"], row["unit"]) == (3.5, 3.45, 3.55, "nats per token")
    assert (row["n_controls"], row["exceeds_controls"], row["control_max_nats"]) == (3, True, 0.03)


@pytest.mark.parametrize(("unit", "factor"), [("perplexity", 1000), ("bits_per_byte", 0.5)])
def test_a_perplexity_matrix_in_other_units(unit: Any, factor: float, matrix: PerplexityMatrix) -> None:
    figure = figures.perplexity_matrix.data(matrix, unit)
    axes, bar = figure.draw().axes
    shown = image(axes)
    for i, changed in enumerate(LANGUAGES):
        for j, read in enumerate(LANGUAGES):
            if unit == "perplexity" and DELTAS[changed, read] > 10:
                assert np.isnan(shown[i, j])
            else:
                assert shown[i, j] == pytest.approx(factor * DELTAS[changed, read])
    assert figure.name == f"perplexity_matrix-{unit}-lape-zero"
    if unit == "perplexity":
        assert texts(axes)[5] == "+3.5k" and texts(axes)[8] == "> 1e308"
        assert [label.get_text() for label in bar.get_yticklabels()].count("1k") == 1


def test_an_unknown_unit_lists_the_known(matrix: PerplexityMatrix) -> None:
    with refused("bits", "bits_per_byte, nats, perplexity"):
        figures.perplexity_matrix.data(matrix, "bits")


def test_a_matrix_without_cells(matrix: PerplexityMatrix) -> None:
    with refused("cells"):
        figures.perplexity_matrix.data(matrix.model_copy(update={"changed": [], "cells": []}))


def test_a_dense_matrix_keeps_its_numbers() -> None:
    many = [*LANGUAGES, *(["bn", "es", "fr", "id", "ja", "kn", "ml", "mr", "pa", "ta", "te", "zh"])]
    axes, beside, _ = figures.perplexity_matrix.data(matrix_of(many)).draw().axes
    assert len(texts(axes)) == len(many) ** 2 and len(texts(beside)) == len(many)
    assert {"2.5", "12.0", "(0.0)"} <= set(texts(axes))
    assert min(text.get_fontsize() for text in axes.texts) >= SMALLEST


# Interventions


def test_interventions_with_intervals_and_controls(rows: list[Row]) -> None:
    figure = figures.interventions.data(rows)
    first, second = figure.draw().axes
    assert [axes.get_title().split(" · ")[0] for axes in (first, second)] == ["hi", "ur"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["zero-ablation", "10th percentile"]
    points = {
        round(float(line.get_xdata()[0]), 4): line.get_markerfacecolor()
        for axes in (first, second)
        for line in axes.lines
        if line.get_marker() in "os" and len(line.get_xdata()) == 1
    }
    assert sorted(points) == pytest.approx([number / 100 - 0.04 for number in range(8)])
    assert [value for value, face in sorted(points.items()) if face != "white"] == [-0.04, -0.03]
    bars = [tuple(line.get_xdata()) for line in first.lines if line.get_linewidth() == 5]
    assert bars[0] == pytest.approx((-0.01, 0.02)) and len(bars) == 4
    assert first.get_xlabel() == "change of accuracy"
    (legend,) = figure.draw().legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "LAPE, top 1\u00a0%",
        "Activation Probability, top 0.125\u00a0%",
        "as many random neurons",
    ]
    assert len(figure.rows) == 8 and "Right of 0 is better" in figure.caption
    row = table(figure)[0]
    assert row["control_mean_delta"] == pytest.approx(0.01) and row["control_min_delta"] == pytest.approx(-0.01)


def test_what_differs_between_rows_names_its_series(rows: list[Row]) -> None:
    more = [row.model_copy(update={"finetune": "en"}) for row in rows]
    chosen = {row["neurons"] for row in table(figures.interventions.data([*rows, *more]))}
    assert chosen == {"lape", "act_prob", "lape, finetune en", "act_prob, finetune en"}


def test_rows_that_share_no_figure(rows: list[Row]) -> None:
    with refused("baseline"):
        figures.interventions.data(rows[:1])
    with refused("models", "tasks", "metrics"):
        figures.interventions.data([*rows, rows[1].model_copy(update={"metric": "f1"})])


def test_doses(rows: list[Row]) -> None:
    (drawn,) = FIGURES["dose_response"](FigureData(leaderboards=[dose_rows()]))
    panels = drawn.draw().axes
    assert [axes.get_title().split(" · ")[0] for axes in panels] == ["hi", "ur"]
    for axes in panels:
        curves = [line.get_xydata() for line in axes.lines if len(line.get_xdata()) == 3]
        controls = [curve.tolist() for curve in curves if curve[0][1] > 0]
        found = [curve.tolist() for curve in curves if curve[0][1] < 0]
        for curve, step in zip(found, (1, 2), strict=True):
            np.testing.assert_allclose(curve, [(neurons, -step * neurons / 1000) for neurons in (10, 25, 120)])
        np.testing.assert_allclose(controls, [[(10, 0.01), (25, 0.01), (120, 0.01)]] * 2)
        assert axes.get_xscale() == "log" and axes.get_xlabel() == "neurons"
        faces = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() in "os"]
        assert faces.count("white") == 2  # 10 neurons, under either intervention
    assert "top_fraction" in drawn.title and not lacks(drawn.alt, "10 to 120", "-0.24")
    assert [row["neurons"] for row in table(drawn)][::4] == [10, 25, 120]
    with refused("neurons"):
        figures.dose_response.data(rows)


@pytest.mark.parametrize(
    "changes",
    [
        {"selector": "lape:top_fraction=0.01"},  # one selector alone
        {"neurons": 10},  # which all choose as many
        {"neurons": None},  # of an older version
        {"selector": "some/neurons.json"},
    ],
)
def test_no_dose_without_several(changes: dict[str, Any]) -> None:
    rows = [row.model_copy(update=changes) for row in dose_rows()]
    if "selector" in changes:
        rows = [row for row in rows if row.neurons == 10]
    assert not list(FIGURES["dose_response"](FigureData(leaderboards=[rows])))


def test_selectors_that_differ_in_two_numbers_are_no_dose() -> None:
    first, *_, last = dose_rows(["hi"])
    two = [first, last.model_copy(update={"selector": "lape:top_fraction=0.05:bar=0.5"})]
    assert not list(FIGURES["dose_response"](FigureData(leaderboards=[two])))


def test_pairs_have_one_order_of_languages() -> None:
    (figure,) = FIGURES["pairs"](FigureData(leaderboards=[pair_rows()]))
    axes = figure.draw().axes[0]
    names = [
        [label.get_text().partition("\n")[0].partition(" ")[0] for label in labels]
        for labels in (axes.get_xticklabels(), axes.get_yticklabels())
    ]
    assert names == [LANGUAGES, LANGUAGES]
    expected = [[np.nan if i == j else 0.5 + (i + 10 * j) / 1000 for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(image(axes), expected)
    assert texts(axes)[0] == "0.51\n+0.01"
    row = next(row for row in table(figure) if (row["source"], row["target"]) == ("ur", "hi"))
    assert row["delta"] == pytest.approx(0.012)
    with refused("pair"):
        figures.pairs.data([*pair_rows(), pair_rows()[0]])


# Activations


def test_activations(stats: dict[str, Statistics]) -> None:
    figure = figures.activation_statistics.data(stats, "pre")
    (axes,) = figure.draw().axes
    found = analysis.activation_averages(stats, "pre")
    for collection, (low, high) in zip(axes.collections, (("P5", "P95"), ("P10", "P90"), ("P25", "P75")), strict=True):
        ends = [segment[:, 0].tolist() for segment in collection.get_segments()]
        assert ends == [pytest.approx([one[low], one[high]]) for one in found.values()]
    assert axes.lines[0].get_xdata() == pytest.approx([one["mean"] for one in found.values()])
    assert [row["P90"] for row in table(figure)] == [one["P90"] for one in found.values()]
    assert "site pre" in axes.get_xlabel() and "before the non-linearity" in figure.caption
    with refused("to draw"):
        figures.activation_statistics.data({})


def test_a_name_that_looks_like_a_formula_is_text() -> None:
    named = {"$x_$": statistics_of(normal(20, 1, 2), language="$x_$", model="a$b^$")}
    figure = figures.activation_statistics.data(named)
    drawing = replace(figure, title=f"{figure.title} $\\frac").draw()
    drawing.draw_without_rendering()
    assert "a$b^$" in drawing.get_suptitle()
