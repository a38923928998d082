"""What neurons fire on, against a plain loop over every token; and what they promote, against the weights."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import lnbench
from lnbench.analysis.top_examples import NeuronExamples, top_examples
from lnbench.model.locate import locate
from lnbench.model.logit_lens import lens_logits
from lnbench.tables.explanations import explanations_csv, explanations_html, explanations_table, share_of_contexts
from lnbench.tables.render import csv_text
from tests.support.messages import lacks, refused
from tests.support.tiny import build, tokenizer

TEXTS = {"en": ["the cat sat", "a", "on <b>mats</b> & rugs", "the cat sat"], "hi": ["नमस्ते", "यह है", "x" * 40]}
NEURONS = {0: torch.tensor([1, 7]), 2: torch.tensor([0, 5, 23])}
LENGTH = 24


def values_of(model: Any, ids: list[int], site: str) -> dict[int, Tensor]:
    seen: dict[int, Tensor] = {}
    located = locate(model)
    handles = [
        located.observe(layer, lambda pre, post, layer=layer: seen.update({layer: pre if site == "pre" else post}))
        for layer in NEURONS
    ]
    with torch.no_grad():
        model(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return {layer: values.reshape(len(ids), -1) for layer, values in seen.items()}


@pytest.mark.parametrize(
    ("model_type", "site", "top"), [("gemma3_text", "post", 2), ("gpt2", "pre", 3), ("phi3", "post", 9)]
)
def test_top_examples_are_those_of_a_plain_loop(model_type: str, site: str, top: int) -> None:
    model, words = build(model_type), tokenizer()
    found = top_examples(model, words, NEURONS, TEXTS, top, site=site, length=LENGTH, batch_size=2, output_tokens=0)
    read = {
        (language, number): [words.bos_token_id, *words(text, add_special_tokens=False)["input_ids"]][:LENGTH]
        for language, texts in TEXTS.items()
        for number, text in enumerate(texts)
    }
    values = {place: values_of(model, ids, site) for place, ids in read.items()}
    assert [(neuron.layer, neuron.index) for neuron in found] == [
        (layer, index) for layer, indices in NEURONS.items() for index in indices.tolist()
    ]
    for neuron in found:
        own = {place: of[neuron.layer][1:, neuron.index] for place, of in values.items()}
        best = sorted(((float(of.max()), *place, int(of.argmax())) for place, of in own.items()), reverse=True)[:top]
        best = [one for one in best if one[0] > 0]
        assert [example.value for example in neuron.examples] == pytest.approx([one[0] for one in best], abs=1e-5)
        for example in neuron.examples:
            at = own[example.language, example.document]
            assert float(at[example.position]) == pytest.approx(example.value, abs=1e-5)
            assert (example.before + example.token + example.after).strip("\ufffd") in TEXTS[example.language][
                example.document
            ]
        for language in TEXTS:
            all_of = torch.cat([of for (code, _), of in own.items() if code == language])
            assert neuron.rates[language] == pytest.approx(float((all_of > 0).float().mean()))
            assert neuron.means[language] == pytest.approx(float(all_of.mean()), abs=1e-5)


def test_texts_without_languages_and_equal_texts_keep_their_order() -> None:
    model, words = build("llama"), tokenizer()
    found = lnbench.top_examples(model, words, {1: torch.tensor([3])}, ["same text"] * 5, top=3)
    assert [example.document for example in found[0].examples] in ([0, 1, 2], [])
    assert set(found[0].rates) == {"text"}


def test_no_more_documents_are_kept_than_neurons_need(monkeypatch: pytest.MonkeyPatch) -> None:
    model, words = build("llama"), tokenizer()
    texts = {"en": [f"text number {number}" for number in range(12)]}
    whole = top_examples(model, words, NEURONS, texts, 2, output_tokens=0, batch_size=3)
    monkeypatch.setattr("lnbench.analysis.top_examples._KEPT_ROWS", 1)
    assert top_examples(model, words, NEURONS, texts, 2, output_tokens=0, batch_size=3) == whole


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2", "opt", "olmo2"])
def test_promoted_tokens_are_those_of_the_down_projections_column(model_type: str) -> None:
    model: Any = build(model_type)
    sites = locate(model)
    logits = lens_logits(sites, NEURONS)
    base = model.base_model
    for layer, indices in NEURONS.items():
        down = model.get_submodule(sites.in_layer(layer)[0].after)
        weight = (down.weight if model_type == "gpt2" else down.weight.T).detach()
        directions = weight[indices]
        block = sites.blocks[layer]
        if behind := getattr(block, "post_feedforward_layernorm", None):
            directions = behind(directions)
        norm = getattr(base, "norm", None) or getattr(base, "ln_f", None) or base.decoder.final_layer_norm
        with torch.no_grad():
            normed = norm(directions) - norm(torch.zeros_like(directions))
        expected = normed @ model.get_output_embeddings().weight.T.detach()
        torch.testing.assert_close(logits[layer], expected, atol=1e-4, rtol=1e-4)


def test_the_direction_is_the_one_in_the_contexts() -> None:
    """Where the up projection turns a neuron's sign around, what it promotes and suppresses change places."""
    model, words = build("llama"), tokenizer()
    texts = {"en": ["the cat sat on the mat"]}
    before = top_examples(model, words, {0: torch.arange(24)}, texts, 1, output_tokens=4)
    with torch.no_grad():
        model.get_submodule(locate(model).banks[0].up.module).weight.neg_()  # type: ignore[union-attr]
    after = top_examples(model, words, {0: torch.arange(24)}, texts, 1, output_tokens=4)
    active = [(one, other) for one, other in zip(before, after, strict=True) if one.examples]
    assert active
    for one, other in active:
        assert [word for word, _ in one.promoted] == [word for word, _ in other.suppressed]
        assert [value for _, value in one.promoted] == pytest.approx([-value for _, value in other.suppressed])


def test_faults_are_named() -> None:
    model, words = build("llama"), tokenizer()
    with refused(24, "layer", 1):
        top_examples(model, words, {1: torch.tensor([24])}, ["text"])
    with refused("residual", "pre", "post"):
        top_examples(model, words, NEURONS, ["text"], site="residual")
    with refused("top", 0):
        top_examples(model, words, NEURONS, ["text"], 0)
    with refused("document"):
        top_examples(model, words, NEURONS, ["", " "])


def explained() -> list[NeuronExamples]:
    found = top_examples(build("llama"), tokenizer(), NEURONS, TEXTS, 2, output_tokens=3)
    silent = NeuronExamples(1, 4, (), {"en": 0.0, "hi": 0.0}, {"en": -0.1, "hi": -0.2})
    return [*found, silent]


def test_tables_and_pages_hold_every_context_escaped() -> None:
    found = explained()
    lines = list(csv.DictReader(io.StringIO(explanations_csv(found))))
    assert len(lines) == sum(max(1, len(neuron.examples)) for neuron in found)
    page = explanations_html(found, "hi")
    assert page.count("<mark") == sum(len(neuron.examples) for neuron in found)
    assert "<b>" not in page
    table = explanations_table(found, "hi")
    assert [row.labels[0] for row in table.rows] == [neuron.name for neuron in found]
    assert not lacks(csv_text(table), "1.4")
    contexts = [example.language for neuron in found for example in neuron.examples]
    assert share_of_contexts(found, "hi") == contexts.count("hi") / len(contexts)
    assert math.isnan(share_of_contexts([], "hi"))
    assert explanations_table([], "hi").rows == []
