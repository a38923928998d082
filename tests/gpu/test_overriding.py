"""Overrides on the device: in bfloat16, with caches that are compiled, in 4 bits, over several devices."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lnbench import override
from lnbench.lm import LNBenchLM
from lnbench.model.locate import locate
from tests.lm.test_scoring import requests
from tests.support.overrides import LEFT, PROMPTS, REAL, change, generate, patched
from tests.support.tiny import SELECTOR, build

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operation", ["set", "scale", "add"])
def test_an_override_is_that_of_a_block_written_by_hand(device: str, dtype: torch.dtype, operation: str) -> None:
    model, ids = build("llama").to(device, dtype), PROMPTS.to(device)
    with torch.no_grad():
        plain = model(ids, use_cache=False).logits
        with override(model, change(operation)) as applied:
            found = model(ids, use_cache=False).logits
        with patched(locate(model).model, change(operation), "post"):
            expected = model(ids, use_cache=False).logits
        assert torch.equal(model(ids, use_cache=False).logits, plain)
    assert applied.tokens == PROMPTS.numel()
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, plain)


@pytest.mark.parametrize(("positions", "tokens"), [("all", REAL + 10), ("prompt", REAL), ("generated", 10)])
def test_generation_with_a_static_cache_is_that_with_a_growing_one(device: str, positions: Any, tokens: int) -> None:
    ids, mask = (tensor.to(device) for tensor in LEFT)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    model = build("llama").to(device)
    with torch.no_grad(), override(model, change(), positions=positions) as applied:
        expected = generate(model, ids, mask, 6)
    with torch.no_grad():
        # transformers compiles decoding on an accelerator by itself: once before the override, as in a session.
        model.generate(ids, attention_mask=mask, cache_implementation="static", **options)
        with override(model, change(), positions=positions) as applied_static:
            found = model.generate(ids, attention_mask=mask, cache_implementation="static", **options)
    assert applied.tokens == applied_static.tokens == tokens
    assert torch.equal(found, expected)


@needs_bitsandbytes
def test_a_model_in_four_bits(device: str, tmp_path: Path) -> None:
    build("llama", hidden_size=64, intermediate_size=128, head_dim=16).save_pretrained(tmp_path)
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantisation, dtype=torch.float32, device_map={"": device}
    )
    ids = PROMPTS.to(device)
    with torch.no_grad():
        plain = model(ids, use_cache=False).logits
        with override(model, change()) as applied:
            found = model(ids, use_cache=False).logits
        with patched(locate(model).model, change(), "post"):
            expected = model(ids, use_cache=False).logits
    assert applied.tokens == PROMPTS.numel()
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, plain)


@pytest.mark.parametrize("batch_size", [4, "auto"])
@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until"])
def test_answers_are_those_of_the_cpu(
    device: str, tiny_model: str, tiny_corpus: str, kind: str, batch_size: Any
) -> None:
    """``auto`` searches the batch size on the device, under the override."""
    given = {"corpus": tiny_corpus, "corpus_tokens": 400, "selector": SELECTOR, "intervention": "mean"}
    on_cpu = LNBenchLM(tiny_model, device="cpu", batch_size=4, **given)
    lm = LNBenchLM(tiny_model, device=device, batch_size=batch_size, max_batch_size=8, **given)
    expected, found = (getattr(one, kind)(requests(kind)) for one in (on_cpu, lm))
    if kind == "generate_until":
        assert found == expected
        return
    for (score, greedy), (wanted, wanted_greedy) in zip(found, expected, strict=True):
        assert (score, greedy) == (pytest.approx(wanted, abs=1e-3), wanted_greedy)


def test_layers_on_several_devices(device: str, tiny_model: str, tiny_corpus: str) -> None:
    """``parallelize=True`` splits the layers over whatever there is: all GPUs, one, or the CPU."""
    given = {"corpus": tiny_corpus, "corpus_tokens": 400, "selector": SELECTOR, "intervention": "zero"}
    whole = LNBenchLM(tiny_model, device="cpu", batch_size=4, **given)
    split = LNBenchLM(tiny_model, parallelize=True, batch_size=4, **given)
    assert device == "cpu" or "cuda" in {parameter.device.type for parameter in split.model.parameters()}
    for (found, _), (expected, _) in zip(
        *(one.loglikelihood(requests("loglikelihood")) for one in (split, whole)), strict=True
    ):
        assert found == pytest.approx(expected, abs=1e-3)


def test_an_offloaded_model(device: str, tiny_model: str, tmp_path: Path) -> None:
    """The last layer's weights are in memory or on disk, and reach the device when they are needed."""
    places = {"model.embed_tokens": device, "model.layers.0": device, "model.layers.1": "cpu", "model.layers.2": "disk"}
    places |= {"model.norm": device, "model.rotary_emb": device, "lm_head": device}
    model = AutoModelForCausalLM.from_pretrained(tiny_model, device_map=places, offload_folder=str(tmp_path))
    whole = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad(), override(model, change()) as applied:
        found = model(PROMPTS.to(device), use_cache=False).logits.cpu()
    with torch.no_grad(), override(whole, change()):
        expected = whole(PROMPTS, use_cache=False).logits
    assert applied.tokens == PROMPTS.numel()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
