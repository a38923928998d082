"""Accounts of parts add up to the account of the whole, whatever the parts and their order."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from lnbench.model.locate import locate
from lnbench.statistics.accumulator import Accumulator
from lnbench.statistics.collect import observing, statistics_of
from lnbench.statistics.layer_accumulator import CALIBRATION, LayerAccumulator
from lnbench.statistics.site_values import ASKED, RANKED
from tests.support.messages import refused
from tests.support.samples import normal, rank_errors
from tests.support.tiny import VOCABULARY, build

WIDTH = 4
KINDS = {
    "normal": lambda n: normal(n, WIDTH) * torch.tensor([0.01, 1, 10, 100]),
    "heavy": lambda n: normal(n, WIDTH) / normal(n, WIDTH, seed=1).abs().clamp_min(0.01),
    "constant": lambda n: torch.tensor([-3.0, 0, 0.7, 1e4]).repeat(n, 1),
    "negative": lambda n: -normal(n, WIDTH).abs() - 0.5,
    "bimodal": lambda n: normal(n, WIDTH) / 2 + 3 * normal(n, WIDTH, seed=1).sign(),
    "sorted": lambda n: normal(n, WIDTH).sort(dim=0).values,
    "bfloat16": lambda n: normal(n, WIDTH).bfloat16(),
}


def counted(sample: Tensor, post: Tensor, chunk: int, bins_of: LayerAccumulator | None = None) -> LayerAccumulator:
    """An account of a sample and what became of it, added in chunks."""
    account = LayerAccumulator(WIDTH, torch.device("cpu"))
    if bins_of is not None:
        account.take_bins(bins_of)
    for before, after in zip(sample.split(chunk), post.split(chunk), strict=True):
        account.add(before, after)
    return account


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    cuts=st.lists(st.integers(1, 4_000), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    shared=st.booleans(),
)
def test_parts_in_any_order_are_the_whole(kind, cuts, order, shared):
    sample = KINDS[kind](sum(cuts))
    post = functional.silu(sample)
    whole = counted(sample, post, 700)
    split = zip(sample.split(cuts), post.split(cuts), strict=True)
    parts = [counted(before, after, 300, whole if shared else None) for before, after in split]
    order.shuffle(parts)
    merged, *others = parts
    for part in others:
        merged.merge(part)
    assert merged.tokens == whole.tokens
    for name in ("positive", "min", "max"):
        assert torch.equal(getattr(merged.moments, name), getattr(whole.moments, name))
    if shared and whole.histograms:
        assert torch.equal(merged.histograms[0].counts, whole.histograms[0].counts)
    for seen, wanted, values in zip(
        merged.finish(functional.silu),
        whole.finish(functional.silu),
        (sample.float(), functional.silu(sample).float()),
        strict=True,
    ):
        assert torch.equal(seen.positive_rate, wanted.positive_rate)
        torch.testing.assert_close(seen.mean, wanted.mean, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(seen.std, wanted.std, rtol=1e-5, atol=1e-7)
        for part, level in zip(_asked(seen), ASKED, strict=True):
            assert (rank_errors(values, part, level) <= seen.rank_error + 1e-7).all(), level
        if shared and whole.histograms:
            assert torch.equal(seen.quantiles, wanted.quantiles)


def _asked(values):
    return values.quantiles.index_select(0, RANKED)


def test_parts_with_bins_of_their_own_keep_the_accuracy():
    sample = normal(40_000, WIDTH) * torch.tensor([0.1, 1, 5, 30])
    merged, *others = [counted(part, functional.silu(part), 8_000) for part in sample.split(8_000)]
    for other in others:
        merged.merge(other)
    assert len(merged.histograms) == 5
    for values, exact in zip(merged.finish(functional.silu), (sample, functional.silu(sample)), strict=True):
        for found, level in zip(_asked(values), ASKED, strict=True):
            assert rank_errors(exact, found, level).max() <= 0.002


def text(rows: int, length: int = 40, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def read(model, blocks, account=None, skip=1) -> Accumulator:
    sites = locate(model)
    account = account or Accumulator(sites.layers, sites.width, (0.9,))
    with observing(sites, account, "en", skip=skip) as one:
        for block in blocks:
            one(block)
    return account


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_saved_account_goes_on_as_if_it_had_not_stopped(kind, dtype, tmp_path):
    model = build(kind).to(dtype)
    blocks = list(text(60).split(5))
    whole = read(model, blocks)
    for stop in (1, 4, 9):
        first = read(model, blocks[:stop])
        first.about = {"rows": stop}
        first.save(tmp_path / "state.safetensors")
        again = Accumulator.load(tmp_path / "state.safetensors")
        assert again.about == {"rows": stop}
        read(model, blocks[stop:], again)
        one, other = (statistics_of(account, locate(model).activations, "en", site="post", provenance={})
                      for account in (whole, again))  # fmt: skip
        assert one.fingerprint == other.fingerprint
        assert one.batch_quantiles["pre"][0.9].equal(other.batch_quantiles["pre"][0.9])


def test_the_order_of_shards_does_not_matter():
    model = build("llama")
    blocks = list(text(90).split(3))
    bins = read(model, blocks)
    assert bins.tokens > CALIBRATION
    found = []
    for order in itertools.permutations(range(3)):
        parts = []
        for index in range(3):
            account = Accumulator(len(bins.layers), bins.width, (0.9,))
            account.take_bins(bins)
            parts.append(read(model, blocks[index::3], account))
        merged = copy.deepcopy(parts[order[0]])
        for number in order[1:]:
            merged.merge(parts[number])
        assert (merged.tokens, merged.batches) == (bins.tokens, bins.batches)
        found.append(merged.finish(locate(model).activations))
    for values in found:
        for site, one in values.items():
            assert torch.equal(one.positive_rate, found[0][site].positive_rate)
            assert torch.equal(one.quantiles, found[0][site].quantiles)


def test_accounts_of_other_shapes_do_not_add_up():
    account = Accumulator(2, 4)
    for other in (Accumulator(3, 4), Accumulator(2, 5), Accumulator(2, 4, (0.5,))):
        with refused("2 layers × 4"):
            account.merge(other)


def test_damaged_files_say_what_is_wrong(tmp_path: Path):
    path = tmp_path / "en.safetensors"
    account = read(build("llama"), [text(2)])
    account.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with refused(path, "truncated"):
        Accumulator.load(path)
    path.write_bytes(whole)
    save_file(load_file(path), path, metadata={"account": json.dumps({"format": "other"})})
    with refused(path, "lnbench.account/1"):
        Accumulator.load(path)
    with refused(tmp_path / "none.safetensors"):
        Accumulator.about_in(tmp_path / "none.safetensors")


def brute(model, blocks, skip: int) -> dict[str, Tensor]:
    """Site → every counted activation, ``[tokens, layers, width]``, token by token."""
    sites = locate(model)
    rows: dict[str, list[Tensor]] = {"pre": [], "post": []}
    kept: list[tuple[Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _m, args, out: kept.append((args[0].clone(), out.clone())))
        for module in sites.activations
    ]
    for ids, mask in blocks:
        kept.clear()
        with torch.no_grad():
            sites.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        for row in range(len(ids)):
            real = 0
            for position in range(ids.shape[1]):
                real += int(mask[row, position])
                if mask[row, position] and real > skip:
                    for number, site in enumerate(rows):
                        shaped = [pair[number].reshape(*ids.shape, sites.width) for pair in kept]
                        rows[site].append(torch.stack([layer[row, position] for layer in shaped]))
    for hook in hooks:
        hook.remove()
    return {site: torch.stack(values) for site, values in rows.items()}


MODELS = {kind: build(kind) for kind in ("llama", "gemma3_text", "gpt2", "opt")}


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(MODELS)),
    shape=st.tuples(st.integers(1, 6), st.integers(3, 40)),
    size=st.integers(1, 4),
    shards=st.integers(1, 3),
    skip=st.integers(0, 2),
    seed=st.integers(0, 9),
)
def test_any_split_of_any_padded_text_is_brute_force(kind, shape, size, shards, skip, seed):
    """Models, lengths, batches, shards in any order and padding masks: counts are those of the written-down values."""
    model, draw = MODELS[kind], torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, shape, generator=draw)
    mask = (torch.rand(shape, generator=draw) < 0.8).long()
    mask[0] = 1
    batches = list(zip(ids.split(size), mask.split(size), strict=True))
    parts = [read_masked(model, batches[index::shards], skip) for index in range(shards)]
    merged, *others = [parts[place] for place in torch.randperm(shards, generator=draw)]
    for other in others:
        merged.merge(other)
    statistics = statistics_of(merged, locate(model).activations, "en", site="post", provenance={})
    for site, values in brute(model, batches, skip).items():
        seen, exact = statistics.at(site), values.double()
        assert seen.tokens == len(values)
        assert torch.equal(seen.positive_rate, (values > 0).double().mean(0))
        assert torch.equal(seen.min, values.amin(0)) and torch.equal(seen.max, values.amax(0))
        torch.testing.assert_close(seen.mean.double(), exact.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(seen.std.double(), exact.std(0, correction=0), rtol=1e-4, atol=1e-5)
        for level in ASKED:
            wanted = exact.quantile(level, dim=0).float()
            torch.testing.assert_close(seen.quantile(level), wanted, rtol=1e-4, atol=1e-5)


def read_masked(model, batches, skip: int) -> Accumulator:
    return read(model, batches, Accumulator(locate(model).layers, locate(model).width), skip)
