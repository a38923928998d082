"""Fixtures of the tests of leaderboards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runs import RIGHT, Run, control


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


@pytest.fixture
def full(run: Run) -> Run:
    """A baseline, an intervention that does harm, three controls that do not, and one that failed."""
    surprise = [1.0 + number / 100 for number in range(12)]
    run.add("none", {"acc": RIGHT, "bits_per_byte": surprise})
    run.add("zero", {"acc": [0.0] * 10 + [1.0] * 2, "bits_per_byte": [one + 0.5 + one / 7 for one in surprise]})
    for seed in range(3):
        acc = [float(number != seed) for number in range(12)]
        run.add("zero", {"acc": acc, "bits_per_byte": surprise}, **control(seed))
    run.add("p10", error="OutOfMemoryError: 3 GiB")
    return run
