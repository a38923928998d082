"""A report of a run of every kind, built once."""

from __future__ import annotations

from pathlib import Path

import pytest
from markupsafe import Markup

from lnbench import report
from lnbench.figures import Figure
from lnbench.report import page_figures as pictures
from lnbench.report.view import Picture
from tests.support.report import Sweep, write_matrix, write_reproduction, write_sweep, write_training


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep, a perplexity matrix, a reproduction and an adapter."""
    root = tmp_path_factory.mktemp("runs")
    write_sweep(root / "sweep")
    write_matrix(root / "ppl")
    write_reproduction(root / "table4")
    write_training(root / "adapter")
    return root


@pytest.fixture(scope="session")
def page(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of all of them, with its figures."""
    return report.build([runs], tmp_path_factory.mktemp("report"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures without their drawing, which takes longer than all else."""

    def picture(figure: Figure, _: Path) -> Picture:
        return Picture(figure.name, figure.title, figure.caption, Markup("<svg></svg>"), {})

    monkeypatch.setattr(pictures, "_picture", picture)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "sweep")
