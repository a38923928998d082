"""Overrides while text is generated: the same tokens change and count, whatever cache and batch the model has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache, StaticCache
from transformers.masking_utils import create_causal_mask

from lnbench import LayerOverride, Override, override
from lnbench.model.locate import locate
from lnbench.overrides import Positions
from lnbench.testing import TINY_CONFIG, tiny_model
from tests.support.messages import refused
from tests.support.overrides import LEFT, PROMPTS, REAL, RIGHT, change, generate, tiny, written
from tests.support.tiny import build

SET = Override({layer: LayerOverride(torch.tensor([5]), torch.tensor([7.5])) for layer in range(3)})
ROWS, LENGTH = PROMPTS.shape


def tokens_meant(positions: str, real: int, rows: int, steps: int) -> int:
    """The real tokens that are fed to a model that generates ``steps`` tokens; the last one never is."""
    fed = rows * (steps - 1)
    return {"all": real + fed, "prompt": real, "generated": fed}[positions]


@contextmanager
def changed_places(model: Any) -> Iterator[list[list[list[int]]]]:
    """Per forward pass, the columns of each row that were set, counted from the end of the pass."""
    passes: list[list[list[int]]] = []
    with written(model, "post") as seen:
        yield passes
    for values in seen[1]:
        set_there = values[..., 5] == 7.5
        passes.append([row.nonzero().flatten().tolist() for row in set_there])


CACHES: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"cache_implementation": "static"},
    "none": {"use_cache": False},
    "in chunks of 3": {"prefill_chunk_size": 3},
    "static, in chunks of 4": {"cache_implementation": "static", "prefill_chunk_size": 4},
}


def fed_places(cache: str, positions: str, mask: Tensor, steps: int) -> list[list[list[int]]]:
    """What :func:`changed_places` must be: every pass's positions, of which real ones of the right kind are changed."""
    full = torch.cat([mask.bool(), torch.ones(len(mask), steps - 1, dtype=torch.bool)], 1)
    meant = torch.arange(full.shape[1]) >= mask.shape[1]
    full &= {"all": torch.ones_like(meant), "prompt": ~meant, "generated": meant}[positions]
    length, chunk = mask.shape[1], CACHES[cache].get("prefill_chunk_size", mask.shape[1])
    bounds = [(start, min(start + chunk, length)) for start in range(0, length, chunk)]
    bounds += [(0 if cache == "none" else end - 1, end) for end in range(length + 1, length + steps)]
    return [[row.nonzero().flatten().tolist() for row in full[:, start:end]] for start, end in bounds]


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
@pytest.mark.parametrize("cache", CACHES)
def test_every_cache_changes_and_counts_the_same_tokens(cache: str, positions: Any, model_type: str) -> None:
    model = tiny(model_type)
    ids, mask = LEFT
    with torch.no_grad(), override(model, SET, positions=positions) as applied, changed_places(model) as places:
        run(model, ids, mask, 4, **CACHES[cache])
    assert places == fed_places(cache, positions, mask, 4)
    assert applied.tokens == tokens_meant(positions, REAL, ROWS, 4)


