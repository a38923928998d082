"""What an adapter changed is measured as by comparing whole matrices; selections are compared on the same text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from rich.console import Console
from torch import Tensor, nn

from lnbench import NeuronSet
from lnbench.corpora.corpus import Corpus
from lnbench.finetuning.inspect import (
    WeightDrift,
    selection_drift,
    weight_drift,
)
from lnbench.finetuning.lora import build_adapter
from lnbench.finetuning.projections import place
from lnbench.finetuning.trained_neurons import chosen_neurons
from lnbench.model.describe import describe_model
from lnbench.model.locate import locate
from lnbench.statistics.cached import collect_cached
from lnbench.statistics.corpus_statistics import Reading
from lnbench.tables.neurons import changed_neurons_table, selection_table, weights_table
from lnbench.tables.render import terminal
from lnbench.tables.table import Table
from tests.support.adapters import ALL, matrix, neurons_of, projections_of, quantised, rows_of, train
from tests.support.messages import lacks, refused
from tests.support.tiny import LAYERS, WIDTH, build, tokenizer

SELECTOR = "act_prob:fraction=0.15"


def attention_of(model: nn.Module) -> list[Tensor]:
    """Per layer, all of the attention's weights in one vector."""
    sites = locate(model)
    return [
        torch.cat([matrix(sites.model.get_submodule(name)).flatten() for name in names]) for names in sites.attention
    ]


def shown(table: Table) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(terminal(table))
    return capture.get()


@settings(max_examples=12, deadline=None)
@given(
    model_type=st.sampled_from(["llama", "phi3", "gpt2", "bloom", "gemma3"]),
    wanted=st.lists(st.sampled_from(ALL), min_size=1, max_size=3, unique=True),
    rank=st.integers(1, 5),
    attention=st.booleans(),
    seed=st.integers(0, 20),
)
def test_changes_are_those_between_the_merged_and_the_base_matrices(
    model_type: str, wanted: list[str], rank: int, attention: bool, seed: int
) -> None:
    wanted = projections_of(model_type, wanted) or ["gate"]
    model, base = build(model_type), build(model_type)
    neurons = neurons_of(model, seed=seed)
    adapted = build_adapter(model, neurons, rank=rank, alpha=7, attention=attention, projections=wanted)
    train(adapted)
    drift = weight_drift(adapted, neurons)
    merged = adapted.merge_and_unload()
    updates, own = torch.zeros(2, *drift.change.shape, dtype=torch.float64)
    for projection in wanted:
        for layer, (old, new) in enumerate(zip(rows_of(base, projection), rows_of(merged, projection), strict=True)):
            updates[layer] += (new - old).double().square().sum(1)
            own[layer] += old.double().square().sum(1)
    torch.testing.assert_close(drift.updates, updates, rtol=1e-3, atol=1e-10)
    torch.testing.assert_close(drift.change, (updates / own).sqrt(), rtol=1e-3, atol=1e-6)
    relative = [
        float((new - old).norm() / old.norm())
        for old, new in zip(attention_of(base), attention_of(merged), strict=True)
    ]
    torch.testing.assert_close(drift.attention.tolist(), relative, rtol=1e-3, atol=1e-6)
    assert drift.projections == tuple(one for one in ALL if one in wanted)
    assert torch.equal(drift.change > 0, neurons.mask("hi"))
    assert drift.share_on_chosen == 1


def test_changes_of_4_bit_weights_are_relative_to_their_values(tmp_path: Path) -> None:
    from bitsandbytes.functional import dequantize_4bit

    build("llama", hidden_size=64, intermediate_size=64, head_dim=16).save_pretrained(tmp_path)
    model = quantised(tmp_path)
    neurons = neurons_of(model)
    adapted = build_adapter(model, neurons, attention=False, projections=["down"])
    train(adapted)
    sites = locate(adapted)
    drift = weight_drift(adapted, neurons)
    for layer in neurons["hi"]:
        module = sites.model.get_submodule(place(sites.banks[layer], "down").path)
        values = dequantize_4bit(module.base_layer.weight.data, module.base_layer.weight.quant_state)
        relative = module.get_delta_weight("default").double().norm(dim=0) / values.double().norm(dim=0)
        torch.testing.assert_close(drift.change[layer], relative, rtol=1e-4, atol=1e-8)
    assert drift.projections == ("down",)
    module.base_layer.weight.quant_state.packing_format_for_cpu = True
    with refused("repacked"):
        weight_drift(adapted)


def test_an_adapter_of_anyones_falls_partly_on_neurons() -> None:
    model = build("llama")
    adapted = get_peft_model(model, LoraConfig(target_modules=["gate_proj"], r=2, init_lora_weights=False))
    neurons = neurons_of(model)
    drift = weight_drift(adapted, neurons)
    share = drift.share_on_chosen
    assert share is not None
    assert 0 < share < 1
    assert float(drift.updates[neurons.mask("hi")].sum() / drift.updates.sum()) == pytest.approx(share)
    assert weight_drift(adapted).share_on_chosen is None
    top = drift.top(5)
    assert [one.change for one in top] == sorted(drift.change.flatten().tolist(), reverse=True)[:5]
    for one in top:
        assert one.change == float(drift.change[one.layer, one.neuron])
        assert one.chosen == bool(neurons.mask("hi")[one.layer, one.neuron])


