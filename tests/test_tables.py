"""The demo's table of results."""

from __future__ import annotations

import pytest
from rich.console import Console

from lnbench.leaderboard import Row
from lnbench.tables import results_table


def row(metric: str, value: float, **more: object) -> Row:
    given = {"model": "m", "selector": "lape", "finetune": "none", "intervention": "zero", "language": "hi"}
    return Row.model_validate(given | {"task": "t", "metric": metric, "value": value, "n": 8, "command": "…"} | more)


def printed(rows: list[Row]) -> str:
    console = Console(width=160, color_system=None)
    with console.capture() as captured:
        console.print(results_table(rows, ["hi", "zh"]))
    return captured.get()


def test_accuracy_and_the_change_in_surprise() -> None:
    shown = printed([row("acc", 0.5, delta=-0.25), row("bits_per_byte", 2.0, delta=0.125, p_value=0.01)])
    assert "acc (change in bits_per_byte)" in shown
    assert "More bits per byte" in shown
    assert "0.50 (+0.12)*" in shown
    assert "–" in shown


def test_a_task_with_other_metrics_shows_its_own() -> None:
    shown = printed([row("chrf", 31.5, delta=-2.0, p_value=0.2), row("ter", 80.0)])
    assert "chrf (change in chrf)" in shown
    assert "31.50 (-2.00) " in shown
    assert "More bits per byte" not in shown


@pytest.mark.parametrize(
    ("p_value", "starred"), [(0.0, True), (0.049, True), (0.05, False), (1.0, False), (None, False)]
)
def test_stars(p_value: float | None, starred: bool) -> None:
    assert ("0.50 (-0.25)*" in printed([row("acc", 0.5, delta=-0.25, p_value=p_value)])) == starred


def test_without_rows_there_is_still_a_table() -> None:
    assert "no metric" in printed([])
