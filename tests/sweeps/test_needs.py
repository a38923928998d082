"""What a sweep will need: how many cells, refusals before anything starts, and hours of long ones only."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lnbench import estimates
from lnbench.cli import app
from lnbench.estimates import Room, Speed
from lnbench.sweeps import needs
from lnbench.sweeps.run_sweep import planned
from tests.support.messages import refused
from tests.support.sweeps import spec_of


@pytest.fixture
def given(tiny_model: str, tiny_corpus: str) -> dict[str, Any]:
    return {
        "pretrained": tiny_model,
        "corpus": tiny_corpus,
        "corpus_tokens": 400,
        "selector": "act_prob:fraction=0.15",
    }


def room(memory: float = 2**33, disk: float = math.inf) -> Room:
    return Room("cpu", memory, memory, lambda _: disk)


def test_what_cells_ask_for(given: dict[str, Any], tmp_path: Path) -> None:
    cells = planned(spec_of(given), tmp_path)
    ((loading, work),), unknown = needs.of_cells(cells, needs.looked_at)
    assert loading.model == given["pretrained"]
    assert work.samples == 2 * len(cells)
    assert work.counted == 5  # all languages of the corpus are compared
    assert work.rows == 4
    assert work.read > 5 * 400
    assert 0 < work.scored < work.read
    assert unknown == set()


def test_a_dry_run_says_how_many_cells_and_how_long(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = planned(spec_of(given), tmp_path)
    monkeypatch.setattr(estimates, "probe_shape", lambda *_: Speed(1.0, 0.0))
    first, second = needs.lines(cells, tmp_path, room())
    assert first == "10 cells"
    (_, work), *_ = needs.of_cells(cells, needs.looked_at)[0]
    assert f"about {(work.read + 0.5 * len(cells)) / 60:.0f} min" in second
    (_, refusal) = needs.lines(cells, tmp_path, room(memory=1))
    assert "does not fit" in refusal


@pytest.mark.parametrize("machine", [room(memory=1), room(disk=1)], ids=["memory", "disk"])
def test_cells_that_cannot_fit_are_refused(given: dict[str, Any], tmp_path: Path, machine: Room) -> None:
    with refused("cells of"):
        needs.check(planned(spec_of(given), tmp_path), tmp_path, Console(quiet=True), machine)


def test_a_short_sweep_is_not_announced(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, printed = planned(spec_of(given), tmp_path), io.StringIO()
    needs.check(cells, tmp_path, Console(file=printed), room())
    assert printed.getvalue() == ""
    monkeypatch.setattr(needs, "_SECONDS_PER_CELL", 60.0)
    needs.check(cells, tmp_path, Console(file=printed, width=200), room())
    assert "about 10 min" in printed.getvalue()


def test_documents_elsewhere_are_not_downloaded(given: dict[str, Any], tmp_path: Path) -> None:
    cells = planned(spec_of(given, tasks=["xcopa_{lang}"]), tmp_path)
    _, _, last = needs.lines(cells, tmp_path, room())
    assert "xcopa_en" in last


def test_the_command_says_it(given: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(spec_of(given).model_dump_json(exclude_defaults=True))
    result = CliRunner().invoke(app, ["sweep", str(file), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "# 10 cells\n" in result.output
