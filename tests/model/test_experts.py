"""Neurons of experts: read and written in three implementations, against experts that are written out one by one."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lnbench
from lnbench import LayerOverride, Override, collect_statistics, override
from lnbench.model.experts import ExpertsBank, experts_of
from lnbench.model.experts_taps import IMPLEMENTATIONS, Rows
from lnbench.model.locate import locate
from tests.support.every_type import build_type
from tests.support.experts_by_hand import written_out
from tests.support.messages import refused

FORMS = (
    "mixtral",
    "gpt_oss",
    "nemotron_h",
    "llama4_text",
    "jetmoe",
    "dbrx",
    "longcat_flash",
    "inkling_text",
    "lfm2_moe",
)
"""One of each form: gated, clamped in a gate function, plain, and those of a model's own making."""
IDS = torch.randint(10, 190, (3, 6), generator=torch.Generator().manual_seed(2))
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
OPERATIONS: dict[str, Any] = {
    "set": lambda old, value: value,
    "scale": lambda old, value: old * value,
    "add": lambda old, value: old + value,
    "clamp": lambda old, value: old.clamp(value[0], value[1]),
}


@cache
def model_of(name: str, dtype: torch.dtype = torch.float32) -> Any:
    return build_type(name).to(dtype)


def in_implementation(model: Any, name: str) -> None:
    model.config._experts_implementation = name
    for bank in locate(model).experts:
        config = getattr(model.get_submodule(bank.path), "config", None)
        if config is not None:
            config._experts_implementation = name


def rewritten(bank: ExpertsBank, part: LayerOverride, real: Tensor) -> Any:
    """The neurons of an expert at a token with a part of an override applied one neuron at a time."""
    flat = real.flatten()

    def neurons(expert: int, token: int, _pre: Tensor, post: Tensor) -> Tensor | None:
        if not flat[token]:
            return None
        new = post.clone()
        for number, neuron in enumerate((part.indices - bank.start).tolist()):
            if neuron // bank.expert_width == expert and part.values is not None:
                index = neuron % bank.expert_width
                new[index] = OPERATIONS[str(part.operation)](post[index], part.values[..., number].to(post.dtype))
        return new

    return neurons


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, str, str, int]:
    return (
        draw(st.sampled_from(FORMS)),
        draw(st.sampled_from([name for name in IMPLEMENTATIONS if name])),
        draw(st.sampled_from(sorted(OPERATIONS))),
        draw(st.integers(0, 1000)),
    )


@given(changes(), st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=12, deadline=None)
def test_an_override_equals_the_experts_written_out(change: tuple[str, str, str, int], dtype: torch.dtype) -> None:
    name, implementation, operation, seed = change
    if (name, dtype) == ("nemotron_h", torch.bfloat16):
        return  # its state-space layers do not run in bfloat16 on a CPU
    model, generator = model_of(name, dtype), torch.Generator().manual_seed(seed)
    in_implementation(model, implementation)
    sites = locate(model)
    parts, hands = {}, {}
    for bank in sites.experts:
        indices = torch.randperm(bank.width, generator=generator)[: bank.width // 5] + bank.start
        values = torch.randn(2, len(indices), generator=generator).sort(0).values
        part = LayerOverride(indices, values if operation == "clamp" else values[1], operation)
        parts.setdefault(bank.layer, []).append(part)
        hands[bank] = rewritten(bank, part, MASK.bool())
    inputs = {"input_ids": IDS, "attention_mask": MASK, "use_cache": False}
    with torch.no_grad():
        plain = model(**inputs).logits[MASK.bool()]
        with written_out(model, hands):
            expected = model(**inputs).logits[MASK.bool()]
        with override(model, Override(parts)) as applied:
            changed = model(**inputs).logits[MASK.bool()]
    assert applied.tokens == int(MASK.sum())
    assert not torch.equal(plain, changed)
    if dtype == torch.float32:
        torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-4)
    else:
        # Rounding may send a token of a later layer to another expert.
        close = (changed - expected).abs().amax(-1) <= 0.1 * expected.abs().max()
        assert close.double().mean() > 0.7


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "inkling2_text"])
def test_implementations_count_alike(name: str) -> None:
    model, found = model_of(name), []
    for implementation in ("eager", "grouped_mm", "batched_mm"):
        in_implementation(model, implementation)
        found.append(collect_statistics(model, [(IDS, MASK)], language="en"))
    for other in found[1:]:
        assert torch.equal(found[0].routed, other.routed)
        assert torch.equal(found[0].positive_rate, other.positive_rate)


