"""Measures: observed in the pass, reduced over parts of a text, kept with the Statistics."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from pydantic.dataclasses import dataclass

from lnbench import LnbenchError, NeuronSet, Statistics, collect_statistics, hookimpl
from lnbench.choices import needs_of, select
from lnbench.errors import PluginError
from lnbench.hookspecs import Needs
from lnbench.host import get_host
from lnbench.model.locate import locate
from lnbench.statistics.accumulator import Accumulator
from lnbench.statistics.collect import observing
from tests.support.messages import refused
from tests.support.tiny import LAYERS, VOCABULARY, WIDTH, build


@dataclass
class RowMeans:
    """Each neuron's mean per row of text, summed over rows; the least and the greatest value."""

    at: str = "post"

    reductions: ClassVar = {"sums": "sum", "rows": "sum", "least": "min", "most": "max"}

    def start(self, sites):
        self.sums = torch.zeros(sites.layers, sites.width, dtype=torch.float64)
        self.rows = torch.zeros(sites.layers, dtype=torch.int64)
        self.least = torch.full_like(self.sums, torch.inf)
        self.most = torch.full_like(self.sums, -torch.inf)

    def observe(self, step):
        if step.site != self.at:
            return
        assert step.values.shape == (*step.counted.shape, WIDTH)
        for values, counted in zip(step.values.double(), step.counted, strict=True):
            if counted.any():
                own = values[counted]
                self.sums[step.layer] += own.mean(0)
                self.rows[step.layer] += 1
                self.least[step.layer] = torch.minimum(self.least[step.layer], own.amin(0))
                self.most[step.layer] = torch.maximum(self.most[step.layer], own.amax(0))

    def finish(self):
        return {"sums": self.sums, "rows": self.rows, "least": self.least, "most": self.most}


@dataclass
class Undeclared(RowMeans):
    reductions: ClassVar = {"sums": "sum"}


@dataclass
class Averaged(RowMeans):
    reductions: ClassVar = {"sums": "mean"}


@dataclass
class Failing(RowMeans):
    def observe(self, step):
        raise RuntimeError("no luck")


@dataclass
class Steady:
    """The neuron whose mean per row is highest."""

    at: str = "post"

    @property
    def needs(self):
        return Needs(measures=(f"row_means:at={self.at}",))

    def select(self, statistics):
        masks = {}
        for language, own in statistics.items():
            measured = own.measure(f"row_means:at={self.at}")
            means = measured["sums"] / measured["rows"][:, None]
            masks[language] = means >= means.max()
        return NeuronSet.from_masks(next(iter(statistics.values())).model, masks)


class Plugin:
    @hookimpl
    def lnbench_register_measures(self, register):
        register("row_means", RowMeans)
        register("undeclared", Undeclared)
        register("averaged", Averaged)
        register("failing", Failing)

    @hookimpl
    def lnbench_register_selectors(self, register):
        register("steady", Steady)


@pytest.fixture(autouse=True)
def _plugin():
    plugin = Plugin()
    get_host().register(plugin)
    yield
    get_host().unregister(plugin)


MODEL = build("llama")
BLOCKS = [torch.randint(3, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(seed)) for seed in range(4)]


def by_hand(blocks, site):
    """The activations of layer 1, ``[rows, tokens, width]``, without the first position."""
    kept = []
    module = locate(MODEL).activations[1]
    hook = module.register_forward_hook(lambda _, args, output: kept.append(args[0] if site == "pre" else output))
    with torch.no_grad():
        for block in blocks:
            MODEL(block)
    hook.remove()
    return torch.cat(kept).reshape(-1, blocks[0].shape[1], WIDTH)[:, 1:].double()


@pytest.mark.parametrize("site", ["post", "pre"])
def test_a_measure_sees_what_the_statistics_count(site):
    statistics = collect_statistics(MODEL, BLOCKS, language="en", sites=(site,), measures=(f"row_means:at={site}",))
    assert statistics.site == site
    measured = statistics.measure(f"row_means:at={site}")
    rows = by_hand(BLOCKS, site)
    assert measured["rows"].tolist() == [12] * LAYERS
    torch.testing.assert_close(measured["sums"][1], rows.mean(1).sum(0))
    assert torch.equal(measured["least"].float(), statistics.min)
    assert torch.equal(measured["most"].float(), statistics.max)


