"""Results in notebooks: HTML that is escaped and says the numbers, tables of pandas, and short names."""

from __future__ import annotations

import base64
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lnbench
from lnbench.choices import plan
from lnbench.hookspecs import OverrideContext
from lnbench.leaderboard import Leaderboard
from lnbench.leaderboard.rows import Row
from lnbench.model.load import LoadedModel
from lnbench.neurons import NeuronSet
from lnbench.override_values import LayerOverride, Override
from lnbench.overrides import Applied
from lnbench.shown import Shown
from lnbench.statistics import Statistics
from lnbench.sweeps.records import Record, Records
from lnbench.testing import tiny_model
from tests.support.figure_data import leaderboard_rows, matrix_of
from tests.support.messages import refused
from tests.support.runs import RIGHT, WRONG, Run, control
from tests.support.samples import normal, statistics_of

_HOSTILE = "<script>alert('1')</script>&\"x"
LANGUAGES = ("hi", "en")


class _Elements(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def neurons(name: str = "tiny") -> NeuronSet:
    selector = {"name": "lape", "parameters": {"top_fraction": 0.01}}
    return NeuronSet(name, 3, 8, {"hi": {0: [1, 2], 2: [7]}, "en": {0: [2]}, "xx": {}}, selector)


def statistics(name: str = "tiny", language: str = "hi") -> Statistics:
    return replace(statistics_of(normal(50, 3, 8), language=language), provenance={"model": name})


def override() -> Override:
    return plan(neurons()["hi"], "mean", statistics())


def record(**changes: Any) -> Record:
    fields = {"cell": "0" * 16, "model": "tiny", "intervention": "zero", "language": "hi", "task": "quiz_hi"}
    return Record.model_validate({**fields, "metric": "acc", "value": 0.5, "n": 4, "command": "lm_eval", **changes})


RESULTS: dict[str, Any] = {
    "NeuronSet": neurons,
    "Statistics": statistics,
    "Override": override,
    "Records": lambda: Records([record(), record(language="en"), record(task="open_hi", metric=None, status="failed")]),
    "Leaderboard": lambda: Leaderboard(leaderboard_rows()),
}
HOSTILE: dict[str, Any] = {
    "NeuronSet": lambda: neurons(_HOSTILE),
    "Statistics": lambda: statistics(_HOSTILE, _HOSTILE),
    "Override": lambda: Override({0: LayerOverride(torch.tensor([1]), torch.tensor([1.0]))}, made_by=_HOSTILE),
    "Records": lambda: Records([record(model=_HOSTILE, task=_HOSTILE, language=_HOSTILE, intervention=_HOSTILE)]),
    "Leaderboard": lambda: Leaderboard([row.model_copy(update={"model": _HOSTILE}) for row in leaderboard_rows()]),
}


def test_every_result_is_covered() -> None:
    assert {own.__name__ for own in Shown.__subclasses__()} == set(RESULTS) == set(HOSTILE)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_has_a_small_heatmap_and_its_counts(name: str) -> None:
    read = _Elements(RESULTS[name]()._repr_html_())
    (image,) = (attributes for tag, attributes in read.tags if tag == "img")
    assert image["alt"]
    data = base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,"))
    assert data.startswith(b"\x89PNG") and len(data) < 40_000
    assert {"table", "caption", "th", "td"} <= {tag for tag, _ in read.tags}


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_no_markup(name: str) -> None:
    shown = HOSTILE[name]()._repr_html_()
    read = _Elements(shown)
    assert "script" not in {tag for tag, _ in read.tags}
    assert any("<script>" in text for text in read.texts)


def test_the_counts_are_those_of_the_set() -> None:
    read = _Elements(neurons()._repr_html_())
    rows = " ".join(text for text in read.texts if text.strip())
    assert "en 1 4.17% 1 0% hi 3 12.50% 2 67% xx 0 0.00% 0 –" in rows


@pytest.mark.parametrize("empty", [NeuronSet("tiny", 3, 8, {}), Override({}), Records(), Leaderboard()])
def test_what_is_empty_is_shown_too(empty: Any) -> None:
    _Elements(empty._repr_html_())
    assert len(empty.to_frame()) == 0


@settings(max_examples=20)
@given(st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.integers(0, 2), st.lists(st.integers(0, 7)))))
def test_the_frame_of_a_set_has_a_row_per_neuron(chosen: dict[str, dict[int, list[int]]]) -> None:
    held = NeuronSet("tiny", 3, 8, chosen)
    frame = held.to_frame()
    assert list(frame.columns) == ["language", "layer", "index"]
    expected = {
        (language, layer, index)
        for language in chosen
        for layer in chosen[language]
        for index in chosen[language][layer]
    }
    assert len(frame) == len(expected)
    assert set(frame.itertuples(index=False, name=None)) == expected