@pytest.mark.parametrize("name", ["mixtral", "llama4_text", "jetmoe"])
def test_rows_are_counted_at_real_tokens_and_no_more(name: str) -> None:
    model = model_of(name)
    in_implementation(model, "grouped_mm")
    bank = locate(model).experts[-1]
    runs: list[tuple[int, int]] = []
    change = Override({bank.layer: LayerOverride(torch.tensor([bank.start]), torch.tensor([1.0]))})

    def keep(expert: int, token: int, _pre: Tensor, _post: Tensor) -> None:
        runs.append((expert, token))

    with torch.no_grad():
        with written_out(model, {bank: keep}):
            model(IDS, attention_mask=MASK)
        with override(model, change) as applied:
            model(IDS, attention_mask=MASK)
    real = MASK.flatten()
    assert applied.rows == sum(int(real[token]) for expert, token in runs if expert == 0)
    assert applied.rows < applied.tokens


def test_generate_may_switch_implementations_between_steps() -> None:
    model = build_type("mixtral")
    model.generation_config.eos_token_id = None
    bank = locate(model).experts[0]
    indices = torch.arange(0, bank.width, 3)
    change = Override({bank.layer: LayerOverride(indices, torch.full((len(indices),), 2.0))})
    arguments: Any = {"attention_mask": MASK, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    calls: list[str] = []

    def switch(_module: nn.Module, _args: Any) -> None:
        model.config._experts_implementation = ("grouped_mm", "batched_mm", "eager")[len(calls) % 3]
        calls.append(model.config._experts_implementation)

    with override(model, change) as applied:
        expected = model.generate(IDS, **arguments)
        hook = model.model.register_forward_pre_hook(switch)
        changed = model.generate(IDS, **arguments)
        hook.remove()
    assert len(set(calls)) == 3
    assert torch.equal(expected, changed)
    assert applied.tokens == 2 * (int(MASK.sum()) + 3 * len(IDS))


def test_reading_leaves_the_logits_as_they_are() -> None:
    for name in FORMS[:5]:
        model = model_of(name)
        with torch.no_grad():
            bare = model(IDS).logits
            handles = [locate(model).observe_experts(bank, lambda *_: None) for bank in locate(model).experts]
            read = model(IDS).logits
            for handle in handles:
                handle.remove()
        assert torch.equal(bare, read), name


@pytest.mark.parametrize("implementation", ["sonicmoe", "deepgemm"])
def test_kernels_are_refused_with_the_setting_that_helps(implementation: str) -> None:
    model = build_type("mixtral")
    sites = locate(model)
    model.config._experts_implementation = implementation
    change = Override({0: LayerOverride(torch.tensor([0]), torch.tensor([1.0]))})
    with (
        refused(implementation, "experts_implementation=grouped_mm"),
        override(model, change, sites=sites),
        torch.no_grad(),
    ):
        model(IDS)


def test_shares_of_the_experts_are_refused() -> None:
    model = build_type("mixtral")
    model.model.layers[0].mlp.experts._is_expert_parallel = True
    with refused("share of the experts", "device_map=auto"):
        locate(model)


def test_packed_weights_are_refused() -> None:
    model = build_type("gpt_oss")
    experts = model.model.layers[1].mlp.experts
    experts.down_proj = nn.Parameter(experts.down_proj.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with refused("float8_e4m3fn", "dequantize=True", "experts_implementation=grouped_mm"):
        locate(model)
    del experts.down_proj, experts.gate_up_proj
    experts.gate_up_proj_blocks = nn.Parameter(torch.zeros(4, 2, 2, dtype=torch.uint8), requires_grad=False)
    with refused("looks like experts", "dequantize=True"):
        experts_of(model)


def test_experts_that_do_not_call_their_non_linearity_are_an_error() -> None:
    model = build_type("mixtral")
    sites = locate(model)
    experts = model.model.layers[0].mlp.experts
    experts.forward = lambda hidden, index, scores: hidden
    change = Override({0: LayerOverride(torch.tensor([0]), torch.tensor([1.0]))})
    with refused("did not call its non-linearity", "kernels"), override(model, change, sites=sites), torch.no_grad():
        model(IDS)


def test_a_function_of_all_neurons_is_refused() -> None:
    change = Override({0: LayerOverride(torch.tensor([0, 60]), operation=lambda old: old * 2)})
    with refused("experts", "set, scale, add or clamp"), override(model_of("mixtral"), change):
        pass


def test_experts_that_read_other_rows_fail_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(index: Tensor, _experts: int) -> Any:
        experts, order = torch.sort(index.reshape(-1))
        yield Rows(experts, (order // index.shape[1]).flip(0))

    monkeypatch.setitem(IMPLEMENTATIONS, "grouped_mm", wrong)
    with refused("does not have the effect that its weights predict"):
        locate(build_type("mixtral"))


# Experts as units


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "llama4_text", "jetmoe", "longcat_flash"])
def test_routing_weights_are_those_that_are_written_out(name: str) -> None:
    model, seen = model_of(name), list[Tensor]()
    layer, bank = max(locate(model).routers.items())
    expected = torch.zeros(IDS.numel(), bank.experts, dtype=torch.bool)
    statistics = collect_statistics(model, [(IDS, MASK)], language="en", sites=("experts",))

    def keep(expert: int, token: int, _pre: Tensor, _post: Tensor) -> None:
        expected[token, expert] = True

    with torch.no_grad(), written_out(model, {bank: keep}):
        model(IDS, attention_mask=MASK)
    with torch.no_grad(), locate(model).observe_at("experts", layer, seen.append):
        model(IDS, attention_mask=MASK)
    assert torch.equal(seen[0] != 0, expected)
    counted = (MASK.bool() & (MASK.cumsum(1) > 1)).flatten()
    rates = expected[counted].double().mean(0)
    assert torch.equal(statistics.positive_rate[layer, : bank.experts], rates)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "llama4_text", "jetmoe", "longcat_flash", "inkling_text"])
