"""What several tests of overrides share: tiny models, changes, and feed-forward blocks written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lnbench import LayerOverride, Override, Statistics, override
from lnbench.model.locate import locate
from lnbench.statistics import LEVELS, SiteValues
from tests.support.tiny import LAYERS, WIDTH, build

PROMPTS = torch.tensor([[0, 0, 1, 17, 30, 99, 5], [1, 44, 8, 120, 61, 7, 200]])
LEFT = (PROMPTS, (PROMPTS != 0).long())
RIGHT = (PROMPTS.flip(1), (PROMPTS.flip(1) != 0).long())
REAL = int(LEFT[1].sum())

Edit = Callable[[int, str, Tensor], Tensor]
"""``(layer, site, values) -> values``: what a block written by hand does at a site."""


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
        for index, value in zip(part.indices.tolist(), part.values.to(values), strict=True):
            old = columns[index]
            new = {"set": value.expand_as(old), "scale": old * value, "add": old + value}[part.operation]
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


CHANGES = [("post", "set"), ("pre", "set"), ("post", "scale"), ("pre", "add")]


@contextmanager
def patched(base: nn.Module, changes: Override, site: str, real: Tensor | None = None) -> Iterator[None]:
    """The same change made without hooks: the non-linearities' ``forward`` replaced."""
    activations = locate(base).activations
    for layer, module in enumerate(activations):

        def forward(x: Tensor, *, layer: int = layer, inner: Any = module.forward) -> Tensor:
            where = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device) if real is None else real
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


def hooks(model: nn.Module) -> list[tuple[Any, ...]]:
    names = ["_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"]
    names += ["_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks"]
    return [tuple(dict(getattr(module, name)).items()) for module in model.modules() for name in names]
