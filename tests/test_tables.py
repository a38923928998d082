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
    shown = printed([row("acc", 0.5, delta=-0.25), row("bits_per_byte", 2.0, delta=0.125, significant=True)])
    assert "acc (change in bits_per_byte)" in shown
    assert "More bits per byte" in shown
    assert "0.50 (+0.12)*" in shown
    assert "–" in shown


def test_a_task_with_other_metrics_shows_its_own() -> None:
    shown = printed([row("chrf", 31.5, delta=-2.0, p_value=0.2), row("ter", 80.0)])
    assert "chrf (change in chrf)" in shown
    assert "31.50 (-2.00) " in shown
    assert "More bits per byte" not in shown


@pytest.mark.parametrize("significant", [True, False, None])
def test_stars(significant: bool | None) -> None:
    assert ("0.50 (-0.25)*" in printed([row("acc", 0.5, delta=-0.25, significant=significant)])) == bool(significant)


def test_controls_and_failures() -> None:
    shown = printed(
        [
            row("acc", 0.5, delta=-0.25, selector="random:like=lape:seed=0", control_of="lape"),
            row("acc", 0.5).model_copy(update={"metric": None, "value": None, "status": "failed", "language": "zh"}),
        ]
    )
    assert "random like lape" in shown
    assert "seed=0" not in shown


def test_without_rows_there_is_still_a_table() -> None:
    assert "no metric" in printed([])
