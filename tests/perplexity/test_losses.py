"""Nats per block, against whole logits and a loop over positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import lnbench
from lnbench.demo import CORPUS
from lnbench.model import logits
from lnbench.model.locate import locate
from lnbench.perplexity.losses import block_nats
from lnbench.perplexity.slices import Slice, cut
from tests.support.messages import refused
from tests.support.tiny import CONFIGS, VOCABULARY, build


def by_loop(model: Any, text: Slice) -> list[float]:
    """Every block by itself, every position by itself."""
    found = []
    for block, counted in zip(text.blocks, text.counted, strict=True):
        with torch.no_grad():
            logits = model(block.unsqueeze(0)).logits[0].double()
        total = 0.0
        for place in range(text.ahead, len(block)):
            if counted[place - text.ahead]:
                total -= float(logits[place - text.ahead].log_softmax(-1)[block[place]])
        found.append(total)
    return found


@pytest.fixture
def few_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits in chunks of 32 positions, so that blocks and batches are divided."""
    monkeypatch.setattr(logits, "_BUFFER_BYTES", {"cpu": 1})


@pytest.mark.usefixtures("few_positions")
@pytest.mark.parametrize("mode", ["pack", "truncate"])
@pytest.mark.parametrize("model_type", CONFIGS)
def test_every_architecture(model_type: str, mode: str, tokenizer: Any) -> None:
    text = cut(tokenizer, CORPUS, "zh", tokens=130, length=48, mode=mode)
    model = build(model_type)
    assert block_nats(locate(model), text, 2) == pytest.approx(by_loop(model, text), rel=1e-5)


@pytest.mark.parametrize("bos", ["block", "document"])
def test_the_papers_labels_are_shifted_twice(bos: str, tokenizer: Any) -> None:
    """As the published code: labels are shifted in the data, and a second time in Hugging Face's loss."""
    text = cut(tokenizer, CORPUS, "en", tokens=130, length=48, bos=bos, labels="paper")
    model = build("llama")
    assert block_nats(locate(model), text, 2) == pytest.approx(by_loop(model, text), rel=1e-5)
    for block, counted, nats in zip(text.blocks, text.counted, block_nats(locate(model), text, 2), strict=True):
        with torch.no_grad():
            logits = model(block[None, :-1]).logits[0]
        shifted = block[1:].clone()
        shifted[1:][~counted] = -100
        loss = torch.nn.functional.cross_entropy(logits[:-1], shifted[1:], reduction="sum", ignore_index=-100)
        assert nats == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize(
    ("model_type", "change", "other"),
    [
        ("gemma2", {"final_logit_softcapping": 0.5}, {"final_logit_softcapping": None}),
        ("cohere", {"logit_scale": 0.1}, {"logit_scale": 1.0}),
        ("granite", {"logits_scaling": 7.0}, {"logits_scaling": 1.0}),
    ],
)
def test_what_a_model_does_to_its_logits_is_done(
    model_type: str, change: dict[str, Any], other: dict[str, Any], slices: dict[str, Slice]
) -> None:
    changed, plain = build(model_type, **change), build(model_type, **other)
    found = block_nats(locate(changed), slices["en"], 4)
    assert found == pytest.approx(by_loop(changed, slices["en"]), rel=1e-5)
    assert abs(found - block_nats(locate(plain), slices["en"], 4)).max() > 1


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_do_not_matter(model: Any, slices: dict[str, Slice], batch_size: int) -> None:
    assert block_nats(locate(model), slices["hi"], batch_size) == pytest.approx(by_loop(model, slices["hi"]), rel=1e-5)


def test_no_more_logits_at_a_time_than_the_buffer_holds(
    model: Any, slices: dict[str, Slice], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logits, "_BUFFER_BYTES", {"cpu": 4 * VOCABULARY * 40})
    asked: list[int] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, __, logits: asked.append(logits.shape[:-1].numel()))
    block_nats(locate(model), slices["en"], 100)
    handle.remove()
    assert max(asked) == 40
    assert sum(asked) == slices["en"].tokens.sum()


@pytest.mark.parametrize("mode", ["pack", "truncate"])
def test_under_an_override(model: Any, tokenizer: Any, mode: str) -> None:
    text = cut(tokenizer, CORPUS, "vi", tokens=150, length=40, mode=mode)
    neurons = {0: torch.tensor([1, 5]), 2: torch.tensor([7])}
    with lnbench.override(model, neurons, "zero") as applied:
        expected = by_loop(model, text)
        alone, applied.tokens = applied.tokens, 0
        found = block_nats(locate(model), text, 3, applied=applied)
    assert found == pytest.approx(expected, rel=1e-5)
    assert applied.tokens == alone == sum(map(len, text.blocks))
    assert abs(found - block_nats(locate(model), text, 3)).max() > 0.01


def test_half_precision_is_summed_in_full(slices: dict[str, Slice]) -> None:
    model = build("llama").bfloat16()
    found, expected = block_nats(locate(model), slices["en"], 4), by_loop(model, slices["en"])
    assert found == pytest.approx(expected, rel=5e-3)
    assert len({float(np.float32(one)) for one in found}) == len(found)


def test_the_model_is_left_as_it_was(model: Any, slices: dict[str, Slice]) -> None:
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    block_nats(locate(model), slices["en"], 4)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before


def test_progress_is_told_in_tokens(model: Any, slices: dict[str, Slice]) -> None:
    told: list[int] = []
    block_nats(locate(model), slices["en"], 3, on_tokens=told.append)
    assert sum(told) == slices["en"].tokens.sum()
    assert len(told) == math.ceil(len(slices["en"].blocks) / 3)


def test_a_loss_that_is_no_number(slices: dict[str, Slice]) -> None:
    model = build("llama")
    sites = locate(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with refused("'en'", "finite", "dtype=float32"):
        block_nats(sites, slices["en"], 4)