def test_the_frame_of_experts_names_the_expert() -> None:
    held = NeuronSet("tiny", 1, 8, {"hi": {0: [1, 5]}}, experts=[(0, 2, 2, 3)])
    assert list(held.to_frame().columns) == ["language", "layer", "index", "expert"]


def test_the_frame_of_statistics_has_a_row_per_neuron() -> None:
    held = statistics()
    frame = held.to_frame()
    assert len(frame) == 24
    for name in ("mean", "std", "min", "max", "positive_rate"):
        table = torch.tensor(frame.pivot(index="layer", columns="index", values=name).to_numpy())
        torch.testing.assert_close(table.float(), getattr(held, name).float())
    assert frame["p50"].tolist() == held.quantile(0.5).flatten().tolist()


def test_the_frame_of_an_override_has_a_row_per_unit() -> None:
    clamp = LayerOverride(torch.tensor([4, 5]), torch.tensor([[0.0, 1.0], [2.0, 3.0]]), "clamp")
    several = LayerOverride(torch.tensor([0]), torch.tensor([[1.0, 2.0]]), "add", site="attention")
    held = Override({1: [clamp, several], 0: LayerOverride(torch.tensor([7]), None, lambda old: old)})
    frame = held.to_frame().astype(object)
    assert frame.where(frame.notna(), None).to_numpy().tolist() == [
        [0, 7, None, "function", None],
        [1, 4, None, "clamp", [0.0, 2.0]],
        [1, 5, None, "clamp", [1.0, 3.0]],
        [1, 0, "attention", "add", [1.0, 2.0]],
    ]


def test_frames_of_runs_have_the_fields_of_the_files(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.add("none", {"acc": RIGHT})
    run.add("zero", {"acc": WRONG})
    run.add("zero", {"acc": RIGHT}, **control(0))
    records, board = lnbench.load_records(tmp_path), lnbench.load_leaderboard(tmp_path)
    frame = records.to_frame()
    assert frame["value"].tolist() == [own.value for own in records]
    assert set(Record.model_fields) == set(frame.columns)
    shown = board.to_frame()
    assert shown["delta"].tolist()[1] == -1.0
    assert set(shown.columns) == {name for name, field in Row.model_fields.items() if not field.exclude}
    lnbench.leaderboard.save(board, tmp_path / "leaderboard.json")  # type: ignore[attr-defined]
    assert lnbench.load_leaderboard(tmp_path / "leaderboard.json") == board


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with refused("pandas", "lnbench[notebooks]"):
        neurons().to_frame()


def test_frames_are_pandas() -> None:
    assert all(isinstance(make().to_frame(), pandas.DataFrame) for make in RESULTS.values())


_REPRS = {
    **RESULTS,
    "hostile path": lambda: neurons("/home/me/models/tiny"),
    "LayerOverride": lambda: LayerOverride(torch.arange(500), torch.rand(500)),
    "OverrideContext": lambda: OverrideContext(neurons()["hi"], statistics("/home/me/models/tiny"), target="hi"),
    "Applied": lambda: Applied(2, 1, 30),
    "LoadedModel": lambda: LoadedModel(tiny_model(), None),
    "Record": lambda: record(model="/home/me/models/tiny", selector="/home/me/sets/lape.json"),
    "Row": lambda: leaderboard_rows()[1],
    "PerplexityMatrix": lambda: matrix_of(["en", "hi"]),
    "Corpus": lambda: lnbench.open_corpus(lnbench.demo.CORPUS, "hi"),
}


@pytest.mark.parametrize("name", _REPRS)
def test_reprs_are_short_and_hold_no_path_and_nothing_private(name: str) -> None:
    shown = repr(_REPRS[name]())
    assert len(shown) < 160
    assert "/home" not in shown and "site-packages" not in shown and str(Path.cwd()) not in shown
    assert not re.search(r"\b_\w+=|object at 0x|tensor\(", shown)
