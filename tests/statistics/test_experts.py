"""Statistics of mixtures of experts: rates over all tokens and over routed ones, and what is made of them."""

from __future__ import annotations

import csv
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lnbench
from lnbench import NeuronSet, Statistics, collect_statistics
from lnbench.choices import plan
from lnbench.model.experts_taps import Rows
from lnbench.model.layout import ExpertsLayout, expert_of
from lnbench.model.locate import locate
from lnbench.statistics.accumulator import Accumulator
from lnbench.statistics.bins import EXPERT_BINS
from lnbench.statistics.collect import statistics_of
from lnbench.statistics.layer_accumulator import EXPERT_CALIBRATION, LayerAccumulator
from lnbench.statistics.ranking import eligible, shares_of_routed, upper_bar
from lnbench.statistics.site_values import LEVELS
from lnbench.tables.neurons import experts_table
from tests.support.every_type import build_type
from tests.support.messages import refused

EXPERTS, WIDTH, DENSE = 3, 4, 2
LAYOUT = ExpertsLayout(0, DENSE, EXPERTS, WIDTH)
ALL = DENSE + LAYOUT.neurons


def identity(values: Tensor) -> Tensor:
    return values


def counted(routing: Tensor, values: Tensor, dense: Tensor, batches: int, language: str = "en") -> Statistics:
    """Statistics of a layer of ``DENSE`` neurons and three experts.

    ``routing [tokens, experts]`` says which run; ``values [tokens, experts, width]`` are theirs.
    """
    counts = Accumulator(1, ALL, experts=[LAYOUT])
    for part in torch.arange(len(routing)).chunk(batches):
        tokens, experts = routing[part].nonzero(as_tuple=True)
        own = values[part][tokens, experts]
        counts.add(0, dense[part], dense[part], torch.arange(len(part)))
        counts.add_experts(0, own, own, Rows(experts, tokens), torch.ones(len(part), dtype=torch.bool))
        counts.seen[0] += len(part)
        counts.tokens += len(part)
    counts.check("en")
    return statistics_of(counts, [identity, identity], language, site="post", provenance={"model": "m"})