@pytest.mark.parametrize(("operation", "value", "share"), [("add", 50.0, 1.0), ("set", 0.0, 0.0)])
def test_a_bias_on_the_router_moves_the_tokens(name: str, operation: str, value: float, share: float) -> None:
    model, seen = model_of(name), list[Tensor]()
    layer = max(locate(model).routers)
    part = LayerOverride(torch.tensor([1]), torch.tensor([value]), operation, site="experts")
    change, observed = Override({layer: part}), partial(locate(model).observe_at, "experts", layer, seen.append)
    with torch.no_grad(), override(model, change) as applied, observed():
        model(IDS, attention_mask=MASK)
    assert float((seen[0][MASK.flatten().bool(), 1] != 0).double().mean()) == share
    assert applied.tokens == int(MASK.sum())


def test_lape_and_zero_work_on_experts() -> None:
    model, found = model_of("qwen3_moe"), {}
    for number, language in enumerate(("en", "hi")):
        ids = torch.randint(
            10 + 80 * number, 90 + 80 * number, (4, 20), generator=torch.Generator().manual_seed(number)
        )
        found[language] = collect_statistics(model, [ids], language=language, sites=("experts",))
    neurons = lnbench.select("lape:top_fraction=0.5:bar=0.3", found)
    assert (neurons.site, neurons.widths) == ("experts", (0, 4))
    with torch.no_grad():
        plain = model(IDS).logits
        with override(model, neurons, "zero", target="en", statistics=found["en"]) as applied:
            changed = model(IDS).logits
    assert applied.neurons == neurons.count("en") > 0
    assert not torch.equal(plain, changed)


def test_what_a_router_cannot_take_is_refused() -> None:
    model = model_of("mixtral")
    part = LayerOverride(torch.tensor([1]), torch.tensor([2.0]), site="experts")
    with refused("experts", "add", "zero"), override(model, Override({0: part})):
        pass
    hashed = build_type("deepseek_v4")
    part = LayerOverride(torch.tensor([1]), torch.tensor([2.0]), "add", site="experts")
    with refused("token ids"), override(hashed, Override({0: part})):
        pass
    with refused("experts", "post"), override(build_type("llama"), Override({0: part})):
        pass
