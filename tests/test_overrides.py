"""Overrides: what they write equals feed-forward blocks written by hand, for every architecture, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny import CONFIGS, LAYERS, VOCABULARY, WIDTH, build
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lnbench import LayerOverride, LnbenchError, Override, Statistics, override
from lnbench.architectures import locate
from lnbench.statistics import LEVELS, SiteValues

PROMPTS = torch.tensor([[0, 0, 1, 17, 30, 99, 5], [1, 44, 8, 120, 61, 7, 200]])
LEFT = (PROMPTS, (PROMPTS != 0).long())
RIGHT = (PROMPTS.flip(1), (PROMPTS.flip(1) != 0).long())
REAL = int(LEFT[1].sum())

Edit = Callable[[int, str, Tensor], Tensor]
"""``(layer, site, values) -> values``: what a block written by hand does at a site."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors are computed faster without a second thread, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def tiny(model_type: str, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny model; a test that changes one takes a ``build`` of its own."""
    return build(model_type).to(dtype)


def change(operation: str = "set", layers: Mapping[int, list[int]] | None = None) -> Override:
    """Other neurons and other values in every layer; the default leaves layer 1 alone."""
    layers = {0: [1, 7, 20], 2: [23, 0]} if layers is None else layers
    return Override(
        {
            layer: LayerOverride(torch.tensor(indices), torch.linspace(-1.5, 2, len(indices)) + layer, operation)
            for layer, indices in layers.items()
        }
    )


# Feed-forward blocks written by hand


def gated(mlp: Any, x: Tensor, activate: Any, edit: Callable[[str, Tensor], Tensor]) -> Tensor:
    neurons = edit("post", activate(edit("pre", mlp.gate_proj(x))))
    return mlp.down_proj(neurons * mlp.up_proj(x))


def fused(mlp: Any, x: Tensor, activate: Any, edit: Callable[[str, Tensor], Tensor]) -> Tensor:
    both = mlp.gate_up_proj(x)
    half = both.shape[-1] // 2
    neurons = edit("post", activate(edit("pre", both[..., :half])))
    return mlp.down_proj(neurons * both[..., half:])


def plain(first: str, last: str, mlp: Any, x: Tensor, activate: Any, edit: Callable[[str, Tensor], Tensor]) -> Tensor:
    return getattr(mlp, last)(edit("post", activate(edit("pre", getattr(mlp, first)(x)))))


silu, relu, gelu = functional.silu, functional.relu, functional.gelu
gelu_tanh = partial(functional.gelu, approximate="tanh")
_GATED, _FUSED = ("gate_proj", "down_proj", gated), ("gate_up_proj", "down_proj", fused)


def _plain(first: str, last: str) -> tuple[str, str, Any]:
    return first, last, partial(plain, first, last)


HAND_WRITTEN: dict[str, tuple[str, str, tuple[str, str, Any], Any]] = {
    **dict.fromkeys(
        "llama mistral ministral qwen2 qwen3 cohere cohere2 granite olmo olmo2 olmo3 smollm3 stablelm".split(),  # noqa: SIM905
        ("model.layers", "mlp", _GATED, silu),
    ),
    **dict.fromkeys(["gemma", "gemma2", "gemma3_text"], ("model.layers", "mlp", _GATED, gelu_tanh)),
    "gemma3": ("model.language_model.layers", "mlp", _GATED, gelu_tanh),
    **dict.fromkeys(["phi3", "glm", "glm4"], ("model.layers", "mlp", _FUSED, silu)),
    **dict.fromkeys(["gpt2", "gpt_neo"], ("transformer.h", "mlp", _plain("c_fc", "c_proj"), gelu_tanh)),
    "gptj": ("transformer.h", "mlp", _plain("fc_in", "fc_out"), gelu_tanh),
    "gpt_neox": ("gpt_neox.layers", "mlp", _plain("dense_h_to_4h", "dense_4h_to_h"), gelu),
    "bloom": ("transformer.h", "mlp", _plain("dense_h_to_4h", "dense_4h_to_h"), gelu_tanh),
    "falcon": ("transformer.h", "mlp", _plain("dense_h_to_4h", "dense_4h_to_h"), gelu),
    "opt": ("model.decoder.layers", "", _plain("fc1", "fc2"), relu),
    "xglm": ("model.layers", "", _plain("fc1", "fc2"), gelu),
    "phi": ("model.layers", "mlp", _plain("fc1", "fc2"), gelu_tanh),
    "starcoder2": ("model.layers", "mlp", _plain("c_fc", "c_proj"), gelu_tanh),
}
"""Model type → path to the blocks, the feed-forward part in one, its projections and code, its non-linearity."""


