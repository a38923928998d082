"""Selections on two halves of a corpus: the halves are disjoint, kept, and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import lnbench
from lnbench import analysis
from lnbench.analysis.stability import measure_stability
from lnbench.cli import app
from lnbench.corpora.corpus import open_corpus
from lnbench.neurons import NeuronSet
from lnbench.statistics.corpus_statistics import Reading
from tests.support.messages import refused

SELECTORS = ["act_prob:fraction=0.1", "random:fraction=0.2:seed=3"]


@pytest.fixture(scope="module")
def loaded(tiny_model: str) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)


def test_the_halves_are_every_other_document(loaded: tuple[Any, Any], tiny_corpus: str, tmp_path: Path) -> None:
    model, tokenizer = loaded
    readings = {code: Reading(corpus=tiny_corpus, length=64, mode="truncate") for code in ("hi", "en")}
    found = measure_stability(model, tokenizer, SELECTORS, tmp_path, readings, progress=False)
    documents = {code: list(open_corpus(tiny_corpus, code, seed=0)) for code in readings}
    halves = []
    for half in (0, 1):
        stats = {}
        for code, texts in documents.items():
            rows = [tokenizer(text, return_tensors="pt")["input_ids"][:, :64] for text in texts[half::2]]
            stats[code] = lnbench.collect_statistics(model, rows, language=code)
            assert stats[code].tokens == found.tokens[code][half]
        halves.append(lnbench.select(SELECTORS[0], stats))
    rows = {row.language: row for row in found.rows if row.selector == SELECTORS[0]}
    for code, agreement in halves[0].compare(halves[1]).items():
        assert rows[code].first == agreement.own
        assert rows[code].jaccard == pytest.approx(agreement.jaccard)
        assert rows[code].expected == pytest.approx(analysis.by_chance(*halves, code).shared)
    # One seed draws the same neurons from either half.
    assert {row.jaccard for row in found.rows if row.selector == SELECTORS[1]} == {1.0}


def test_a_language_without_neurons_is_neither_stable_nor_unstable(tmp_path: Path) -> None:
    chosen = {"hi": torch.tensor([[True, False]]), "ur": torch.tensor([[False, False]])}
    one = NeuronSet.from_masks("tiny", chosen)
    hi, ur = analysis.compare_halves({"lape": (one, one)})
    assert (hi.jaccard, hi.expected) == (1, 0.5)
    assert (ur.jaccard, ur.expected_jaccard) == (None, None)
    kept = analysis.Stability(
        model="tiny", corpus="x/{lang}.txt", site="post", tokens={"hi": (3, 4)}, length=64, seed=0, rows=[hi, ur]
    )
    kept.save(tmp_path / "stability.json")
    assert analysis.Stability.load(tmp_path / "stability.json") == kept


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"format": "lnbench.neurons/1"}, ["lnbench.stability/1"]),
        ({"format": "lnbench.stability/1"}, ["model"]),
    ],
)
def test_other_files_are_refused(content: dict[str, str], named: list[str], tmp_path: Path) -> None:
    (tmp_path / "stability.json").write_text(json.dumps(content), encoding="utf-8")
    with refused(*named):
        analysis.Stability.load(tmp_path / "stability.json")


def test_the_command_keeps_counts_and_goes_on(
    tiny_model: str, tiny_corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["neurons", "stability", SELECTORS[0], "--model", tiny_model, "--corpus", tiny_corpus]
    arguments += ["--languages", "hi+en", "--length", "32", "--out", str(tmp_path)]
    printed = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    assert "Jaccard" in printed and "by chance" in printed
    names = {"halves", "stability.json", "stability.csv", "stability.png", "stability.svg", "stability.pdf"}
    assert {path.name for path in tmp_path.iterdir()} == names
    first = analysis.Stability.load(tmp_path / "stability.json")
    monkeypatch.setattr("lnbench.statistics.corpus_statistics._count", lambda *_: pytest.fail("counted again"))
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert analysis.Stability.load(tmp_path / "stability.json").rows == first.rows


def test_an_unknown_selector_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    with refused("lapse"):
        CliRunner().invoke(
            app, ["neurons", "stability", "lapse", "--model", "/nowhere", "-o", str(tmp_path)], catch_exceptions=False
        )
