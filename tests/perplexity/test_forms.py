"""Neurons of text in another form, beside those of native text."""

from __future__ import annotations

import json

import pytest

from lnbench.neurons import NeuronSet
from lnbench.perplexity.forms import FILE, FormsRequest, run
from tests.support.corpora import as_jsonl
from tests.support.messages import refused


def test_requests_that_do_not_fit():
    with refused("romanized", "romanised, shuffled"):
        FormsRequest(forms="romanized")
    with refused("shuffled"):
        FormsRequest(corpus="x/{lang}.jsonl|shuffled")
    with refused("none"):
        FormsRequest(intervention="none")


@pytest.mark.slow
def test_sets_of_both_forms_are_compared_and_their_harm_is_measured(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for language, words in (
        ("en", "alpha beta gamma delta"),
        ("hi", "uno due tre quattro"),
        ("zh", "ein zwei drei vier"),
    ):
        texts = [f"{words} {number} {words[::-1]}" for number in range(60)]
        (tmp_path / f"{language}.jsonl").write_bytes(as_jsonl(texts))
    request = FormsRequest(
        model=tiny_model,
        model_args={"device": "cpu"},
        corpus=f"{tmp_path}/{{lang}}.jsonl",
        changed="hi",
        forms="shuffled",
        selector="act_prob:fraction=0.15",
        corpus_tokens=600,
        corpus_length=64,
        tokens=200,
        length=32,
        controls=1,
    )
    (row,) = run(request, tmp_path / "out", progress=False)
    native, other = (
        NeuronSet.load(tmp_path / "out" / "neurons" / f"{name}.json") for name in ("native", "hi-shuffled")
    )
    assert (row.language, row.form, row.published) == ("hi", "shuffled", None)
    assert row.jaccard == native.compare(other)["hi"].jaccard
    assert (row.native, row.other) == (native.count("hi"), other.count("hi"))
    assert 0 < row.expected <= row.expected_high <= 1
    assert row.harm_native.control is not None and row.harm_native.delta_nats != 0
    written = json.loads((tmp_path / "out" / FILE).read_text())
    assert written["rows"][0]["jaccard"] == row.jaccard and written["format"] == "lnbench.forms/1"
    with refused("fr", "en, hi, zh"):
        run(request.model_copy(update={"changed": ("fr",)}), tmp_path / "other", progress=False)