def run(model: Any, ids: Tensor, mask: Tensor | None, steps: int, **options: Any) -> Tensor:
    """Generate so many tokens for every row."""
    model.generation_config.eos_token_id = None
    options = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": steps} | options
    return model.generate(input_ids=ids, attention_mask=mask, **options)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    steps=st.integers(1, 5),
    cache=st.sampled_from(sorted(CACHES)),
    positions=st.sampled_from(["all", "prompt", "generated"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    data=st.data(),
)
@settings(max_examples=12, deadline=None)
def test_a_row_is_changed_alike_alone_and_in_a_padded_batch(
    lengths: list[int], steps: int, cache: str, positions: Positions, dtype: torch.dtype, data: st.DataObject
) -> None:
    model = tiny("llama", dtype)
    rows = [data.draw(st.lists(st.integers(3, 200), min_size=size, max_size=size)) for size in lengths]
    longest = max(lengths)
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = (ids != 0).long()
    with torch.no_grad(), override(model, SET, positions=positions) as applied, changed_places(model) as places:
        run(model, ids, mask, steps, **CACHES[cache])
    assert places == fed_places(cache, positions, mask, steps)
    assert applied.tokens == tokens_meant(positions, sum(lengths), len(rows), steps)
    alone = 0
    for row in rows:
        with torch.no_grad(), override(model, SET, positions=positions) as applied_alone:
            run(model, torch.tensor([row]), torch.ones(1, len(row)).long(), steps, **CACHES[cache])
        alone += applied_alone.tokens
    assert applied.tokens == alone


@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
def test_rows_that_have_ended_are_not_changed_or_counted(cache: str) -> None:
    model = tiny("llama")
    ids, mask = LEFT
    with torch.no_grad(), override(model, change()):
        free = generate(model, ids, mask, 8)[:, LENGTH:]
    ends = int(free[0, 2])
    assert ends not in free[1, :6].tolist()
    total = 0
    for rows in ([0, 1], [0], [1]):
        kept = mask[rows].any(0)
        with torch.no_grad(), override(model, change()) as applied:
            options = {"eos_token_id": ends, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
            model.generate(ids[rows][:, kept], attention_mask=mask[rows][:, kept], **CACHES[cache], **options)
        total += applied.tokens if len(rows) == 2 else -applied.tokens
    assert total == 0


def test_beams_and_what_a_model_of_their_own_does_in_between_are_counted() -> None:
    model = tiny("llama")
    with torch.no_grad(), override(model, SET) as applied:
        run(model, *LEFT, 4, num_beams=3)
    assert applied.tokens == 3 * tokens_meant("all", REAL, ROWS, 4)
    with torch.no_grad(), override(model, SET, positions="prompt") as applied:
        run(model, *LEFT, 4, guidance_scale=1.5, negative_prompt_ids=LEFT[0], negative_prompt_attention_mask=LEFT[1])
    assert applied.tokens == 2 * REAL


def test_the_prompt_may_be_embeddings_or_follow_a_filled_cache() -> None:
    model = tiny("llama")
    ids, mask = LEFT
    with torch.no_grad(), override(model, SET, positions="generated") as applied:
        model.generate(
            inputs_embeds=model.get_input_embeddings()(ids), attention_mask=mask, max_new_tokens=4, pad_token_id=0
        )
    assert applied.tokens == tokens_meant("generated", REAL, ROWS, 4)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=ids[:, :4], attention_mask=mask[:, :4], past_key_values=cache)
        with override(model, SET, positions="prompt") as applied:
            run(model, ids, mask, 4, past_key_values=cache)
    assert applied.tokens == int(mask[:, 4:].sum())


def test_nothing_of_generate_stays_replaced() -> None:
    model = build("llama")
    locate(model)
    before = dict(vars(model))
    with override(model, change()), override(model, change("add", layers={1: [2]})):
        generate(model, *LEFT, 2)
    assert vars(model) == before


# Masks of forward passes outside generate


def mask_per_query(model: Any, ids: Tensor, mask: Tensor, cache: Any, kind: str) -> Tensor | None:
    embeddings = model.get_input_embeddings()(ids)
    four = create_causal_mask(model.config, embeddings, mask, cache, position_ids=None)
    if kind == "bool" or four is None:
        return four
    return torch.zeros(four.shape).masked_fill(~four, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("kind", ["bool", "additive"])
@pytest.mark.parametrize("batch", [LEFT, RIGHT], ids=["left", "right"])
@pytest.mark.parametrize("cached", [None, "dynamic", "static"])
def test_padding_is_read_from_a_mask_per_query(cached: str | None, batch: tuple[Tensor, Tensor], kind: str) -> None:
    model = tiny("llama")
    ids, mask = batch
    cache = {"dynamic": DynamicCache(config=model.config), "static": StaticCache(model.config, max_cache_len=16)}.get(
        cached or ""
    )
    total = 0
    with torch.no_grad(), override(model, SET) as applied, changed_places(model) as places:
        for start, end in [(0, 5), (5, 7)] if cached else [(0, 7)]:
            given_mask = mask_per_query(model, ids[:, start:end], mask[:, :end], cache, kind)
            model(input_ids=ids[:, start:end], attention_mask=given_mask, past_key_values=cache)
            total += int(mask[:, start:end].sum())
            assert applied.tokens == total
    expected = [mask[:, :5], mask[:, 5:]] if cached else [mask]
    assert places == [[row.nonzero().flatten().tolist() for row in part] for part in expected]


def test_one_mask_per_kind_of_layer() -> None:
    model = tiny("gemma2")
    ids, mask = LEFT
    four = mask_per_query(model, ids, mask, None, "bool")
    with torch.no_grad(), override(model, SET) as applied:
        model(input_ids=ids, attention_mask={"full_attention": four, "sliding_attention": four})
        model(input_ids=ids, attention_mask={"full_attention": None, "sliding_attention": None})
    assert applied.tokens == REAL + ids.numel()


def test_a_mask_that_padding_cannot_be_read_from() -> None:
    class BlockMask:
        pass

    with override(tiny("llama"), SET), refused("BlockMask", "attn_implementation=sdpa"):
        tiny("llama")(input_ids=PROMPTS, attention_mask=BlockMask())


@pytest.mark.parametrize("name", ["generate_batch", "init_continuous_batching", "continuous_batching_context_manager"])
def test_continuous_batching_is_refused_under_an_override_and_left_alone_after_it(name: str) -> None:
    model = tiny("llama")
    before = getattr(model, name)
    with override(model, SET), refused(name, "paged attention", "use generate"):
        getattr(model, name)([[1, 2, 3]])
    assert getattr(model, name) == before


# Caches without a count of their tokens


_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 4, "linear_value_head_dim": 4}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}
HYBRIDS: dict[str, dict[str, Any]] = {
    "qwen3_5_text": _LINEAR | {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "olmo_hybrid": _LINEAR | {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "falcon_h1": _MAMBA | {"mamba_d_ssm": 32},
    "bamba": _MAMBA | {"attn_layer_indices": [1]},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
    "granitemoehybrid": _MAMBA
    | {
        "layer_types": ["mamba", "attention", "mamba"],
        "num_local_experts": 0,
        "shared_intermediate_size": TINY_CONFIG["intermediate_size"],
    },
}


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
@pytest.mark.parametrize("model_type", HYBRIDS)
def test_layers_without_attention(model_type: str, positions: Any) -> None:
    model = tiny_model(model_type, **(TINY_CONFIG | HYBRIDS[model_type]))
    with torch.no_grad(), override(model, SET, positions=positions) as applied:
        run(model, *LEFT, 3)
    assert applied.tokens == tokens_meant(positions, REAL, ROWS, 3)
    with torch.no_grad(), override(model, SET, positions=positions) as applied:
        first = model(input_ids=PROMPTS, use_cache=True)
        model(input_ids=PROMPTS[:, :1], past_key_values=first.past_key_values, use_cache=True)
    assert applied.tokens == {"all": 16, "prompt": 14, "generated": 2}[positions]


@pytest.mark.parametrize(("positions", "tokens"), [("all", 16), ("prompt", 14), ("generated", 2)])
def test_a_cache_of_linear_attention_alone(positions: Any, tokens: int) -> None:
    config = TINY_CONFIG | HYBRIDS["qwen3_5_text"] | {"layer_types": ["linear_attention"] * 3}
    model = tiny_model("qwen3_5_text", **config)
    cache = DynamicCache(config=model.config)
    with pytest.raises(ValueError, match="get_seq_length"):
        cache.get_seq_length()
    with torch.no_grad(), override(model, SET, positions=positions) as applied:
        for ids in (PROMPTS, PROMPTS[:, :1]):
            body(model, ids, cache)
    assert applied.tokens == tokens


def body(model: Any, ids: Tensor, cache: Any) -> None:
    """The blocks run by hand: the model's own forward asks such a cache for its length, and fails."""
    blocks = model.model.layers

    def forward(input_ids: Tensor, past_key_values: Any, **_: Any) -> Tensor:
        hidden = model.get_input_embeddings()(input_ids)
        for block in blocks:
            hidden = block(hidden, position_embeddings=None, past_key_values=past_key_values, attention_mask=None)
        return hidden

    model.forward = forward
    try:
        model(input_ids=ids, past_key_values=cache)
    finally:
        del model.forward