def test_an_untrained_adapter_changes_nothing() -> None:
    model = build("llama")
    drift = weight_drift(build_adapter(model, neurons_of(model)), neurons_of(model))
    assert float(drift.updates.sum()) == float(drift.change.sum()) == float(drift.attention.sum()) == 0
    assert drift.share_on_chosen is None
    assert drift.top() == []
    assert "–" in shown(weights_table(drift))


def test_tables_say_which_layers_and_neurons_changed() -> None:
    change = torch.zeros(2, 3, dtype=torch.float64)
    change[1, 2], change[1, 0] = 0.5, 0.25
    chosen = torch.tensor([[True, False, False], [False, False, True]])
    drift = WeightDrift(("gate",), change.square(), change, torch.tensor([0.0, 0.1]), chosen)
    layers, neurons = shown(weights_table(drift)), shown(changed_neurons_table(drift))
    assert not lacks(layers, "80.0%")
    rows = [line.split() for line in layers.splitlines()]
    assert ["0", "0.0000%", "1", "0", "–", "0.0000%", "0"] in rows
    assert ["1", "10.0000%", "1", "2", "37.5000%", "50.0000%", "1"] in rows
    rows = [line.split() for line in neurons.splitlines()]
    assert rows.index(["1", "2", "50.0000%", "yes"]) + 1 == rows.index(["1", "0", "25.0000%", "no"])
    assert "gate" in neurons


def test_refuses_what_it_cannot_measure() -> None:
    with refused("LoRA", "peft="):
        weight_drift(build("llama"))
    variant = get_peft_model(build("llama"), LoraConfig(target_modules=["gate_proj"], use_dora=True))
    with refused("LoRA", "plain"):
        weight_drift(variant)
    adapted = build_adapter(build("llama"))
    adapted.merge_adapter()
    with refused("merged"):
        weight_drift(adapted)
    with refused("other", WIDTH, WIDTH + 1):
        weight_drift(build_adapter(build("llama")), NeuronSet("other", LAYERS, WIDTH + 1, {}))


def drift_of(adapted: Any, corpus: str) -> Any:
    return selection_drift(adapted, tokenizer(), corpus, ["en", "hi"], selector=SELECTOR, tokens=400)


def test_an_untrained_adapter_leaves_the_selection(tiny_corpus: str) -> None:
    drift = drift_of(build_adapter(build("llama")), tiny_corpus)
    assert drift.before == drift_of(build_adapter(build("llama"), seed=4), tiny_corpus).before
    assert all(found.jaccard == 1 for found in drift.before.compare(drift.after).values())
    assert "–" in shown(selection_table(drift))


def test_training_neurons_moves_the_selection(tiny_corpus: str) -> None:
    found = drift_of(build_adapter(build("llama")), tiny_corpus).before
    trained = chosen_neurons(found, "hi")
    adapted = build_adapter(build("llama"), trained, attention=False)
    train(adapted, steps=10, rate=0.3)
    drift = drift_of(adapted, tiny_corpus)
    agreement = drift.before.compare(drift.after)["hi"]
    assert agreement.jaccard < 1
    assert drift.before == found
    lines = [line.split() for line in shown(selection_table(drift, trained)).splitlines()]
    assert next(line for line in lines if line[:1] == ["en"])[5:] == ["–"] * 3
    row = next(line for line in lines if line[:1] == ["hi"])
    assert row[1] == row[5] == row[6] == str(trained.count("hi"))
    assert row[3] == row[7] == str(agreement.intersection)


def test_statistics_come_from_the_cache_and_texts_are_read_once(
    tiny_corpus: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LNBENCH_CACHE", str(tmp_path))
    read: list[str] = []
    start = Corpus._read
    monkeypatch.setattr(Corpus, "_read", lambda corpus: (read.append(corpus.language), start(corpus))[1])
    adapted = build_adapter(build("llama"))
    train(adapted, steps=10, rate=0.3)
    base = build("llama")
    reading = Reading(corpus=tiny_corpus, tokens=400, length=128)
    for language in ("en", "hi"):
        collect_cached(base, tokenizer(), language, reading, describe_model(base, tokenizer()))
    read.clear()
    of_base = [folder.name for folder in (tmp_path / "statistics").iterdir()]
    drift = drift_of(adapted, tiny_corpus)
    assert sorted(read) == ["en", "hi"], "with the adapter alone: those of the base model are in the cache"
    assert len([*(tmp_path / "statistics").iterdir()]) == 2 * len(of_base)
    read.clear()
    assert drift_of(adapted, tiny_corpus) == drift
    assert read == []
    monkeypatch.setenv("LNBENCH_CACHE", str(tmp_path / "empty"))
    assert drift_of(adapted, tiny_corpus) == drift
    assert sorted(read) == ["en", "hi"], "once for both passes"
