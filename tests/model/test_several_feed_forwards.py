"""Layers with several feed-forwards: each has its own neurons in the layer's numbering, for reading and for writing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lnbench import LayerOverride, Override, collect_statistics, override
from lnbench.model.locate import locate
from lnbench.statistics.layer_accumulator import CALIBRATION, LayerAccumulator
from lnbench.statistics.nonlinearity import names_of
from lnbench.statistics.site_values import LEVELS
from tests.model.test_structure import HIDDEN, VOCABULARY, WIDTH, Gated, Halves, Plain, Tiny
from tests.support.messages import refused
from tests.support.samples import rank_error

OTHER = 2 * WIDTH
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])


class Block(nn.Module):
    """Two feed-forwards of other forms and widths, side by side or one after the other."""

    def __init__(self, first: nn.Module, second: nn.Module, *, parallel: bool) -> None:
        super().__init__()
        self.first, self.second, self.parallel = first, second, parallel

    def forward(self, x: Tensor) -> Tensor:
        return self.joined(x, self.first, self.second)

    def joined(self, x: Tensor, first: Any, second: Any) -> Tensor:
        one = first(x)
        return one + second(x) if self.parallel else one + second(F.layer_norm(x + one, (HIDDEN,)))


PAIRS: dict[str, Any] = {
    "functional, gated": lambda: (Gated(F.silu, width=WIDTH), Gated(F.gelu, width=OTHER)),
    "modules": lambda: (Gated(nn.SiLU(), width=WIDTH), Gated(nn.Tanh(), width=OTHER)),
    "plain, then halves": lambda: (Plain(F.relu), Halves(F.silu)),
    "one non-linearity for both": lambda: (lambda act: (Gated(act), Gated(act, width=OTHER)))(nn.GELU()),
    "the same twice": lambda: (Plain(nn.ReLU()), Plain(nn.ReLU())),
}


def built(pair: str, parallel: bool) -> Tiny:
    torch.manual_seed(1)
    return Tiny(*(Block(*PAIRS[pair](), parallel=parallel) for _ in range(2))).eval()


def width_of(mlp: Any) -> int:
    return int(getattr(mlp, "proj_2", getattr(mlp, "c_proj", None)).weight.shape[1])  # type: ignore[union-attr]


def by_hand(mlp: Any, x: Tensor, change: Any = lambda neurons: neurons) -> Tensor:
    """A feed-forward with changed neurons."""
    if isinstance(mlp, Halves):
        gate, up = mlp.proj_1(x).chunk(2, dim=-1)
        return mlp.proj_2(change(mlp.function(gate)) * up)
    if isinstance(mlp, Plain):
        return mlp.c_proj(change(mlp.function(mlp.c_fc(x))))
    return mlp.c_proj(change(mlp.function(mlp.w2(x))) * mlp.w1(x))


def set_at(indices: Tensor, values: Tensor, real: Tensor) -> Any:
    def change(neurons: Tensor) -> Tensor:
        changed = neurons.clone()
        for index, value in zip(indices.tolist(), values.tolist(), strict=True):
            changed[..., index] = torch.where(real, torch.tensor(value), changed[..., index])
        return changed

    return change


def logits_by_hand(model: Tiny, ids: Tensor, layer: int, changes: tuple[Any, Any]) -> Tensor:
    x = model.embed(ids)
    for number, block in enumerate(model.blocks):
        normed = F.layer_norm(x, (HIDDEN,))
        first, second = changes if number == layer else (lambda neurons: neurons,) * 2
        output = block.joined(
            normed,
            lambda own, block=block, first=first: by_hand(block.first, own, first),
            lambda own, block=block, second=second: by_hand(block.second, own, second),
        )
        x = x + x.cumsum(1) / 7 + output
    return model.head(x)


@settings(max_examples=30, deadline=None)
@given(
    pair=st.sampled_from(sorted(PAIRS)),
    parallel=st.booleans(),
    seed=st.integers(0, 999),
    which=st.sampled_from(["both", "first", "second"]),
    padded=st.booleans(),
)
def test_an_override_equals_the_block_written_by_hand(
    pair: str, parallel: bool, seed: int, which: str, padded: bool
) -> None:
    model = built(pair, parallel)
    widths = [width_of(mlp) for mlp in (model.blocks[1].first, model.blocks[1].second)]
    generator = torch.Generator().manual_seed(seed)
    low, high = {"both": (0, sum(widths)), "first": (0, widths[0]), "second": (widths[0], sum(widths))}[which]
    indices = torch.randperm(high - low, generator=generator)[:7] + low
    values = torch.randn(len(indices), generator=generator)
    ids = torch.randint(VOCABULARY, MASK.shape, generator=generator)
    real = MASK.bool() if padded else torch.ones_like(MASK, dtype=torch.bool)
    with torch.no_grad():
        with override(model, Override({1: LayerOverride(indices, values)})) as applied:
            if padded:
                applied.real = real
            changed = model(input_ids=ids).logits
        inside = indices < widths[0]
        expected = logits_by_hand(
            *(model, ids, 1),
            (
                set_at(indices[inside], values[inside], real),
                set_at(indices[~inside] - widths[0], values[~inside], real),
            ),
        )
    torch.testing.assert_close(changed, expected, rtol=1e-5, atol=1e-5)
    assert (applied.neurons, applied.layers, applied.tokens) == (len(indices), 1, int(real.sum()))


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("pair", PAIRS)
def test_statistics_are_those_of_each_feed_forward(pair: str, parallel: bool) -> None:
    model = built(pair, parallel)
    ids = torch.randint(VOCABULARY, MASK.shape, generator=torch.Generator().manual_seed(2))
    kept: list[list[Tensor]] = []

    def keep(neurons: Tensor) -> Tensor:
        kept[-1].append(neurons[:, 1:].flatten(0, 1))
        return neurons

    statistics = collect_statistics(model, [ids], language="en", skip=1).at("post")
    for layer in range(2):
        kept.append([])
        with torch.no_grad():
            logits_by_hand(model, ids, layer, (keep, keep))
        wanted = torch.cat(kept[layer], dim=1)
        torch.testing.assert_close(statistics.mean[layer], wanted.mean(0))
        torch.testing.assert_close(statistics.positive_rate[layer], (wanted > 0).double().mean(0))
        torch.testing.assert_close(statistics.quantile(0.5)[layer], wanted.double().quantile(0.5, dim=0).float())


def test_quantiles_of_long_text_go_through_each_feed_forward_s_own_non_linearity() -> None:
    torch.manual_seed(3)
    sites = locate(Tiny(Block(Gated(nn.SiLU(), width=200), Gated(nn.Tanh(), width=150), parallel=True)).eval())
    pre = torch.randn(3 * CALIBRATION, 350)
    post = torch.cat([F.silu(pre[:, :200]), pre[:, 200:].tanh()], dim=1)

    counts = LayerAccumulator(350, torch.device("cpu"))
    for rows in torch.arange(len(pre)).split(CALIBRATION):
        counts.add(pre[rows], post[rows])
    values = counts.finish(sites.activations[0])[1]
    for level in (0.12, 0.25, 0.5, 0.75, 0.95):
        found = values.quantiles[int((LEVELS - level).abs().argmin())]
        assert rank_error(post, found, level) <= 0.002


def test_names_of_non_linearities() -> None:
    assert names_of(locate(built("modules", True)).activations) == [None, None]
    assert names_of(locate(built("the same twice", True)).activations) == ["relu", "relu"]


def test_banks_follow_each_other_in_the_layer_s_numbering() -> None:
    sites = locate(built("plain, then halves", False))
    assert [(bank.layer, bank.start, bank.width) for bank in sites.banks] == [
        (layer, start, WIDTH) for layer in range(2) for start in (0, WIDTH)
    ]
    assert sites.widths == (2 * WIDTH, 2 * WIDTH)
    with refused("2 feed-forwards", "blocks.0.first", "name one"):
        sites.tap("post", 0, lambda values: None)


def test_a_function_of_neurons_of_several_feed_forwards_is_refused() -> None:
    model = built("modules", True)
    around = LayerOverride(torch.tensor([WIDTH - 1, WIDTH]), operation=lambda old: old - old.mean(-1, keepdim=True))
    with refused("several feed-forwards", "LayerOverride of its own"), override(model, Override({0: around})):
        pass
    one = LayerOverride(torch.tensor([WIDTH, WIDTH + 3]), operation=lambda old: old * 0)
    with override(model, Override({0: one})), torch.no_grad():
        model(input_ids=torch.ones(1, 4, dtype=torch.long))


def test_a_feed_forward_that_runs_more_often_than_the_other_is_not_counted() -> None:
    model = built("modules", True)
    locate(model)
    block = model.blocks[1]
    block.forward = lambda x: block.first(x) + block.first(x) + block.second(x)
    with refused("layer 1", "ran twice"):
        collect_statistics(model, [torch.ones(2, 4, dtype=torch.long)], language="en")
