"""No override does nothing without saying so: compiled models, caches that compile decoding, fused feed-forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CompileConfig

from lnbench import LayerOverride, Override, collect_statistics, override
from lnbench.model.locate import locate
from lnbench.statistics.accumulator import Accumulator
from lnbench.statistics.collect import observing
from tests.support.messages import refused
from tests.support.overrides import LEFT, PROMPTS, REAL, change, generate, tiny
from tests.support.tiny import build

STATIC = {"do_sample": False, "pad_token_id": 0, "cache_implementation": "static"}
REASONS = ("torch.compile", "use_kernels", "use_liger_kernel")


@pytest.fixture(autouse=True)
def forget_compiled_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# Graphs that were compiled before the override


def compile_outside(model: Any) -> Any:
    return torch.compile(model, backend="eager")


def compile_in_place(model: Any) -> Any:
    model.compile(backend="eager")
    return model


def compile_layers(model: Any) -> Any:
    for number, layer in enumerate(model.model.layers):
        model.model.layers[number] = torch.compile(layer, backend="eager")
    return model


def compile_forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def compile_feed_forwards(model: Any) -> Any:
    for layer in model.model.layers:
        layer.mlp.compile(backend="eager")
    return model


@pytest.mark.parametrize(
    "compiling",
    [compile_outside, compile_in_place, compile_layers, compile_forward, compile_feed_forwards],
    ids=lambda case: case.__name__,
)
def test_a_model_that_was_compiled_and_run_before(compiling: Callable[[Any], Any]) -> None:
    with torch.no_grad(), override(tiny("llama"), change()):
        expected = tiny("llama")(PROMPTS, use_cache=False).logits
    plain_statistics = collect_statistics(tiny("llama"), [PROMPTS], language="xx")
    model = compiling(build("llama"))
    with torch.no_grad():
        before = model(PROMPTS, use_cache=False).logits
        with override(model, change()) as applied:
            torch.testing.assert_close(model(PROMPTS, use_cache=False).logits, expected)
        assert applied.tokens == PROMPTS.numel()
        statistics = collect_statistics(model, [PROMPTS], language="xx")
        torch.testing.assert_close(model(PROMPTS, use_cache=False).logits, before)
    assert statistics.fingerprint == plain_statistics.fingerprint
    assert not torch.allclose(before, expected)


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["all", "generated"])
def test_a_static_cache_for_which_generate_compiles_decoding(positions: Any) -> None:
    compiling = CompileConfig(backend="eager", fullgraph=False, mode=None)
    compiling._compile_all_devices = True
    options = STATIC | {"max_new_tokens": 6}
    ids = LEFT[0][1:]
    with torch.no_grad(), override(tiny("llama"), change(), positions=positions):
        expected = generate(tiny("llama"), ids, LEFT[1][1:], 6)
    model = build("llama")
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        model.generate(ids, compile_config=compiling, **options)
        with override(model, change(), positions=positions) as applied:
            found = model.generate(ids, compile_config=compiling, **options)
    assert applied.tokens == (12 if positions == "all" else 5)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("positions", "tokens"), [("all", REAL + 6), ("prompt", REAL), ("generated", 6)])
def test_padding_with_a_static_cache(positions: Any, tokens: int) -> None:
    model = tiny("llama")
    model.generation_config.eos_token_id = None
    with torch.no_grad(), override(model, change(), positions=positions) as applied:
        model.generate(LEFT[0], attention_mask=LEFT[1], **STATIC, max_new_tokens=4)
    assert applied.tokens == tokens


# Feed-forwards in one piece


class SiluTimes(torch.autograd.Function):
    """As Liger's kernel: a function of gate and up, of which nothing in between is a module's output."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        return functional.silu(gate) * up


def fuse_as_liger_does(model: Any, layers: tuple[int, ...]) -> None:
    def forward(mlp: Any, x: Tensor) -> Tensor:
        return mlp.down_proj(SiluTimes.apply(mlp.gate_proj(x), mlp.up_proj(x)))

    for layer in layers:
        mlp = model.model.layers[layer].mlp
        mlp.forward = MethodType(forward, mlp)


