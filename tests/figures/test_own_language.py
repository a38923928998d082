"""The headline's figure shows the headline's numbers, read back from what is drawn."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.axes import Axes

from lnbench import figures
from lnbench.leaderboard import Row
from tests.support.messages import refused
from tests.support.rows import row

DELTAS = {"hi": 1.1, "ur": -0.2, "en": 0.01}


def compared(model: str = "m", **changes: Any) -> list[Row]:
    drawn = {"baseline": 0.5, "control": 0.52, "control_min": 0.51, "control_max": 0.54, "n_controls": 3}
    measured = {"metric": "bits_per_byte", "higher_is_better": False, "model": model}
    return [
        row("zero", code, delta=delta, ci_low=delta - 0.1, ci_high=delta + 0.1, significant=delta > 1).model_copy(
            update={**drawn, **measured, **changes}
        )
        for code, delta in DELTAS.items()
    ]


def marks(axes: Axes) -> dict[tuple[float, float], str]:
    """Where there is a filled or hollow mark: the change and the place of its language."""
    lines = [line for line in axes.lines if line.get_marker() in ("o", "s") and len(line.get_xdata()) == 1]
    return {
        (round(float(line.get_xdata()[0]), 6), round(float(line.get_ydata()[0]), 6)): str(line.get_markerfacecolor())
        for line in lines
    }


@pytest.mark.parametrize("width", ["page", "column"])
def test_changes_intervals_and_controls_are_the_rows(width: Any) -> None:
    (axes,) = figures.own_language.data(compared()).draw(width).axes
    shown = marks(axes)
    assert set(shown) == {(delta, float(place)) for place, delta in enumerate(DELTAS.values())}
    assert [face == "white" for face in shown.values()] == [False, True, True]
    ranges = [[round(float(x), 6) for x in line.get_xdata()] for line in axes.lines if len(line.get_xdata()) == 2]
    assert ranges.count([0.01, 0.04]) == 3 and [1.0, 1.2] in ranges and [-0.3, -0.1] in ranges
    assert [label.get_text().split(" · ")[1] for label in axes.get_yticklabels()] == ["Hindi", "Urdu", "English"]
    assert [text.get_text() for text in axes.texts] == ["+1.10", "−0.20", "+0.01"]
    assert axes.get_xlabel().replace("\n", " ") == "change of bits per byte (right is worse)"


def test_several_models_are_beside_each_other() -> None:
    figure = figures.own_language.data([*compared("a"), *compared("/somewhere/b")])
    (axes,) = figure.draw().axes
    assert len(marks(axes)) == 6 and not axes.texts
    (legend,) = axes.get_figure().legends  # type: ignore[union-attr]
    assert [text.get_text() for text in legend.get_texts()] == [
        "own neurons, a",
        "own neurons, b",
        "as many random neurons",
    ]
    assert len(figure.rows) == 6


def test_without_a_control_there_is_none() -> None:
    without = {"control": None, "control_min": None, "control_max": None, "n_controls": 0}
    figure = figures.own_language.data(compared(**without))
    (axes,) = figure.draw().axes
    assert len([line for line in axes.lines if len(line.get_xdata()) == 2]) == 3 + 1, "intervals, and the line at 0"
    assert "random" not in figure.caption


def test_an_adapter_and_pairs_are_named() -> None:
    adapter = figures.own_language.data(compared(intervention="none", selector="-", finetune="hindi", n_controls=0))
    assert adapter.title == "The adapter hindi: m"
    pairs = figures.own_language.data(compared(source="vi"))
    assert "Vietnamese → " in pairs.draw().axes[0].get_yticklabels()[0].get_text()


def test_rows_of_several_metrics_are_refused() -> None:
    for rows in ([], [*compared(), *compared(metric="acc")]):
        with refused("headline(rows).rows"):
            figures.own_language.data(rows)
