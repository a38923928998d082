"""The picture of a training."""

from __future__ import annotations

from pathlib import Path

from lnbench.finetuning.training_log import plot


def test_a_log_without_measurements_can_be_drawn(tmp_path: Path) -> None:
    plot([], tmp_path / "empty.png")
    plot([{"step": 1, "loss": 2.0}], tmp_path / "one.png")
    assert (tmp_path / "one.png").exists()
