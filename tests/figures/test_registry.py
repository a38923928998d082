"""One registry of figures for the command and the page: what is in it, and that one file adds a figure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lnbench.figures
from lnbench.figures.registry import FIGURES, FigureData, draw_all, register_all
from lnbench.neurons import NeuronSet

_NEW = """
from lnbench.figures.figure import Figure
from lnbench.figures.registry import drawn_from, neuron_sets


@drawn_from(neuron_sets)
def largest_language(neurons):
    language = max(neurons, key=neurons.count)
    rows = [(language, neurons.count(language))]
    return Figure("largest", "Largest", "", "", ("language", "neurons"), rows, (1, 1), lambda drawing: None)
"""


@pytest.fixture
def one_more_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "largest_language.py").write_text(_NEW, encoding="utf-8")
    before = dict(FIGURES)
    monkeypatch.setattr(lnbench.figures, "__path__", [*lnbench.figures.__path__, str(tmp_path)])
    register_all(lnbench.figures)
    yield
    FIGURES.clear()
    FIGURES.update(before)
    sys.modules.pop("lnbench.figures.largest_language")


def test_every_figure_function_is_registered() -> None:
    assert set(lnbench.figures.__all__) - {"FORMATS", "Figure", "FigureKind", "Plot", "save", "table"} == set(FIGURES)


def test_one_file_adds_a_figure(one_more_file: None, lape: NeuronSet) -> None:
    drawn = {figure.name: figure for figure in draw_all(FigureData(neuron_sets={"lape": lape}))}
    assert list(drawn["largest"].rows) == [("ur", 5)]


@pytest.mark.parametrize(("most", "figures"), [(None, 1), (1, 0)])
def test_pairs_can_be_limited(lape: NeuronSet, act_prob: NeuronSet, most: int | None, figures: int) -> None:
    data = FigureData(neuron_sets={"lape": lape, "act_prob": act_prob}, most_paired=most)
    assert len(list(FIGURES["selector_overlap"](data))) == figures


def test_names_are_distinct(lape: NeuronSet) -> None:
    names = [figure.name for figure in draw_all(FigureData(neuron_sets={"first": lape, "second": lape}))]
    assert len(set(names)) == len(names)