def feed_forwards(base: nn.Module, model_type: str) -> list[nn.Module]:
    blocks, part, _, _ = HAND_WRITTEN[model_type]
    return [block.get_submodule(part) for block in base.get_submodule(blocks)]  # type: ignore[union-attr]


@contextmanager
def captured(base: nn.Module, model_type: str) -> Iterator[dict[tuple[int, str], Tensor]]:
    """What enters and leaves every feed-forward part: ``(layer, "in" | "out")`` → tensor."""
    first, last, _ = HAND_WRITTEN[model_type][2]
    seen: dict[tuple[int, str], Tensor] = {}
    handles = []
    for layer, part in enumerate(feed_forwards(base, model_type)):
        handles += [
            part.get_submodule(first).register_forward_pre_hook(
                lambda _, args, key=(layer, "in"): seen.__setitem__(key, args[0].clone())
            ),
            part.get_submodule(last).register_forward_hook(
                lambda _, args, output, key=(layer, "out"): seen.__setitem__(key, output.clone())
            ),
        ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def hand_edit(changes: Override, site: str, real: Tensor) -> Edit:
    """The override as a loop over neurons, at the tokens of ``real``, ``[batch, length]``."""

    def edit(layer: int, where: str, values: Tensor) -> Tensor:
        part = changes.layers.get(layer)
        if part is None or where != site:
            return values
        columns = list(values.unbind(-1))
        for index, value in zip(part.indices.tolist(), part.values.to(values.dtype), strict=True):
            old = columns[index]
            new = {"set": value.expand_as(old), "scale": old * value, "shift": old + value}[part.operation]
            columns[index] = torch.where(real.reshape(old.shape), new, old)
        return torch.stack(columns, -1)

    return edit


def assert_equals_hand_written(
    model: nn.Module, model_type: str, changes: Override, site: Any, ids: Tensor, mask: Tensor, tolerance: float = 1e-5
) -> None:
    base = locate(model).model
    with torch.no_grad(), override(model, changes, site=site) as applied, captured(base, model_type) as seen:
        model(input_ids=ids, attention_mask=mask)
    assert applied.tokens == int(mask.sum())
    _, _, (_, _, block), activate = HAND_WRITTEN[model_type]
    edit = hand_edit(changes, site, mask.bool())
    for layer, part in enumerate(feed_forwards(base, model_type)):
        with torch.no_grad():
            expected = block(part, seen[layer, "in"], activate, partial(edit, layer))
        torch.testing.assert_close(seen[layer, "out"], expected, rtol=tolerance, atol=tolerance)


CHANGES = [("post", "set"), ("pre", "set"), ("post", "scale"), ("pre", "shift")]


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


@contextmanager
def patched(base: nn.Module, changes: Override, site: str, real: Tensor | None = None) -> Iterator[None]:
    """The same change made without hooks: the non-linearities' ``forward`` replaced."""
    activations = locate(base).activations
    for layer, module in enumerate(activations):

        def forward(x: Tensor, *, layer: int = layer, inner: Any = module.forward) -> Tensor:
            where = torch.ones(x.shape[:-1], dtype=torch.bool) if real is None else real
            edit = hand_edit(changes, site, where)
            return edit(layer, "post", inner(edit(layer, "pre", x)))

        module.forward = forward
    try:
        yield
    finally:
        for module in activations:
            del module.forward


def greedy_without_cache(model: Any, ids: Tensor, steps: int) -> list[int]:
    """One unpadded row, every step from the start."""
    for _ in range(steps):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    return ids[0, -steps:].tolist()


def generate(model: Any, ids: Tensor, mask: Tensor, steps: int) -> Tensor:
    model.generation_config.eos_token_id = None
    return model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=steps, do_sample=False, pad_token_id=0)


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


@pytest.mark.parametrize("with_adapter", [False, True], ids=["plain", "adapted"])
@pytest.mark.parametrize(
    ("model_type", "dims"),
    [
        ("llama", {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}),
        ("gpt2", {"n_embd": 64, "n_inner": 128}),
    ],
    ids=["llama", "gpt2"],
)
def test_four_bit_models(model_type: str, dims: dict[str, int], with_adapter: bool, tmp_path: Path) -> None:
    build(model_type, **dims).save_pretrained(tmp_path)
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
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


