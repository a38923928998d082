"""A report of a run of every kind, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lnbench import figures, report
from tests.support.report import EMPTY_SVG, Sweep, write_matrix, write_reproduction, write_sweep, write_training


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

    def save(figure: figures.Figure, folder: Path, *_chosen: object) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{figure.name}.{suffix}" for suffix in ("svg", "csv")]
        for file, text in zip(files, (EMPTY_SVG, figures.table(figure)), strict=True):
            file.write_text(text, encoding="utf-8", errors="replace")
        return files

    monkeypatch.setattr(figures, "save", save)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "sweep")
