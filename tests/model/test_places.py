"""Sites that are no neurons: found where a person reads them off the code, written as a block written by hand says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from lnbench import LayerOverride, Override, Statistics, collect_statistics, override, select
from lnbench.model.locate import locate
from lnbench.model.place_check import failures_of_places
from lnbench.model.structure import probe
from lnbench.statistics.accumulator import Accumulator
from lnbench.statistics.collect import accumulator_of, observing
from tests.support.every_type import build_type
from tests.support.messages import refused
from tests.support.overrides import LEFT, RIGHT, tiny
from tests.support.tiny import HEADS, HIDDEN, LAYERS, WIDTH, build

OUTPUT_PROJECTIONS = {
    "llama": "model.layers.{}.self_attn.o_proj",
    "gpt2": "transformer.h.{}.attn.c_proj",
    "bloom": "transformer.h.{}.self_attention.dense",
    "opt": "model.decoder.layers.{}.self_attn.out_proj",
    "phi3": "model.layers.{}.self_attn.o_proj",
}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", OUTPUT_PROJECTIONS)
def test_heads_are_those_of_the_output_projection(model_type: str, implementation: str) -> None:
    model = build(model_type)
    model.set_attn_implementation(implementation)
    sites = locate(model)
    assert sites.layout("attention") == ((HEADS,) * LAYERS, (HIDDEN // HEADS,) * LAYERS)
    assert sites.layout("residual") == ((HIDDEN,) * LAYERS, (1,) * LAYERS)
    found = [place.module for place in sites.places if place.site == "attention"]
    assert found == [OUTPUT_PROJECTIONS[model_type].format(layer) for layer in range(LAYERS)]
    assert sites.check.sites == ("residual", "attention")


@pytest.mark.parametrize(
    ("model_type", "heads", "sizes"),
    [
        ("lfm2", (0, 4), (1, 8)),  # a convolution, then attention
        ("qwen3_5_text", (0, 4), (1, 8)),  # linear attention is none; an output gate lies between
        ("gemma4_text", (4, 4, 4, 4), (8, 512, 8, 512)),  # sizes of heads differ by layer
        ("youtu", (4, 4), (8, 8)),  # latent attention
        ("diffllama", (2, 2), (16, 16)),  # a head is the difference of two
        ("xlm", (4, 4), (8, 8)),  # attention lies in a list beside the feed-forwards'
    ],
)
def test_heads_of_layers_that_differ(model_type: str, heads: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    assert locate(build_type(model_type)).layout("attention") == (heads, sizes)


@pytest.mark.parametrize(("model_type", "path"), [("diffllama", "model.layers.1.self_attn.o_proj"),
                                                  ("xlm", "transformer.attentions.1.out_lin")])  # fmt: skip
def test_heads_outside_the_usual_places_are_written(model_type: str, path: str) -> None:
    model, ids = build_type(model_type), torch.arange(20, 34).reshape(2, 7)
    size = locate(model).place("attention", 1).unit_size

    def edited(_module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        new = args[0].clone()
        new[..., size : 2 * size] = 0
        return (new,)

    with torch.no_grad():
        with override(model, {1: torch.tensor([1])}, "zero", site="attention") as applied:
            found = model(input_ids=ids).logits
        plain = model(input_ids=ids).logits
        hook = model.get_submodule(path).register_forward_pre_hook(edited)
        expected = model(input_ids=ids).logits
        hook.remove()
    assert applied.tokens == ids.numel() and not torch.equal(found, plain)
    torch.testing.assert_close(found, expected)


def test_a_site_that_a_model_lacks_is_refused_with_the_reason() -> None:
    model = build_type("gemma3n_text")
    with refused("residual", "(2, 2, 7, 32)", "2 × 7 tokens"), override(model, Override(), site="residual"):
        pass
    with refused("site", "'residul'"):
        locate(tiny("llama")).layout("residul")


@pytest.mark.parametrize(
    ("site", "module", "side", "named"),
    [
        ("residual", "model.layers.0.mlp.up_proj", "output", "not what is read next"),
        ("attention", "model.layers.0.self_attn.o_proj", "output", "no tensor"),
    ],
)
def test_a_wrong_place_fails_the_check(site: str, module: str, side: Any, named: str) -> None:
    model = tiny("llama")
    sites = locate(model)
    wrong = replace(sites.place(site, 0), module=module, side=side, width=HIDDEN, unit_size=1)
    inputs = probe(model)
    with torch.no_grad():
        bare = model(**inputs).logits
        assert not dict(failures_of_places(sites, inputs, bare))
        (failed,) = failures_of_places(replace(sites, places=(wrong,)), inputs, bare)
    assert failed[0] == site and named in failed[1]


def by_hand(model: Any, ids: Tensor, mask: Tensor, edit: Any) -> tuple[Tensor, dict[tuple[int, str], Tensor]]:
    """The whole forward pass of a Llama, without a cache: logits, and the values at every site after ``edit``."""
    body, seen = model.model, {}

    def at(layer: int, site: str, values: Tensor) -> Tensor:
        seen[layer, site] = edit(layer, site, values)
        return seen[layer, site]

    hidden = body.embed_tokens(ids)
    batch, length = ids.shape
    cos, sin = body.rotary_emb(hidden, torch.arange(length).expand(batch, -1))
    visible = torch.ones(length, length, dtype=torch.bool).tril() & mask.bool()[:, None, :]

    def turned(values: Tensor) -> Tensor:
        first, second = values.chunk(2, -1)
        return values * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]

    for layer, block in enumerate(body.layers):
        own, read = block.self_attn, block.input_layernorm(hidden)
        size = HIDDEN // HEADS
        maps = (own.q_proj, own.k_proj, own.v_proj)
        query, key, value = (linear(read).view(batch, length, -1, size).transpose(1, 2) for linear in maps)
        shared = HEADS // key.shape[1]
        key, value = turned(key).repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        scores = (turned(query) @ key.transpose(2, 3) * size**-0.5).float()
        weights = scores.masked_fill(~visible[:, None], torch.finfo(torch.float32).min).softmax(-1).to(value.dtype)
        merged = (weights @ value).transpose(1, 2).reshape(batch, length, -1)
        hidden = hidden + own.o_proj(at(layer, "attention", merged))
        read = block.post_attention_layernorm(hidden)
        product = functional.silu(block.mlp.gate_proj(read)) * block.mlp.up_proj(read)
        hidden = hidden + block.mlp.down_proj(at(layer, "product", product))
        hidden = at(layer, "residual", hidden)
    return model.lm_head(body.norm(hidden)), seen


UNITS = {"attention": (HEADS, HIDDEN // HEADS), "residual": (HIDDEN, 1), "product": (WIDTH, 1)}


def changing(site: str, layer: int, units: list[int], values: list[float], operation: str, real: Tensor) -> Any:
    """One unit after the other, one coordinate after the other."""

    def edit(where: int, at: str, old: Tensor) -> Tensor:
        if (where, at) != (layer, site):
            return old
        new, size = old.clone(), UNITS[site][1]
        for unit, number in zip(units, values, strict=True):
            for place in range(unit * size, (unit + 1) * size):
                there = old[..., place]
                changed = {"set": torch.full_like(there, number), "scale": there * number, "add": there + number}
                new[..., place] = torch.where(real, changed[operation], there)
        return new

    return edit


@settings(max_examples=15, deadline=None)
@given(data=st.data(), site=st.sampled_from(sorted(UNITS)), operation=st.sampled_from(["set", "scale", "add"]))
def test_an_override_equals_the_model_written_by_hand(data: Any, site: str, operation: str) -> None:
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]), "dtype")
    (ids, mask), cached = data.draw(st.sampled_from([LEFT, RIGHT])), data.draw(st.booleans(), "cached")
    layer = data.draw(st.integers(0, LAYERS - 1))
    units = data.draw(st.lists(st.integers(0, UNITS[site][0] - 1), min_size=1, max_size=3, unique=True))
    values = [1.5 - number for number in range(len(units))]
    model = tiny("llama", dtype)
    change = Override({layer: LayerOverride(torch.tensor(units), torch.tensor(values), operation, site=site)})
    real = mask.bool()
    with torch.no_grad():
        wanted, _ = by_hand(model, ids, mask, changing(site, layer, units, values, operation, real))
        bare, _ = by_hand(model, ids, mask, lambda _layer, _site, old: old)
        with override(model, change) as applied:
            if cached:
                first = model(input_ids=ids[:, :4], attention_mask=mask[:, :4], use_cache=True)
                steps, cache = [first.logits], first.past_key_values
                for end in range(5, ids.shape[1] + 1):
                    step = model(input_ids=ids[:, end - 1 : end], attention_mask=mask[:, :end], past_key_values=cache)
                    steps.append(step.logits)
                got = torch.cat(steps, 1)
            else:
                got = model(input_ids=ids, attention_mask=mask).logits
    assert applied.tokens == int(real.sum())
    size = wanted[real].float().norm()
    # Roundings to 8 bits grow from layer to layer.
    assert (got - wanted)[real].float().norm() <= (1e-4 if dtype == torch.float32 else 0.06) * size
    if dtype == torch.float32:
        assert (wanted - bare)[real].norm() > 1e-3 * size


def test_a_head_takes_one_value_for_each_coordinate_and_functions_see_units() -> None:
    model, (ids, mask) = tiny("llama"), LEFT
    per_coordinate = torch.arange(2.0 * UNITS["attention"][1]).reshape(2, -1)
    heads = torch.tensor([2, 0])

    def function(old: Tensor) -> Tensor:
        assert old.shape == (*ids.shape, 2, UNITS["attention"][1])
        return per_coordinate.expand_as(old)

    logits = []
    for part in (LayerOverride(heads, per_coordinate), LayerOverride(heads, operation=function)):
        with torch.no_grad(), override(model, Override({1: part}), site="attention"):
            logits.append(model(input_ids=ids, attention_mask=mask).logits)
    assert torch.equal(*logits)

    def edit(layer: int, site: str, old: Tensor) -> Tensor:
        new = old.clone()
        if (layer, site) == (1, "attention"):
            new.view(*ids.shape, HEADS, -1)[:, :, heads] = per_coordinate
        return new

    with torch.no_grad():
        wanted, _ = by_hand(model, ids, mask, edit)
    torch.testing.assert_close(logits[0][mask.bool()], wanted[mask.bool()], rtol=1e-4, atol=1e-4)
    with refused(3, 4), override(model, Override({1: LayerOverride(heads, torch.ones(2, 3))}), site="attention"):
        pass
    with (
        refused(1, 4, LAYERS, HEADS),
        override(model, Override({1: LayerOverride(torch.tensor([4]), torch.ones(1))}), site="attention"),
    ):
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_are_those_of_every_value(dtype: torch.dtype, tmp_path: Path) -> None:
    model, (ids, mask) = tiny("llama", dtype), LEFT
    statistics = collect_statistics(model, [(ids, mask)], language="en", sites=tuple(UNITS), skip=0)
    with torch.no_grad():
        _, seen = by_hand(model, ids, mask, lambda _layer, _site, old: old)
    loose = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    for site, (width, size) in UNITS.items():
        own, by_unit = statistics.at(site), statistics.at(site).per_coordinate
        assert own.widths == (width,) * LAYERS and own.unit_size == size
        for layer in range(LAYERS):
            values = seen[layer, site][mask.bool()].float().view(-1, width, size)
            each = by_unit.mean[layer].view(width, size)
            torch.testing.assert_close(each, values.mean(0), **loose)
            units = values.norm(dim=-1) if size > 1 else values.squeeze(-1)
            torch.testing.assert_close(own.mean[layer], units.mean(0), **loose)
            torch.testing.assert_close(own.max[layer], units.amax(0), **loose)
            torch.testing.assert_close(own.quantile(0.5)[layer], units.quantile(0.5, dim=0), **loose)
            if dtype == torch.float32:
                torch.testing.assert_close(own.positive_rate[layer], (units > 0).double().mean(0))
    statistics.save(tmp_path)
    loaded = Statistics.load(tmp_path, "en")
    assert (loaded.fingerprint, loaded.site, loaded.unit_size) == (statistics.fingerprint, "attention", 4)
    assert "attention.coordinates.mean" in load_file(tmp_path / "en.safetensors")


def test_counts_of_parts_add_up_also_through_a_file(tmp_path: Path) -> None:
    sites, blocks = locate(tiny("llama")), [torch.randint(3, 200, (2, 30), generator=torch.Generator().manual_seed(1))]
    whole, first, second = (accumulator_of(sites, tuple(UNITS)) for _ in range(3))
    for counts, parts in ((whole, blocks), (first, [blocks[0][:1]]), (second, [blocks[0][1:]])):
        with observing(sites, counts, "en", skip=1) as read:
            for block in parts:
                read(block)
    first.save(tmp_path / "first")
    merged = Accumulator.load(tmp_path / "first")
    merged.merge(second)
    for site, values in whole.finish(sites.activations).items():
        for name, tensor in values.tensors().items():
            torch.testing.assert_close(
                merged.finish(sites.activations)[site].tensors()[name], tensor, msg=f"{site} {name}"
            )


def test_heads_of_several_sizes_are_counted_and_written_each_in_its_own() -> None:
    model, ids = build_type("gemma4_text"), torch.randint(3, 190, (2, 9), generator=torch.Generator().manual_seed(2))
    statistics = collect_statistics(model, [ids], language="en", sites=("attention",))
    means = statistics.per_coordinate.mean
    assert means.shape == (4, 4, 512) and means[0, :, 8:].isnan().all() and not means[1].isnan().any()
    read: dict[int, Tensor] = {}
    with override(model, {0: torch.tensor([3]), 1: torch.tensor([1])}, "mean", statistics=statistics, site="attention"):
        for layer in (0, 1):
            projection = model.get_submodule(locate(model).place("attention", layer).module)
            projection.register_forward_pre_hook(lambda _, args, layer=layer: read.__setitem__(layer, args[0].clone()))
        with torch.no_grad():
            model(input_ids=ids)
    torch.testing.assert_close(read[0][..., 24:32], means[0, 3, :8].expand(2, 9, -1))
    torch.testing.assert_close(read[1][..., 512:1024], means[1, 1].expand(2, 9, -1))


def test_interventions_write_a_head_s_own_coordinates_and_lape_is_refused() -> None:
    model, (ids, mask) = tiny("llama"), RIGHT
    languages = {"en": LEFT, "hi": (ids.flip(0) + 1, mask.flip(0))}
    collected = {
        language: collect_statistics(model, [text], language=language, sites=("attention",))
        for language, text in languages.items()
    }
    neurons = select("mean_difference:fraction=0.25", collected)
    assert (neurons.site, neurons.unit_size, neurons.widths) == ("attention", 4, (HEADS,) * LAYERS)
    means = collected["en"].per_coordinate.mean
    with torch.no_grad():
        with override(model, neurons, "mean", statistics=collected, target="en") as applied:
            got = model(input_ids=ids, attention_mask=mask).logits

        def edit(layer: int, site: str, old: Tensor) -> Tensor:
            new = old.clone()
            for head in neurons["en"].get(layer, torch.empty(0)).tolist() if site == "attention" else ():
                new[..., head * 4 : head * 4 + 4] = means[layer, head]
            return new

        wanted, _ = by_hand(model, ids, mask, edit)
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], rtol=1e-4, atol=1e-4)
    assert applied.outside_range == 0
    with refused("attention", "LAPE"):
        select("lape", collected)
    with refused("attention", "post"), override(model, neurons, "zero", target="en", site="post"):
        pass