# What runs: the causal LM, its body, or either with positional arguments

CALLS: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "keywords": lambda model, ids, mask: model(input_ids=ids, attention_mask=mask),
    "positions": lambda model, ids, mask: model(ids, mask),
    "mask by keyword": lambda model, ids, mask: model(ids, attention_mask=mask),
    "embeddings": lambda model, ids, mask: model(inputs_embeds=model.get_input_embeddings()(ids), attention_mask=mask),
    "body": lambda model, ids, mask: model.base_model(ids, attention_mask=mask),
    "no hooks on the causal LM": lambda model, ids, mask: model.forward(input_ids=ids, attention_mask=mask),
    "floating mask": lambda model, ids, mask: model(input_ids=ids, attention_mask=mask.float()),
}


@pytest.mark.parametrize("call", CALLS)
def test_padding_is_seen_however_the_model_is_called(call: str) -> None:
    model = tiny("llama")
    with torch.no_grad(), override(model, change()) as applied, captured(model, "llama") as seen:
        CALLS["keywords"](model, *RIGHT)
        expected = dict(seen)
        CALLS[call](model, *LEFT)
        applied_tokens = applied.tokens
        CALLS["keywords"](model, *RIGHT)
    assert applied_tokens == 2 * REAL
    for key, tensor in expected.items():
        assert torch.equal(tensor, seen[key])


@pytest.mark.parametrize("model_type", ["llama", "gemma3", "gpt2", "opt", "gpt_neox"])
def test_the_body_alone_takes_real_tokens_out_of_band(model_type: str) -> None:
    model = tiny(model_type)
    ids, mask = RIGHT
    with torch.no_grad(), override(model, change()) as applied:
        expected = model.base_model(ids, attention_mask=mask).last_hidden_state
        applied.real = mask.bool()
        hidden = model.base_model(ids).last_hidden_state
    assert applied.tokens == 2 * REAL
    torch.testing.assert_close(hidden[mask.bool()], expected[mask.bool()])


def test_every_token_is_real_without_a_mask() -> None:
    with torch.no_grad(), override(tiny("llama"), change()) as applied:
        tiny("llama")(PROMPTS)
    assert applied.tokens == PROMPTS.numel()


# The account


def made_up_statistics(layers: int = LAYERS, width: int = WIDTH) -> Statistics:
    """Ranges that differ by neuron and by site, narrow enough that many values lie outside."""

    def values(shift: float) -> SiteValues:
        low = shift - torch.rand(layers, width, generator=torch.Generator().manual_seed(1))
        high = low + 0.2 + torch.rand(layers, width, generator=torch.Generator().manual_seed(2))
        middle = (low + high) / 2
        levels = LEVELS.float().reshape(-1, 1, 1)
        zero, half = torch.zeros_like(low), torch.full_like(low, 0.5)
        return SiteValues(half, middle, high - low, low, high, torch.lerp(low, high, levels), zero)

    return Statistics("xx", 1000, "post", {"pre": values(0.3), "post": values(0.6)})