def test_padding_and_skipped_positions_do_not_count():
    mask = torch.ones_like(BLOCKS[0])
    mask[1, 5:] = 0
    mask[2, :] = 0
    statistics = collect_statistics(MODEL, [(BLOCKS[0], mask)], language="en", measures=("row_means",), skip=2)
    assert statistics.tokens == 18 + 3
    assert statistics.measure("row_means")["rows"].tolist() == [2] * LAYERS


def test_they_are_stored_and_change_the_fingerprint(tmp_path):
    statistics = collect_statistics(MODEL, BLOCKS, language="en", measures=("row_means", RowMeans(at="pre")))
    assert list(statistics.measures) == ["row_means", "row_means:at=pre"]
    statistics.save(tmp_path)
    loaded = Statistics.load(tmp_path, "en")
    assert loaded.fingerprint == statistics.fingerprint
    assert loaded.measures.keys() == statistics.measures.keys()
    for choice, tensors in statistics.measures.items():
        assert all(torch.equal(loaded.measures[choice][name], tensor) for name, tensor in tensors.items())
    plain = collect_statistics(MODEL, BLOCKS, language="en")
    assert plain.measures == {}
    assert plain.fingerprint != statistics.fingerprint


def counted(blocks, path=None):
    sites = locate(MODEL)
    account = Accumulator(sites.layers, sites.width) if path is None else Accumulator.load(path)
    account.measures.start(["row_means"], sites)
    with observing(sites, account, "en", skip=1) as read:
        for block in blocks:
            read(block)
    return account


def test_parts_add_up_whether_merged_or_resumed(tmp_path):
    whole = counted(BLOCKS).measures.tensors()["row_means"]
    first, second = counted(BLOCKS[:1]), counted(BLOCKS[1:])
    first.save(tmp_path / "first.safetensors")
    resumed = counted(BLOCKS[1:], tmp_path / "first.safetensors")
    first.merge(second)
    for account in (first, resumed):
        account.save(tmp_path / "whole.safetensors")
        for own in (account, Accumulator.load(tmp_path / "whole.safetensors")):
            torch.testing.assert_close(own.measures.tensors()["row_means"], whole, rtol=1e-12, atol=1e-12)
    with refused("['row_means']", "[]"):
        first.merge(Accumulator(LAYERS, WIDTH))


@pytest.mark.parametrize(
    ("measure", "error", "named"),
    [
        ("nonsense", LnbenchError, ["nonsense", "row_means"]),
        ("undeclared", LnbenchError, ["undeclared", "rows", "sums"]),
        ("averaged", LnbenchError, ["mean", "sum, min, max"]),
        ("failing", PluginError, ["failing", "RuntimeError: no luck"]),
    ],
)
def test_what_does_not_fit_is_an_error(measure, error, named):
    with refused(*named, error=error):
        collect_statistics(MODEL, BLOCKS[:1], language="en", measures=(measure,))


@pytest.mark.parametrize("given", [{"sites": ("middle",)}, {"site": "middle"}, {"sites": ("post", "middle")}])
def test_unknown_sites(given):
    with refused("middle", "pre, post"):
        collect_statistics(MODEL, BLOCKS[:1], language="en", **given)


def test_a_selector_says_what_it_needs():
    needs = needs_of("steady")
    assert needs == Needs(measures=("row_means:at=post",))
    assert needs_of("random:like=steady") == needs
    statistics = {"en": collect_statistics(MODEL, BLOCKS, language="en", measures=needs.measures)}
    assert select("steady", statistics).count("en") == 1
    with refused("row_means:at=pre", "row_means", "'en'", "--measure row_means:at=pre"):
        select("steady:at=pre", statistics)
