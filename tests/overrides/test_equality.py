"""What overrides write equals feed-forward blocks written by hand, for every architecture, adapter and precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lnbench import LayerOverride, Override, override
from lnbench.model.locate import locate
from tests.support.overrides import (
    CHANGES,
    HAND_WRITTEN,
    LEFT,
    PROMPTS,
    REAL,
    RIGHT,
    assert_equals_hand_written,
    change,
    feed_forwards,
    generate,
    greedy_without_cache,
    patched,
    tiny,
)
from tests.support.tiny import CONFIGS, LAYERS, VOCABULARY, WIDTH, build


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", CONFIGS)
def test_equals_the_block_written_by_hand(model_type: str, dtype: torch.dtype) -> None:
    tolerance = 1e-5 if dtype == torch.float32 else 0.06
    for site, operation in CHANGES:
        for ids, mask in (LEFT, RIGHT):
            assert_equals_hand_written(
                tiny(model_type, dtype), model_type, change(operation), site, ids, mask, tolerance
            )


@pytest.mark.parametrize("model_type", CONFIGS)
def test_changes_the_output_where_it_should(model_type: str) -> None:
    model = tiny(model_type)
    ids, mask = LEFT
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=mask).logits
        with override(model, change()):
            during = model(input_ids=ids, attention_mask=mask).logits
        after = model(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(before, after)
    assert (before - during)[mask.bool()].abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize("model_type", CONFIGS)
def test_generation_with_a_cache_equals_recomputing_every_step(model_type: str) -> None:
    model, steps = tiny(model_type), 4
    with torch.no_grad(), override(model, change()) as applied:
        tokens = generate(model, *LEFT, steps)[:, -steps:].tolist()
    assert applied.tokens == REAL + len(PROMPTS) * (steps - 1)
    with torch.no_grad(), patched(model, change(), "post"):
        for row, expected in zip(PROMPTS, tokens, strict=True):
            assert greedy_without_cache(model, row[row != 0].unsqueeze(0), steps) == expected


# Adapters, quantisation, offloading

ADAPTED = {
    "llama": ["q_proj", "v_proj", "gate_proj"],
    "gemma2": ["q_proj", "gate_proj", "up_proj", "down_proj"],
    "phi3": ["qkv_proj", "gate_up_proj"],
    "gpt2": ["c_attn", "c_fc", "c_proj"],
    "opt": ["q_proj", "fc1", "fc2"],
}


def adapted(model: Any, model_type: str) -> Any:
    return get_peft_model(
        model,
        LoraConfig(
            r=2,
            target_modules=ADAPTED[model_type],
            init_lora_weights=False,
            fan_in_fan_out=model_type == "gpt2",
            task_type="CAUSAL_LM",
        ),
    ).eval()


@pytest.mark.parametrize("model_type", ADAPTED)
def test_adapted_models(model_type: str) -> None:
    model = adapted(build(model_type), model_type)
    for site, operation in CHANGES:
        for ids, mask in (LEFT, RIGHT):
            assert_equals_hand_written(model, model_type, change(operation), site, ids, mask)
    assert not torch.equal(model(PROMPTS).logits, tiny(model_type)(PROMPTS).logits)


def test_generation_of_an_adapted_model() -> None:
    model = adapted(build("llama"), "llama")
    with torch.no_grad(), override(model, change()) as applied:
        tokens = generate(model, *LEFT, 3)[:, -3:].tolist()
    assert applied.tokens == REAL + 2 * len(PROMPTS)
    with torch.no_grad(), patched(model, change(), "post"):
        for row, expected in zip(PROMPTS, tokens, strict=True):
            assert greedy_without_cache(model, row[row != 0].unsqueeze(0), 3) == expected


@pytest.mark.parametrize("double", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("with_adapter", [False, True], ids=["plain", "adapted"])
@pytest.mark.parametrize(
    ("model_type", "dims"),
    [
        ("llama", {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}),
        ("gpt2", {"n_embd": 64, "n_inner": 128}),
    ],
    ids=["llama", "gpt2"],
)
def test_four_bit_models(
    model_type: str, dims: dict[str, int], with_adapter: bool, double: bool, tmp_path: Path
) -> None:
    build(model_type, **dims).save_pretrained(tmp_path)
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantisation, dtype=torch.float32, device_map={"": "cpu"}
    )
    part = feed_forwards(model, model_type)[0]
    assert type(part.get_submodule(HAND_WRITTEN[model_type][2][1])).__name__ == "Linear4bit"
    if with_adapter:
        model = adapted(model, model_type)
    assert locate(model).width == 128
    changes = change(layers={0: [3, 127], 2: [64]})
    for site in ("post", "pre"):
        assert_equals_hand_written(model, model_type, changes, site, *LEFT, tolerance=1e-4)


@pytest.mark.parametrize("disk", [(), (1, 2)], ids=["cpu", "disk"])
def test_models_split_by_layers(disk: tuple[int, ...], tmp_path: Path) -> None:
    model = tiny("llama")
    model.save_pretrained(tmp_path / "model")
    places: dict[str, str] = {"": "cpu"}
    if disk:
        places = {f"model.layers.{layer}": "disk" if layer in disk else "cpu" for layer in range(LAYERS)}
        places |= dict.fromkeys(["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"], "cpu")
    placed = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=str(tmp_path / "offload")
    )
    assert any(parameter.is_meta for parameter in placed.parameters()) == bool(disk)
    logits = []
    for one in (model, placed):
        with torch.no_grad(), override(one, change()) as applied:
            logits.append(one(input_ids=LEFT[0], attention_mask=LEFT[1]).logits)
        assert applied.tokens == REAL
    torch.testing.assert_close(*logits)


# Anything at all, against the loop over neurons

numbers = st.floats(-4, 4, width=32)
layer_changes = st.builds(
    lambda chosen, operation: LayerOverride(
        torch.tensor(list(chosen), dtype=torch.long), torch.tensor(list(chosen.values())), operation
    ),
    st.dictionaries(st.integers(0, WIDTH - 1), numbers, max_size=WIDTH),
    st.sampled_from(["set", "scale", "add"]),
)


@settings(max_examples=40, deadline=None)
@given(
    model_type=st.sampled_from(["llama", "phi3", "gpt2", "opt"]),
    layers=st.dictionaries(st.integers(0, LAYERS - 1), layer_changes, max_size=LAYERS),
    site=st.sampled_from(["post", "pre"]),
    rows=st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=3),
    seed=st.integers(0, 9),
)
def test_any_override_equals_the_loop(model_type: str, layers: Any, site: Any, rows: Any, seed: int) -> None:
    model = tiny(model_type)
    ids = torch.randint(3, VOCABULARY, (len(rows), 6), generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros_like(ids)
    for row, (length, left) in enumerate(rows):
        mask[row, slice(-length, None) if left else slice(length)] = 1
    changes = Override(layers)
    with torch.no_grad(), override(model, changes, site=site) as applied:
        found = model(input_ids=ids, attention_mask=mask).logits
    with torch.no_grad(), patched(model, changes, site, mask.bool()):
        expected = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()])
    assert applied.tokens == (int(mask.sum()) if changes.neurons else 0)