@contextmanager
def written(model: nn.Module, site: str) -> Iterator[dict[int, list[Tensor]]]:
    """The values at ``site`` of every forward, as the next module sees them."""
    seen: dict[int, list[Tensor]] = {layer: [] for layer in range(LAYERS)}
    handles = [
        module.register_forward_hook(
            lambda _, args, output, layer=layer: seen[layer].append((output if site == "post" else args[0]).clone())
        )
        for layer, module in enumerate(locate(model).activations)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize("operation", ["set", "scale", "shift"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_outside_range_equals_counting_every_value(operation: str, site: Any, dtype: torch.dtype) -> None:
    model, statistics, changes = tiny("llama", dtype), made_up_statistics(), change(operation)
    ranges = statistics.at(site)
    batches = [LEFT, RIGHT, (PROMPTS[1:], LEFT[1][1:])]
    outside = total = 0
    with torch.no_grad(), override(model, changes, statistics=statistics, site=site) as applied:
        assert applied.outside_range != applied.outside_range, "NaN before anything was written"
        with written(model, site) as seen:
            for ids, mask in batches:
                model(input_ids=ids, attention_mask=mask)
    for layer, part in changes.layers.items():
        for values, (_, mask) in zip(seen[layer], batches, strict=True):
            for index in part.indices.tolist():
                for value in values[mask.bool()][:, index].tolist():
                    total += 1
                    outside += not ranges.min[layer, index] <= value <= ranges.max[layer, index]
    assert 0 < outside < total
    assert applied.outside_range == pytest.approx(outside / total, abs=1e-9)
    assert applied.tokens == 2 * REAL + PROMPTS.shape[1]
    assert (applied.neurons, applied.layers) == (5, 2)


def test_outside_range_is_nan_without_statistics() -> None:
    with torch.no_grad(), override(tiny("llama"), change()) as applied:
        tiny("llama")(PROMPTS)
    assert applied.outside_range != applied.outside_range


@pytest.mark.parametrize(("name", "outside"), [("p10", 0.0), ("mean", 0.0), ("constant:value=99", 1.0)])
def test_interventions_write_their_values(name: str, outside: float) -> None:
    model, statistics = tiny("llama"), made_up_statistics()
    neurons = {1: torch.tensor([4, 2])}
    expected = {"p10": statistics.quantile(0.1)[1], "mean": statistics.mean[1]}.get(name, torch.full((WIDTH,), 99.0))
    overriding = override(model, neurons, name, statistics=statistics)
    with torch.no_grad(), overriding as applied, written(model, "post") as seen:
        model(PROMPTS)
    assert torch.equal(seen[1][0][..., [4, 2]], expected[[4, 2]].expand(*PROMPTS.shape, 2))
    assert applied.outside_range == outside


STEPS = 3
PLACES = {"all": REAL + (STEPS - 1) * 2, "prompt": REAL, "generated": (STEPS - 1) * 2}


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize(("positions", "tokens"), PLACES.items())
def test_positions(model_type: str, positions: Any, tokens: int) -> None:
    model = tiny(model_type)
    changes = Override({1: LayerOverride(torch.tensor([5]), torch.tensor([7.5]))})
    with torch.no_grad(), override(model, changes, positions=positions) as applied, written(model, "post") as seen:
        generate(model, *LEFT, STEPS)
    assert applied.tokens == tokens
    first, *later = (values[..., 5] == 7.5 for values in seen[1])
    assert int(first.sum()) == (0 if positions == "generated" else REAL)
    assert all(bool(one.any()) == (positions != "prompt") == bool(one.all()) for one in later)


def test_real_tokens_given_out_of_band() -> None:
    model = tiny("llama")
    real = torch.zeros_like(PROMPTS, dtype=torch.bool)
    real[0, 2] = real[1, 5] = True
    with torch.no_grad(), written(model, "post") as plain_values:
        model(PROMPTS)
    with torch.no_grad(), override(model, change(), positions="generated") as applied:
        applied.real = real
        with written(model, "post") as seen:
            model(PROMPTS)
        assert applied.tokens == 2
        applied.real = torch.zeros_like(real)
        model(PROMPTS)
        assert applied.tokens == 2
        applied.real = real[:, 1:]
        with pytest.raises(LnbenchError, match=r"Applied.real has shape \(2, 6\), the forward pass \(2, 7\)"):
            model(PROMPTS)
        applied.real = real
        model(PROMPTS)
    assert applied.tokens == 4
    part = change().layers[0]
    expected = plain_values[0][0].clone()
    for row, column in real.nonzero().tolist():
        expected[row, column, part.indices] = part.values
    assert torch.equal(seen[0][0], expected)


def test_a_set_leaves_padding_unchanged() -> None:
    model = tiny("llama")
    ids, mask = RIGHT
    with torch.no_grad(), written(model, "post") as plain_values:
        model(input_ids=ids, attention_mask=mask)
    with torch.no_grad(), override(model, change()), written(model, "post") as seen:
        model(input_ids=ids, attention_mask=mask)
    assert torch.equal(seen[0][0][mask == 0], plain_values[0][0][mask == 0])
    assert not torch.equal(seen[0][0][mask == 1], plain_values[0][0][mask == 1])


# Nothing stays behind


def hooks(model: nn.Module) -> list[tuple[Any, ...]]:
    names = ["_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"]
    names += ["_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks"]
    return [tuple(dict(getattr(module, name)).items()) for module in model.modules() for name in names]


def raise_inside(model: Any, _: pytest.MonkeyPatch) -> None:
    with override(model, change()):
        model(PROMPTS)
        raise RuntimeError


def raise_in_forward(model: Any, _: pytest.MonkeyPatch) -> None:
    with override(model, change(), site="pre"):
        model(PROMPTS.float())


def raise_on_entry(model: Any, _: pytest.MonkeyPatch) -> None:
    with override(model, change(layers={0: [1], LAYERS: [1]})):
        pass


def raise_halfway_through_entry(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no hooks here")

    monkeypatch.setattr(locate(model).activations[2], "register_forward_hook", broken)
    with override(model, change()):
        pass


@pytest.mark.parametrize(
    "failing",
    [raise_inside, raise_in_forward, raise_on_entry, raise_halfway_through_entry],
    ids=lambda case: case.__name__,
)
def test_nothing_stays_hooked_after_an_exception(failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    locate(model).activations[0].register_forward_hook(lambda *_: None)
    before = hooks(model)
    with pytest.raises((RuntimeError, LnbenchError)):
        failing(model, monkeypatch)
    assert hooks(model) == before


@pytest.mark.parametrize("site", ["post", "pre"])
def test_nothing_stays_hooked(site: Any) -> None:
    model = build("llama")
    before = hooks(model)
    with override(model, change(), site=site):
        assert hooks(model) != before
    assert hooks(model) == before


def test_a_failed_forward_does_not_spoil_the_next() -> None:
    model = tiny("llama")
    with torch.no_grad(), override(model, change()) as applied:
        model(input_ids=LEFT[0], attention_mask=LEFT[1])
        with pytest.raises(RuntimeError):
            model(input_ids=LEFT[0].float(), attention_mask=LEFT[1])
        model.base_model(PROMPTS)
    assert applied.tokens == REAL + PROMPTS.numel()


def test_nested_overrides_add_up() -> None:
    model = tiny("llama")
    hindi, english = change(layers={0: [1, 2], 1: [3]}), change("shift", layers={0: [5], 2: [3]})
    with torch.no_grad():
        before = model(PROMPTS).logits
        with patched(model, hindi, "post"):
            alone = model(PROMPTS).logits
            with override(model, english):
                both = model(PROMPTS).logits
        with override(model, hindi) as outer:
            with override(model, english) as inner:
                assert torch.equal(model(PROMPTS).logits, both)
            assert torch.equal(model(PROMPTS).logits, alone)
        assert torch.equal(model(PROMPTS).logits, before)
    assert (outer.tokens, inner.tokens) == (2 * PROMPTS.numel(), PROMPTS.numel())


def test_paused() -> None:
    model = tiny("llama")
    with torch.no_grad():
        before = model(PROMPTS).logits
        with override(model, change()) as applied:
            during = model(PROMPTS).logits
            with pytest.raises(KeyError), applied.paused():
                with applied.paused():
                    assert torch.equal(model(PROMPTS).logits, before)
                assert torch.equal(model(PROMPTS).logits, before)
                raise KeyError
            assert torch.equal(model(PROMPTS).logits, during)
    assert applied.tokens == 2 * PROMPTS.numel()


# Gradients


def gradients(model: Any, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    logits[mask.bool()].square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt2", "bloom"])
@pytest.mark.parametrize(("site", "operation"), CHANGES)
def test_gradients_equal_those_of_the_model_written_by_hand(model_type: str, site: Any, operation: str) -> None:
    model = build(model_type)
    ids, mask = RIGHT
    with override(model, change(operation), site=site):
        found = gradients(model, ids, mask)
    with patched(model, change(operation), site, mask.bool()):
        expected = gradients(model, ids, mask)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_overwritten_neurons_get_no_gradient() -> None:
    model = build("llama")
    with override(model, change()):
        gradient = gradients(model, *RIGHT)["model.layers.0.mlp.gate_proj.weight"]
    dead = change().layers[0].indices.tolist()
    assert [row for row in range(WIDTH) if not gradient[row].any()] == sorted(dead)


def test_gradient_checkpointing_recomputes_the_same_change() -> None:
    model = build("llama").train()
    with override(model, change(), statistics=made_up_statistics()) as once:
        expected = gradients(model, *RIGHT)
    model.gradient_checkpointing_enable()
    with override(model, change(), statistics=made_up_statistics()) as twice:
        found = gradients(model, *RIGHT)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
    assert once.tokens == twice.tokens == REAL
    assert once._values == twice._values


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"intervention": "p200"}, "unknown intervention 'p200'"),
        ({"intervention": "p10"}, r"'p10' reads its values from Statistics; pass statistics="),
        ({"intervention": "mean"}, "'mean' reads its values from Statistics"),
        ({"site": "middle"}, "unknown site 'middle'; known: post, pre"),
        ({"site": "paper"}, "unknown site 'paper'"),
        ({"positions": "some"}, "unknown positions 'some'; known: all, prompt, generated"),
        ({"neurons": {0: torch.tensor([WIDTH])}}, "made for another model"),
        ({"neurons": {LAYERS: torch.tensor([0])}}, "made for another model"),
        ({"neurons": {-1: torch.tensor([0])}}, "made for another model"),
        ({"neurons": {0: torch.tensor([3, 3])}}, "without repeats"),
        ({"neurons": {0: torch.tensor([-1])}}, "non-negative"),
        ({"statistics": made_up_statistics(LAYERS + 1)}, "these Statistics are of 4 layers of 24 neurons, the model"),
        ({"statistics": made_up_statistics(width=WIDTH - 1)}, "belong to another model"),
        ({"intervention": "constant:value=nan"}, "finite"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    model = tiny("llama")
    before = hooks(model)
    arguments = {"neurons": {0: torch.tensor([1])}, "intervention": "zero"} | arguments
    with pytest.raises(LnbenchError, match=message), override(model, **arguments):
        pass
    assert hooks(model) == before


@pytest.mark.parametrize(
    ("indices", "values", "operation", "message"),
    [
        ([1], [1.0], "multiply", "unknown override operation 'multiply'; known: set, scale, shift"),
        ([1, 2], [1.0], "set", "one value per neuron"),
        ([[1]], [[1.0]], "set", "one value per neuron"),
        ([1, 1], [1.0, 2.0], "set", "without repeats"),
        ([-2], [1.0], "set", "non-negative"),
        ([1.0], [1.0], "set", "must be integers"),
        ([True], [1.0], "set", "must be integers"),
        ([1], [float("nan")], "set", "finite"),
        ([1], [float("inf")], "scale", "finite"),
    ],
)
def test_bad_layer_overrides(indices: Any, values: Any, operation: Any, message: str) -> None:
    with pytest.raises(LnbenchError, match=message):
        LayerOverride(torch.tensor(indices), torch.tensor(values), operation)


def test_a_value_that_the_models_precision_cannot_hold() -> None:
    model = build("llama").half()
    with override(model, {0: torch.tensor([1])}, "constant:value=1e6"), pytest.raises(LnbenchError, match="float16"):
        model(PROMPTS)


class Wrong:
    def override(self, neurons: Any, statistics: Any) -> Any:
        return neurons


def test_an_intervention_that_returns_something_else() -> None:
    with pytest.raises(LnbenchError, match="'Wrong' returned dict"), override(tiny("llama"), {}, Wrong()):
        pass


@pytest.mark.parametrize(
    ("neurons", "intervention"),
    [
        ({0: torch.tensor([1])}, "none"),
        ({}, "zero"),
        ({0: torch.empty(0, dtype=torch.long)}, "zero"),
        (Override(), "zero"),
    ],
)
def test_an_empty_override_changes_nothing(neurons: Any, intervention: str) -> None:
    model = tiny("llama")
    before = hooks(model)
    with torch.no_grad():
        logits = model(PROMPTS).logits
        with override(model, neurons, intervention) as applied:
            assert hooks(model) == before
            assert torch.equal(model(PROMPTS).logits, logits)
    assert (applied.neurons, applied.layers, applied.tokens) == (0, 0, 0)
    assert applied.outside_range != applied.outside_range


def test_a_sharded_model_is_refused_before_anything_runs() -> None:
    model = build("llama")
    model._tp_size = 2
    before = hooks(model)
    with pytest.raises(LnbenchError, match="tensor parallelism"), override(model, change()):
        pass
    assert hooks(model) == before


def test_the_type_of_integer_does_not_matter() -> None:
    model, outcomes = tiny("llama"), []
    for dtype in (torch.long, torch.int32, torch.uint8):
        part = LayerOverride(torch.tensor([4, 9], dtype=dtype), torch.tensor([8, 9]))
        with torch.no_grad(), override(model, Override({1: part}), statistics=made_up_statistics()) as applied:
            outcomes.append(model(PROMPTS).logits)
        assert applied.outside_range == 1.0
    assert torch.equal(outcomes[0], outcomes[1]) and torch.equal(outcomes[0], outcomes[2])


# Anything at all, against the loop over neurons

numbers = st.floats(-4, 4, width=32)
layer_changes = st.builds(
    lambda chosen, operation: LayerOverride(
        torch.tensor(list(chosen), dtype=torch.long), torch.tensor(list(chosen.values())), operation
    ),
    st.dictionaries(st.integers(0, WIDTH - 1), numbers, max_size=WIDTH),
    st.sampled_from(["set", "scale", "shift"]),
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