def fuse_as_hub_kernels_do(model: Any, layers: tuple[int, ...]) -> None:
    """As ``kernelize``, which puts another function in place of the class's."""

    class Fused(type(model.model.layers[0].mlp)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            weights = [projection.weight for projection in (self.gate_proj, self.up_proj, self.down_proj)]
            gate, up = (functional.linear(x, weight) for weight in weights[:2])
            return functional.linear(functional.silu(gate) * up, weights[2])

    for layer in layers:
        model.model.layers[layer].mlp.__class__ = Fused


def fuse_in_a_graph(model: Any, layers: tuple[int, ...]) -> None:
    """As a captured graph, whose parts are run by nobody but itself."""
    for layer in layers:
        mlp = model.model.layers[layer].mlp
        mlp.forward = torch.jit.trace(copy_of(mlp), torch.randn(2, 7, 16), check_trace=False).__call__


def copy_of(mlp: Any) -> nn.Module:
    whole = build("llama").model.layers[0].mlp
    whole.load_state_dict(mlp.state_dict())
    return whole


def fuse_in_a_way_nobody_knows(model: Any, layers: tuple[int, ...]) -> None:
    """Norm, feed-forward and residual stream in one function, written as no kernel that exists."""

    def forward(block: Any, hidden_states: Tensor, **options: Any) -> Tensor:
        attended, _ = block.self_attn(hidden_states=block.input_layernorm(hidden_states), **options)
        hidden_states = hidden_states + attended
        weights = (block.mlp.gate_proj.weight, block.mlp.up_proj.weight)
        gate, up = (block.post_attention_layernorm(hidden_states) @ weight.T for weight in weights)
        return hidden_states + (gate.sigmoid() * gate * up) @ block.mlp.down_proj.weight.T

    for layer in layers:
        block = model.model.layers[layer]
        block.forward = MethodType(forward, block)


FUSIONS = [fuse_as_liger_does, fuse_as_hub_kernels_do, fuse_in_a_graph, fuse_in_a_way_nobody_knows]


@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize("layers", [(0, 1, 2), (2,)], ids=["every layer", "one of several"])
@pytest.mark.parametrize("fuse", FUSIONS, ids=lambda case: case.__name__)
def test_a_feed_forward_that_was_fused_since_it_was_located_is_an_error(
    fuse: Any, layers: tuple[int, ...], site: Any
) -> None:
    model = build("llama")
    sites = locate(model)
    fuse(model, layers)
    changed = change().layers.keys() & set(layers)
    overriding = partial(override, model, change(), site=site, sites=sites)
    with torch.no_grad(), refused(str(sorted(changed)), *REASONS), overriding():
        model(PROMPTS)
    with torch.no_grad(), refused(*REASONS), overriding():
        generate(model, *LEFT, 3)
    counts = Accumulator(sites.layers, sites.width)
    with refused(*REASONS), observing(sites, counts, "xx", skip=1) as read:
        read(PROMPTS)


@pytest.mark.parametrize("fuse", FUSIONS, ids=lambda case: case.__name__)
def test_a_model_that_is_fused_is_changed_as_its_weights_say_or_refused(fuse: Any) -> None:
    model = build("llama")
    with torch.no_grad(), override(model, change()):
        expected = model(PROMPTS).logits
    fresh = build("llama")
    fuse(fresh, (0, 1, 2))
    if fuse is fuse_as_liger_does:
        with torch.no_grad(), override(fresh, change()) as applied:
            torch.testing.assert_close(fresh(PROMPTS).logits, expected)
        assert applied.tokens == PROMPTS.numel()
        return
    for attempt in (lambda: override(fresh, change()).__enter__(), lambda: observed(fresh)):
        with refused(*REASONS):
            attempt()


def observed(model: Any) -> Any:
    return collect_statistics(model, [PROMPTS], language="xx")


def test_a_fusion_that_comes_and_goes_between_passes() -> None:
    model = build("llama")
    with torch.no_grad(), refused("[2]", "1 of 3", *REASONS), override(model, change()):
        model(PROMPTS)
        fuse_as_liger_does(model, (2,))
        model(PROMPTS)
        del model.model.layers[2].mlp.forward
        model(PROMPTS)


def test_passes_without_a_token_to_change_need_no_write() -> None:
    model = build("llama")
    sites = locate(model)
    fuse_as_liger_does(model, (0, 1, 2))
    with torch.no_grad(), override(model, change(), positions="generated", sites=sites) as applied:
        model(PROMPTS)
        with applied.paused():
            model(PROMPTS)
    with torch.no_grad(), override(model, change(), sites=sites):
        pass
    assert applied.tokens == 0


def test_an_exception_in_the_block_is_not_covered_up() -> None:
    model = build("llama")
    sites = locate(model)
    fuse_as_liger_does(model, (0, 1, 2))
    with torch.no_grad(), pytest.raises(KeyError), override(model, change(), sites=sites):
        model(PROMPTS)
        raise KeyError


def test_a_pass_that_failed_wrote_nothing_and_is_no_error() -> None:
    model = build("llama")
    with torch.no_grad(), override(model, Override({2: LayerOverride(torch.tensor([1]), torch.zeros(1))})) as applied:
        handle = model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(PROMPTS)
        handle.remove()
        model(PROMPTS)
    assert applied.tokens == PROMPTS.numel()
