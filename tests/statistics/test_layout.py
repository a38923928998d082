"""Models whose layers have different numbers of neurons, or none: Statistics, selections and files carry the layout."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lnbench import NeuronSet, Statistics, collect_statistics, override, select
from lnbench.analysis.activation_averages import activation_averages
from lnbench.analysis.overlap import by_chance, language_overlap
from lnbench.choices import plan
from lnbench.model.locate import locate
from lnbench.neurons import draw_random
from lnbench.override_values import LayerOverride, Override
from lnbench.statistics.accumulator import Accumulator
from lnbench.statistics.collect import observing, statistics_of
from tests.support.every_type import build_type
from tests.support.messages import refused
from tests.support.tiny import build

IRREGULAR = {
    "gemma3n_text": (48, 48, 64, 64),
    "gemma4_text": (48, 48, 96, 96),
    "zamba": (0, 48, 48),
    "zamba2": (0, 48, 0, 48),
    "nemotron_h, dense": (0, 48),
}
SELECTORS = (
    "lape:top_fraction=0.1",
    "act_prob:fraction=0.05",
    "act_prob:fraction=0.05:scope=model",
    "random:fraction=0.1",
)


@cache
def model_of(name: str) -> Any:
    return build_type(name)


def text(language: int, *shape: int) -> Tensor:
    return torch.randint(
        10 + 40 * language, 60 + 40 * language, shape, generator=torch.Generator().manual_seed(language)
    )


@cache
def collected(name: str) -> dict[str, Statistics]:
    languages = ("en", "hi", "zh")
    return {
        language: collect_statistics(model_of(name), [text(number, 2, 24)], language=language)
        for number, language in enumerate(languages)
    }


@pytest.mark.parametrize("name", IRREGULAR)
def test_statistics_have_the_models_widths_and_nothing_beyond(name: str) -> None:
    for own in collected(name).values():
        assert own.widths == IRREGULAR[name] == locate(model_of(name)).widths
        for site in ("pre", "post"):
            for tensor in own.at(site).values.tensors().values():
                missing = ~own.exists.expand(tensor.shape)
                assert torch.equal(tensor.isnan(), missing)


@pytest.mark.parametrize("name", IRREGULAR)
@pytest.mark.parametrize("selector", SELECTORS)
def test_selectors_choose_neurons_that_exist_and_as_many_as_asked(name: str, selector: str) -> None:
    neurons = select(selector, collected(name))
    assert neurons.widths == IRREGULAR[name]
    chosen = {language: neurons.count(language) for language in neurons}
    total = sum(IRREGULAR[name])
    if selector.startswith("lape"):
        together = sum(map(len, neurons.union(neurons.languages).values()))
        assert 0 < together <= round(0.1 * total)
    elif selector.startswith("act_prob"):
        assert set(chosen.values()) == {round(0.05 * total)}
    else:
        assert set(chosen.values()) == {sum(round(0.1 * width) for width in IRREGULAR[name])}


@pytest.mark.parametrize("name", IRREGULAR)
def test_files_carry_the_layout(name: str, tmp_path: Path) -> None:
    statistics = collected(name)["en"]
    statistics.save(tmp_path)
    loaded = Statistics.load(tmp_path, "en")
    assert (loaded.widths, loaded.fingerprint) == (statistics.widths, statistics.fingerprint)
    assert json.loads((tmp_path / "manifest.json").read_text())["widths"] == list(IRREGULAR[name])
    neurons = select("lape:top_fraction=0.1", collected(name))
    neurons.save(tmp_path / "neurons.json")
    assert NeuronSet.load(tmp_path / "neurons.json") == neurons
    assert NeuronSet.load(tmp_path / "neurons.json").widths == IRREGULAR[name]


def test_files_of_uniform_models_say_nothing_of_widths(tmp_path: Path) -> None:
    model = build("llama")
    statistics = {
        language: collect_statistics(model, [text(number, 2, 24)], language=language)
        for number, language in enumerate(("en", "hi"))
    }
    statistics["en"].save(tmp_path)
    select("lape:top_fraction=0.1", statistics).save(tmp_path / "neurons.json")
    assert "widths" not in (tmp_path / "manifest.json").read_text()
    assert "widths" not in (tmp_path / "neurons.json").read_text()


@pytest.mark.parametrize("name", IRREGULAR)
@pytest.mark.parametrize("intervention", ["mean", "p10", "zero"])
def test_interventions_of_selected_neurons_run(name: str, intervention: str) -> None:
    statistics = collected(name)
    neurons = select("lape:top_fraction=0.1", statistics)
    language = max(neurons, key=neurons.count)
    change = plan(neurons[language], intervention, statistics[language])
    with override(model_of(name), change, statistics=statistics[language]) as applied, torch.no_grad():
        assert torch.isfinite(model_of(name)(input_ids=text(1, 2, 8), use_cache=False).logits).all()
    assert applied.tokens == 16
    assert 0 <= applied.outside_range <= 1


@pytest.mark.parametrize("name", IRREGULAR)
def test_an_override_of_a_neuron_that_a_layer_lacks_is_refused(name: str) -> None:
    layer, width = next(
        (layer, width) for layer, width in enumerate(IRREGULAR[name]) if width < max(IRREGULAR[name]) or width
    )
    change = Override({layer: LayerOverride(torch.tensor([width]), torch.tensor([1.0]))})
    with refused(layer, width), override(model_of(name), change):
        pass


@settings(max_examples=30, deadline=None)
@given(
    widths=st.lists(st.integers(0, 12), min_size=1, max_size=4).filter(any),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_random_neurons_exist(widths: list[int], share: float, seed: int) -> None:
    counts = torch.tensor([round(share * width) for width in widths])
    drawn = draw_random("en", counts, torch.zeros(len(widths), max(widths), dtype=torch.bool), seed, widths)
    assert torch.equal(drawn.sum(1), counts)
    assert not (drawn & (torch.arange(max(widths)) >= torch.tensor(widths)[:, None])).any()


def test_counts_merge_and_continue(tmp_path: Path) -> None:
    model = model_of("zamba")
    sites = locate(model)
    whole, halves = (Accumulator(sites.layers, sites.widths) for _ in range(2))
    other = Accumulator(sites.layers, sites.widths)
    blocks = [text(0, 2, 24), text(1, 2, 24)]
    for account, part in ((whole, blocks), (halves, blocks[:1]), (other, blocks[1:])):
        with observing(sites, account, "en", skip=1) as read:
            for block in part:
                read(block)
    halves.save(tmp_path / "half")
    halves = Accumulator.load(tmp_path / "half")
    halves.merge(other)
    finished = [
        statistics_of(account, sites.activations, "en", site="post", provenance={}) for account in (whole, halves)
    ]
    assert finished[0].widths == finished[1].widths == IRREGULAR["zamba"]
    torch.testing.assert_close(finished[0].mean, finished[1].mean, equal_nan=True)
    with refused("0 to 48", "3 layers × 48"):
        whole.merge(Accumulator(3, 48))


def test_a_block_that_runs_several_times_counts_every_visit(tmp_path: Path) -> None:
    model = model_of("hrm_text")
    sites = locate(model)
    assert sites.visits == (6, 6, 2, 2)
    kept: list[Tensor] = []
    assert sites.banks[0].activation is not None
    hook = model.get_submodule(sites.banks[0].activation).register_forward_hook(
        lambda _module, _args, output: kept.append(output[:, 1:].reshape(-1, 48))
    )
    with torch.no_grad():
        model(input_ids=text(0, 2, 24), use_cache=False)
    hook.remove()
    statistics = collect_statistics(model, [text(0, 2, 24)], language="en")
    assert len(kept) == 6
    assert statistics.tokens == 2 * 23
    torch.testing.assert_close(statistics.mean[0], torch.cat(kept).mean(0), rtol=1e-4, atol=1e-5)
    assert torch.equal(statistics.positive_rate[0], (torch.cat(kept) > 0).double().mean(0))


def test_averages_and_overlaps_count_neurons_that_exist() -> None:
    statistics = collected("zamba")
    averages = activation_averages(statistics)
    own = statistics["en"]
    assert averages["en"]["mean"] == pytest.approx(float(own.mean[1:].double().mean()))
    neurons = NeuronSet("m", 3, 48, {"en": {1: range(24)}, "hi": {1: range(12)}}, widths=(0, 48, 24))
    assert language_overlap(neurons).expected[0, 1] == pytest.approx(24 * 12 / 48)
    narrow = NeuronSet("m", 2, 48, {"en": {1: range(12)}}, widths=(48, 24))
    assert by_chance(narrow, narrow, "en").shared == pytest.approx(12 * 12 / 24)


def test_sets_of_other_layouts_are_not_compared() -> None:
    one, other = (NeuronSet("m", 2, 48, {"en": {0: [1]}}, widths=widths) for widths in ((48, 24), (48, 48)))
    with refused("shapes"):
        one.compare(other)
    with refused("24 to 48", "2 layers × 48"):
        one.check("m", 2, 48)
    one.check("m", 2, (48, 24))