@st.composite
def texts(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    tokens = draw(st.sampled_from([5, 40, 700]))
    shares = torch.tensor([draw(st.sampled_from([0.0, 0.1, 0.6, 1.0])) for _ in range(EXPERTS)])
    routing = torch.rand(tokens, EXPERTS, generator=generator) < shares
    values = torch.randn(tokens, EXPERTS, WIDTH, generator=generator) + torch.arange(WIDTH) / 2
    return routing, values, torch.randn(tokens, DENSE, generator=generator)


@given(texts(), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_counts_equal_those_of_whole_samples(text: tuple[Tensor, Tensor, Tensor], batches: int) -> None:
    routing, values, dense = text
    found, tokens = counted(*text, batches), len(routing)
    assert found.widths == (ALL,)
    for expert, own in LAYOUT.parts():
        sample = values[routing[:, expert], expert]
        rate = (sample > 0).double().sum(0) / tokens
        assert torch.equal(found.positive_rate[0, own], rate)
        assert torch.equal(found.routed_tokens[0, own], torch.full((WIDTH,), len(sample)))
        if len(sample) == 0:
            assert found.mean[0, own].isnan().all()
            assert found.routed_rate[0, own].isnan().all()
            assert torch.equal(found.exceedance(-1.0)[0, own], torch.zeros(WIDTH, dtype=torch.float64))
            continue
        torch.testing.assert_close(found.routed_rate[0, own], (sample > 0).double().mean(0))
        torch.testing.assert_close(found.mean[0, own], sample.mean(0), rtol=1e-5, atol=1e-6)
        assert torch.equal(found.max[0, own], sample.amax(0))
        exceeding = found.exceedance(0.7)[0, own] * tokens / len(sample)
        # Between two levels of the grid, and between two tokens next to each other in rank.
        slack = 2 / len(sample) if len(sample) <= EXPERT_CALIBRATION else 4 / EXPERT_BINS
        assert bool(((exceeding - (sample > 0.7).double().mean(0)).abs() <= slack + 1e-9).all())
        for level in (0.1, 0.5, 0.9):
            below = (sample <= found.quantile(level)[0, own]).double().mean(0)
            assert bool(((below - level).abs() <= slack + 1 / len(sample) + 0.02).all())
    torch.testing.assert_close(found.positive_rate[0, :DENSE], (dense > 0).double().mean(0))


def test_memory_stays_under_a_kibibyte_per_neuron() -> None:
    counts = LayerAccumulator(WIDTH, torch.device("cpu"), coarse=True)
    for tokens in (EXPERT_CALIBRATION, 500):
        values = torch.randn(tokens, WIDTH)
        counts.add(values, values)
        assert sum(tensor.nbytes for tensor in counts.tensors().values()) < 1024 * WIDTH
    assert len(counts.finish(identity)[0].quantiles) == len(LEVELS)


@cache
def of_model() -> tuple[Any, dict[str, Statistics]]:
    model, found = build_type("qwen2_moe"), {}
    for number, language in enumerate(("en", "hi", "vi")):
        ids = torch.randint(
            10 + 60 * number, 70 + 60 * number, (8, 40), generator=torch.Generator().manual_seed(number)
        )
        found[language] = collect_statistics(model, [ids], language=language)
    return model, found


def test_files_keep_what_was_routed(tmp_path: Path) -> None:
    _, found = of_model()
    found["en"].save(tmp_path)
    read = Statistics.load(tmp_path, "en")
    assert read.experts == found["en"].experts
    assert torch.equal(read.routed_share.nan_to_num(2), found["en"].routed_share.nan_to_num(2))
    assert read.fingerprint == found["en"].fingerprint


def test_interrupted_and_merged_counts_are_those_of_the_whole(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    routing = torch.rand(300, EXPERTS, generator=generator) < 0.5
    values, dense = torch.randn(300, EXPERTS, WIDTH, generator=generator), torch.randn(300, DENSE, generator=generator)
    halves = []
    for part in (slice(0, 150), slice(150, 300)):
        counts = Accumulator(1, ALL, experts=[LAYOUT])
        tokens, experts = routing[part].nonzero(as_tuple=True)
        own = values[part][tokens, experts]
        counts.add(0, dense[part], dense[part], torch.arange(150))
        counts.add_experts(0, own, own, Rows(experts, tokens), torch.ones(150, dtype=torch.bool))
        counts.tokens, counts.seen = 150, [150]
        counts.save(tmp_path / "counts.safetensors")
        halves.append(Accumulator.load(tmp_path / "counts.safetensors"))
    halves[0].merge(halves[1])
    merged = statistics_of(halves[0], [identity] * 2, "en", site="post", provenance={})
    whole = counted(routing, values, dense, 1)
    assert torch.equal(merged.positive_rate, whole.positive_rate)
    assert torch.equal(merged.routed_share, whole.routed_share)
    torch.testing.assert_close(merged.mean, whole.mean)


def test_bars_are_taken_per_kind() -> None:
    rates = torch.tensor([[[0.9, 0.8], [0.7, 0.6], [0.02, 0.01], [0.04, 0.03]]], dtype=torch.float64)
    exists, routed = torch.ones(1, 4, dtype=torch.bool), torch.tensor([[False, False, True, True]])
    assert upper_bar(rates, exists, 0.5, routed).squeeze().tolist() == [0.7, 0.7, 0.02, 0.02]
    assert upper_bar(rates, exists, 0.5, ~exists).tolist() == upper_bar(rates, exists, 0.5).tolist()


def test_lape_selects_neurons_of_both_kinds_and_routed_rates_have_a_floor() -> None:
    _, found = of_model()
    neurons = lnbench.select("lape:top_fraction=0.2:bar=0.7", found)
    assert neurons.experts == found["en"].experts
    kinds = {
        expert_of(neurons.experts, layer, index)[0] is None
        for language in neurons
        for layer, indices in neurons[language].items()
        for index in indices.tolist()
    }
    assert kinds == {True, False}
    floor = int(found["en"].routed_tokens[found["en"].of_experts].max()) + 1
    assert not (eligible(found, "routed", floor) & found["en"].of_experts).any()
    only = lnbench.select(f"lape:top_fraction=0.2:bar=0.7:rate=routed:floor={floor}", found)
    assert not any((only.mask(language) & found["en"].of_experts).any() for language in only)
    some = lnbench.select("lape:top_fraction=0.2:bar=0.7:rate=routed:floor=5", found)
    assert any((some.mask(language) & found["en"].of_experts).any() for language in some)


ROUTED = ("act_prob:level=0.6:fraction=0.2", "lape_ternary:top_fraction=0.2:bar=0.5", "random_active:bar=0.5")
"""Selectors that compare rates, beside LAPE, with parameters by which they choose some of both kinds."""


@pytest.mark.parametrize("selector", ROUTED)
def test_every_selector_of_rates_can_compare_those_of_routed_tokens(selector: str) -> None:
    _, found = of_model()
    of_experts = found["en"].of_experts
    of_all, routed = (lnbench.select(f"{selector}{rate}", found) for rate in ("", ":rate=routed:floor=5"))
    assert of_all.selector != routed.selector
    assert any((routed.mask(language) & of_experts).any() for language in routed)
    high = lnbench.select(f"{selector}:rate=routed:floor={10**6}", found)
    if not selector.startswith("random"):  # which matches what was chosen by another selector, experts or not
        assert not any((high.mask(language) & of_experts).any() for language in high)
    # Of what every token runs, both rates are one.
    dense = {language: own.exceedance(0.1) for language, own in found.items()}
    shares = shares_of_routed(found, dense, 5)
    units = eligible(found, "routed", 5)
    for language, own in found.items():
        assert torch.equal(shares[language][units & ~of_experts], dense[language].double()[units & ~of_experts])
        assert shares[language][~units & own.exists].isnan().all()
        by_hand = dense[language].double() * own.tokens / own.routed_tokens
        torch.testing.assert_close(shares[language][units & of_experts], by_hand[units & of_experts])


def test_nothing_to_compare_is_refused() -> None:
    model = build_type("mixtral")
    ids = torch.randint(10, 190, (2, 12), generator=torch.Generator().manual_seed(0))
    found = {language: collect_statistics(model, [ids], language=language) for language in ("en", "hi")}
    for selector in ("lape", "lape_ternary", "act_prob", "random_active:like=random"):
        with refused("1000", "rate=routed", "floor"):
            lnbench.select(f"{selector}:rate=routed", found)


def test_sets_name_experts_in_files_and_tables(tmp_path: Path) -> None:
    neurons = NeuronSet("m", 1, ALL, {"en": {0: [1, 2, 7, 13]}}, experts=[LAYOUT])
    neurons.save(tmp_path / "neurons.json")
    assert NeuronSet.load(tmp_path / "neurons.json") == neurons
    neurons.export(tmp_path / "neurons.csv")
    rows = list(csv.reader((tmp_path / "neurons.csv").open()))
    assert rows == [
        *(["language", "layer", "expert", "index"], ["en", "0", "", "1"]),
        *(["en", "0", "0", "0"], ["en", "0", "1", "1"], ["en", "0", "2", "3"]),
    ]
    table = experts_table(neurons)
    assert [row.labels for row in table.rows] == [["0", "0"], ["0", "1"], ["0", "2"]]
    assert "lnbench's own definition" in table.notes[0]
    with refused("[0, 2, 4, 4]"):
        NeuronSet("m", 1, ALL, {}, experts=[(0, 2, 4, 4)])


def test_values_that_are_not_known_are_left_out_with_a_warning() -> None:
    routing = torch.tensor([[True, False, True]] * 20)
    found = counted(routing, torch.ones(20, EXPERTS, WIDTH), torch.ones(20, DENSE), 1)
    never = DENSE + WIDTH
    change = plan({0: torch.tensor([0, never])}, "mean", found)
    assert [part.indices.tolist() for _, part in change.parts] == [[0]]
    with refused("routed", "experts", "zero"):
        plan({0: torch.tensor([never])}, "p10", found)
    assert plan({0: torch.tensor([never])}, "zero", found).neurons == 1


def test_all_selectors_that_need_no_measure_run_on_a_mixture() -> None:
    _, found = of_model()
    for selector in ("act_prob", "mean_difference", "dln", "lape_ternary", "random", "top_activation"):
        assert lnbench.select(selector, found).experts, selector


def test_measures_of_experts_are_refused() -> None:
    model, _ = of_model()
    with refused("document_means", "not defined for experts"):
        collect_statistics(model, [torch.ones(1, 4, dtype=torch.long)], language="en", measures=["document_means"])
    with refused("not defined for experts"):
        collect_statistics(model, [torch.ones(1, 4, dtype=torch.long)], language="en", batch_levels=[0.9])
    with refused("experts", "attention", "residual"):
        collect_statistics(
            model, [torch.ones(1, 4, dtype=torch.long)], language="en", measures=["attribution:site=experts"]
        )


def test_measures_beside_the_experts_are_those_of_every_value() -> None:
    model = build_type("mixtral")
    ids = torch.randint(10, 190, (3, 8), generator=torch.Generator().manual_seed(4))
    choices = ("attribution:site=attention", "document_means:site=residual", "head_importance")
    found = collect_statistics(model, [ids], language="en", measures=choices, skip=0).measures
    read: dict[int, torch.Tensor] = {}

    def keep(_module: Any, args: Any, layer: int) -> None:
        args[0].retain_grad()
        read[layer] = args[0]

    for layer, block in enumerate(model.model.layers):
        block.self_attn.o_proj.register_forward_pre_hook(partial(keep, layer=layer))
    output = model(ids, output_hidden_states=True)
    losses = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    )
    losses.backward()
    for layer, values in read.items():
        products = (values * values.grad).unflatten(-1, (4, 8)).sum(-1)
        sums = found["attribution:site=attention"]["sums"][layer]
        torch.testing.assert_close(sums, products.abs().sum((0, 1)).double(), rtol=1e-4, atol=1e-6)
        sizes = found["head_importance"]["sizes"][layer]
        by_text = (products.sum(1) / (ids.shape[1] - 1)).abs().sum(0)
        torch.testing.assert_close(sizes, by_text.double(), rtol=1e-4, atol=1e-6)
    means = found["document_means:site=residual"]["means"][:, 0]
    torch.testing.assert_close(means, output.hidden_states[1].mean(1).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt_oss", "qwen3_moe"])
def test_names_of_non_linearities_of_experts(name: str) -> None:
    from lnbench.statistics.nonlinearity import names_of

    names = names_of(locate(build_type(name)).activations)
    assert names[-1] == {"gpt_oss": None, "qwen3_moe": "silu"}[name]
