"""The account of one layer: exact moments, and quantiles within a few thousandths of a rank at both sites."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lnbench.statistics.bins import BINS, Bins
from lnbench.statistics.kernels import add_histogram, add_tokens
from lnbench.statistics.layer_accumulator import CALIBRATION, Histogram, LayerAccumulator
from lnbench.statistics.quantiles import quantiles
from lnbench.statistics.site_values import LEVELS
from tests.support.samples import accumulated, normal, rank_error, rank_errors, statistics_of

TOKENS, WIDTH = 30_000, 5
ACTIVATIONS = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "relu": torch.relu,
    "relu2": lambda x: torch.relu(x).square(),
    "tanh": torch.tanh,
    "falling": lambda x: -x,
}
ASKED = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def mixture(share: float, first: Tensor, second: Tensor) -> Tensor:
    chosen = torch.rand(first.shape, generator=torch.Generator().manual_seed(9)) < share
    return torch.where(chosen, first, second)


def student(tokens: int) -> Tensor:
    return normal(tokens, WIDTH) / normal(tokens, WIDTH, 2, seed=1).square().mean(-1).sqrt()


SAMPLES = {
    "normal": lambda n: normal(n, WIDTH) * torch.tensor([0.01, 0.1, 1, 3, 10]),
    "shifted": lambda n: normal(n, WIDTH) + torch.tensor([-5.0, -2, 0.5, 3, 40]),
    "cauchy": lambda n: normal(n, WIDTH) / normal(n, WIDTH, seed=1),
    "student": student,
    "negative": lambda n: -normal(n, WIDTH).abs() - 0.5,
    "lognormal": lambda n: (2 * normal(n, WIDTH)).exp(),
    "bimodal": lambda n: mixture(0.5, normal(n, WIDTH) / 2 - 3, normal(n, WIDTH, seed=1) / 2 + 3),
    "massive": lambda n: mixture(0.01, normal(n, WIDTH) * 100 + 1000, normal(n, WIDTH, seed=1)),
    "constant": lambda n: torch.tensor([-3.0, -1e-8, 0, 0.7, 1e4]).repeat(n, 1),
    "bfloat16": lambda n: normal(n, WIDTH).bfloat16().float(),
    "large offset": lambda n: 1000 + normal(n, WIDTH) / 100,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", SAMPLES)
def test_quantiles_and_exceedance(kind, activation):
    function = ACTIVATIONS[activation]
    pre = SAMPLES[kind](TOKENS)
    values = {"pre": pre, "post": function(pre)}
    statistics = statistics_of(pre.unsqueeze(1), function, chunk=7_000 if kind == "student" else 700)
    # Around -5 a float32 has digits left for a handful of this function's values only.
    limit = 0.0025 if (kind, activation) == ("shifted", "gelu") else 0.002
    for site, sample in values.items():
        seen = statistics.at(site)
        for q in ASKED:
            assert rank_error(sample, seen.quantile(q)[0], q) <= limit
            assert (rank_errors(sample, seen.quantile(q)[0], q) <= seen.rank_error[0] + 1e-9).all()
        for level in (0.003, 0.12, 0.345, 0.5, 0.678, 0.905, 0.997):
            threshold = sample.quantile(level, dim=0)
            share = (sample > threshold).double().mean(0)
            assert ((seen.exceedance(threshold)[0] - share).abs() <= 0.012).all()
        assert torch.equal(seen.quantile(0)[0], sample.amin(0))
        assert torch.equal(seen.quantile(1)[0], sample.amax(0))
        assert (seen.values.quantiles.diff(dim=0) >= 0).all()


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_small_sample_keeps_its_own_quantiles(kind):
    pre = SAMPLES[kind](CALIBRATION - 1)
    statistics = statistics_of(pre.unsqueeze(1), chunk=100)
    for site, sample in (("pre", pre), ("post", functional.silu(pre))):
        wanted = np.quantile(sample.double().numpy(), LEVELS.numpy(), axis=0)
        np.testing.assert_allclose(statistics.at(site).values.quantiles[:, 0].numpy(), wanted, rtol=1e-6)


@pytest.mark.parametrize("tokens", [1, 2, CALIBRATION, CALIBRATION + 1])
def test_any_number_of_tokens(tokens):
    statistics = statistics_of(normal(tokens, 1, WIDTH))
    sample = functional.silu(normal(tokens, WIDTH))
    for q in (0, 0.005, 0.5, 1):
        assert rank_error(sample, statistics.quantile(q)[0], q) <= (1 / tokens if tokens < CALIBRATION else 0.003)


def test_ties_are_found_to_a_fraction_of_the_spread():
    """Of values that repeat, the bins know the place to within their own width."""
    steps = (normal(TOKENS, WIDTH) * 4).round() / 4
    gap = mixture(0.5, normal(TOKENS, WIDTH) / 50 - 3, normal(TOKENS, WIDTH, seed=1) / 50 + 3)
    zeros = mixture(0.5, torch.zeros(TOKENS, WIDTH), normal(TOKENS, WIDTH, seed=1))
    for pre, slack in ((steps, 0.03), (gap, 0.1), (zeros, 0.01)):
        for name in ("silu", "relu"):
            function = ACTIVATIONS[name]
            statistics = statistics_of(pre.unsqueeze(1), function)
            for site, sample in (("pre", pre), ("post", function(pre))):
                for q in ASKED:
                    assert rank_error(sample, statistics.at(site).quantile(q)[0], q, slack) <= 0.002


def test_dead_neurons_of_a_relu_are_zero_to_the_last_level_below_the_rest():
    pre = normal(TOKENS, WIDTH) - 1
    statistics = statistics_of(pre.unsqueeze(1), torch.relu)
    dead = 1 - statistics.positive_rate
    for level in LEVELS.tolist():
        zero = statistics.quantile(level) == 0
        assert zero[dead > level + 0.002].all()
        assert not zero[dead < level - 0.002].any()
    assert ((statistics.exceedance(0.0) - statistics.positive_rate).abs() <= 0.011).all()


def test_sorted_text_costs_resolution_only():
    """The bins are fixed on the first tokens; what comes later may lie far outside and still finds one."""
    for pre in (normal(TOKENS, WIDTH).sort(dim=0).values, normal(TOKENS, WIDTH).sort(dim=0, descending=True).values):
        for function in (functional.silu, torch.relu):
            statistics = statistics_of(pre.unsqueeze(1), function)
            for site, sample in (("pre", pre), ("post", function(pre))):
                seen = statistics.at(site)
                assert torch.equal(seen.min[0], sample.amin(0))
                assert torch.equal(seen.max[0], sample.amax(0))
                for q in ASKED:
                    assert rank_error(sample, seen.quantile(q)[0], q) <= 0.005
                    assert (rank_errors(sample, seen.quantile(q)[0], q) <= seen.rank_error[0] + 1e-9).all()


def test_a_jump_out_of_all_bins_keeps_what_is_exact():
    pre = torch.cat([normal(2000, WIDTH), 1e6 + normal(2000, WIDTH), -1e6 + normal(2000, WIDTH)])
    statistics = statistics_of(pre.unsqueeze(1)).at("pre")
    assert torch.equal(statistics.min[0], pre.amin(0))
    assert torch.equal(statistics.max[0], pre.amax(0))
    torch.testing.assert_close(statistics.mean[0], pre.double().mean(0).float())
    assert (statistics.quantile(0.5).abs() < 4).all()
    assert (statistics.quantile(0.1) < -100).all()
    assert (statistics.quantile(0.9) > 100).all()


def bins(width: int, seed: int = 2) -> Bins:
    below, above = (normal(width, seed=seed + side).abs() * 4 + 0.01 for side in (1, 2))
    return Bins(normal(width, seed=seed), below, above)


def empty(where: Bins) -> Histogram:
    return Histogram(where, torch.zeros(len(where.centre), BINS, dtype=torch.int32))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", [1, 63, 64, 300, 700])
def test_compiled_and_torch_count_alike(width, threads):
    hard = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1e4, -1e4, 1e-8, 255.0, -255.0, 3e5])
    pre = torch.cat([normal(300, width) * torch.linspace(0.01, 50, width), hard[:, None].expand(-1, width)])
    post = functional.silu(pre)
    rows = torch.randperm(len(pre), generator=torch.Generator().manual_seed(0))[:250]
    found = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for way in ("compiled", "torch"):
            account, histogram = LayerAccumulator(width, pre.device), empty(bins(width))
            for part in rows.split(200):
                add_tokens(pre, post, part, account.moments, histogram, way=way)
            found.append((account.moments, histogram.counts))
    finally:
        torch.set_num_threads(before)
    (one, counts), (other, others) = found
    assert torch.equal(counts, others)
    for name in ("positive", "min", "max"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    torch.testing.assert_close(one.sums, other.sums, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(one.squares, other.squares, rtol=1e-12, atol=1e-9)
    assert (counts.sum(1) == len(rows)).all()
    assert torch.equal(one.positive, torch.stack([(pre[rows] > 0).sum(0), (post[rows] > 0).sum(0)]))


@pytest.mark.parametrize("way", ["compiled", "torch"])
def test_values_that_are_no_numbers_stay_inside_the_histogram(way):
    centre = torch.tensor([0.0, torch.nan, torch.inf])
    account, histogram = LayerAccumulator(3, torch.device("cpu")), empty(Bins(centre, torch.ones(3), torch.ones(3)))
    bad = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf])[:, None].repeat(1, 3)
    add_tokens(bad, bad, torch.arange(4), account.moments, histogram, way=way)
    assert histogram.counts.sum(1).tolist() == [4, 4, 4]
    assert not torch.isfinite(account.moments.sums).any()


TRITON = """
import torch
from tests.support.samples import normal
from lnbench.statistics.layer_accumulator import Histogram, LayerAccumulator
from lnbench.statistics.bins import BINS, Bins
from lnbench.statistics.kernels import add_histogram, add_tokens

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
for dtype in (torch.float32, torch.bfloat16):
    for width, tokens in ((40, 300), (33, 129), (1, 5)):
        hard = torch.tensor([0.0, -0.0, 1e-45, 1e4, -1e4, 1e-8, 3e5, torch.nan, torch.inf, -torch.inf])
        good = (normal(tokens, width) * torch.linspace(0.01, 50, width)).to(device, dtype)
        bad = torch.cat([good, hard[:, None].expand(-1, width).to(device, dtype)])
        bins = Bins(*(each.to(device) for each in (normal(width), normal(width).abs() + 0.01, normal(width).abs() + 1)))
        found = []
        for way in ("triton", "torch"):
            account = LayerAccumulator(width, device)
            histogram = Histogram(bins, torch.zeros(width, BINS, dtype=torch.int32, device=device))
            for rows in torch.randperm(tokens, generator=torch.Generator().manual_seed(0)).to(device).split(100):
                add_tokens(good, 2 * good, rows, account.moments, way=way)
            add_histogram(bad, torch.arange(len(bad), device=device), histogram, way=way)
            found.append((account.moments, histogram.counts))
        (one, counts), (other, others) = found
        assert torch.equal(counts, others)
        for name in ("positive", "min", "max"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        torch.testing.assert_close(one.sums, other.sums, rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(one.squares, other.squares, rtol=1e-12, atol=1e-9)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_triton_and_torch_count_alike():
    """On a GPU as it runs there; elsewhere in Triton's interpreter, which must be chosen before it is imported."""
    interpreted = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | interpreted | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", TRITON], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_values_fall_into_the_bins_that_the_edges_bound():
    where = bins(3)
    edges = where.edges()
    assert edges.shape == (3, BINS - 1)
    assert (edges.diff(dim=1) > 0).all()
    histogram = empty(where)
    middles = ((edges[:, 1:] + edges[:, :-1]) / 2).float().T.contiguous()
    ends = torch.stack([edges[:, 0] - 1, edges[:, -1] + 1]).float()
    values = torch.cat([middles, ends])
    add_histogram(values, torch.arange(len(values)), histogram)
    assert (histogram.counts == 1).all()


def test_bins_hold_nearly_as_many_of_a_bell_shaped_distribution():
    sample = normal(200_000, 3) * torch.tensor([0.1, 1.0, 30.0]) + torch.tensor([0.0, -2.0, 7.0])
    histogram = empty(Bins.on(sample[:CALIBRATION]))
    add_histogram(sample, torch.arange(len(sample)), histogram)
    assert float(histogram.counts.max()) / len(sample) < 0.003


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_values_of_16_bits_are_found_among_those_that_there_are(dtype, scale):
    """A quantile between two neighbouring numbers would be off by all the tokens that have one of them."""
    pre = (normal(60_000, WIDTH) * scale - scale).to(dtype)
    for name in ("silu", "relu", "gelu_tanh"):
        function = ACTIVATIONS[name]
        statistics = statistics_of(pre.unsqueeze(1), function)
        for site, sample in (("pre", pre.float()), ("post", function(pre).float())):
            seen = statistics.at(site)
            for q in ASKED:
                assert (rank_errors(sample, seen.quantile(q)[0], q) <= seen.rank_error[0] + 1e-9).all()
                assert rank_error(sample, seen.quantile(q)[0], q) <= 0.002
                assert torch.equal(seen.quantile(q), seen.quantile(q).to(dtype).float())


def test_counts_outgrow_32_bits():
    account = accumulated(normal(2 * CALIBRATION, 4), functional.silu)
    (histogram,) = account.histograms
    assert histogram.counts.dtype == torch.int32
    centre = int(histogram.bins.places(histogram.bins.centre)[0])
    histogram.counts[:, centre] = torch.iinfo(torch.int32).max
    account.tokens = 2**31
    account.add(torch.cat([histogram.bins.centre.unsqueeze(0)] * 10), torch.zeros(10, 4))
    assert histogram.counts.dtype == torch.int64
    assert (histogram.counts[:, centre] == 2**31 + 9).all()


def test_memory_stays_under_4_kib_a_neuron():
    width = 8
    for tokens in (CALIBRATION // 2, CALIBRATION, 5000):
        account = accumulated(normal(tokens, width), functional.silu, chunk=700)
        kept = sum(tensor.numel() * tensor.element_size() for tensor in account.tensors().values())
        assert kept <= 4096 * width


def test_a_constant_neuron_has_no_spread():
    pre = torch.full((5000, 2), 0.1)
    statistics = statistics_of(pre.unsqueeze(1))
    assert (statistics.std == 0).all()
    assert torch.equal(statistics.quantile(0.3), statistics.max)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_counting_goes_on_in_a_forked_process():
    pre = normal(1000, 300)
    accumulated(pre, torch.relu, chunk=1000)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(2)
        account = LayerAccumulator(300, pre.device)
        add_tokens(pre, pre, torch.arange(len(pre)), account.moments)
        os._exit(0 if torch.equal(account.moments.max[0], torch.from_numpy(pre.numpy().max(0))) else 1)
    assert os.waitpid(child, 0)[1] == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    edges=st.lists(st.integers(-4, 4), min_size=2, max_size=9),
    seed=st.integers(0, 1000),
)
def test_folded_bins_equal_points_spread_by_hand(edges, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randint(0, 4, (1, len(edges) - 1), generator=generator).double()
    weights[0, 0] += 1
    ends = torch.tensor([edges], dtype=torch.float64)
    found, bound = quantiles(ends, weights, LEVELS)
    found, bound = found[:, 0], bound[:, 0]
    points = [
        np.linspace(low, high, 2002)[1:-1].repeat(int(weight))
        for low, high, weight in zip(edges[:-1], edges[1:], weights[0].tolist(), strict=True)
        if weight
    ]
    sample = torch.from_numpy(np.concatenate(points)).unsqueeze(1)
    for level, value in zip(LEVELS.tolist(), found, strict=True):
        assert rank_error(sample, value.unsqueeze(0), level, slack=1e-3) <= 1e-3
    assert ((bound >= 0) & (bound <= 1 + 1e-9)).all()
