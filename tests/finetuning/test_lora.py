"""The adapter trains the chosen neurons and nothing else of the feed-forward, and is an ordinary PEFT adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.tasks import TaskManager
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from lnbench import NeuronSet
from lnbench.finetuning.lora import build_adapter, count_parameters, save_adapter
from lnbench.finetuning.masked_linear import RestrictedFactor
from lnbench.finetuning.projections import place
from lnbench.finetuning.trained_neurons import chosen_neurons
from lnbench.model.describe import model_name
from lnbench.model.locate import locate
from tests.support.adapters import ALL, logits, neurons_of, projections_of, quantised, rows_of, train
from tests.support.known_rows import ARCHITECTURES
from tests.support.messages import refused
from tests.support.tiny import CONFIGS, LAYERS, WIDTH, build, save_tiny, tokenizer

pytestmark = pytest.mark.slow

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
    ),
]
_BITS = {4: torch.int32, 2: torch.int16}


def same_bits(one: Tensor, other: Tensor) -> bool:
    kind = _BITS[one.element_size()]
    return torch.equal(one.contiguous().view(kind), other.contiguous().view(kind))


@pytest.mark.parametrize("model_type", CONFIGS)
def test_the_rows_attention_projections_are_all_other_linear_maps_of_a_block(model_type: str) -> None:
    sites = locate(build(model_type))
    row, block = sites.architecture, sites.blocks[0]
    linear = {name for name, module in block.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    assert linear - set(row.attention) == {name for name in (row.before, row.up, row.after) if name}


@settings(max_examples=30, deadline=None)
@given(
    model_type=st.sampled_from(sorted(CONFIGS)),
    share=st.sampled_from([0.02, 0.2, 0.6, 1.0]),
    seed=st.integers(0, 99),
    rank=st.integers(1, 6),
    wanted=st.lists(st.sampled_from(ALL), min_size=1, max_size=3, unique=True),
    attention=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_rows_of_other_neurons_never_change(
    model_type: str, share: float, seed: int, rank: int, wanted: list[str], attention: bool, dtype: torch.dtype
) -> None:
    wanted = projections_of(model_type, wanted) or ["gate"]
    model = build(model_type).to(dtype)
    neurons = neurons_of(model, share, seed)
    if not attention and neurons.count("hi") == 0:
        return
    before = {projection: rows_of(model, projection) for projection in projections_of(model_type)}
    adapted = build_adapter(
        model, neurons, rank=rank, alpha=2 * rank, attention=attention, projections=wanted, seed=seed
    )
    train(adapted)
    merged = adapted.merge_and_unload()
    assert not [name for name, _ in merged.named_modules() if "lora" in name]
    for projection, rows in before.items():
        mask = neurons.mask("hi") if projection in wanted else torch.zeros(locate(model).layers, rows[0].shape[0]) > 0
        for layer, (old, new) in enumerate(zip(rows, rows_of(merged, projection), strict=True)):
            assert same_bits(old[~mask[layer]], new[~mask[layer]])
            if mask[layer].any():
                assert not torch.equal(old[mask[layer]], new[mask[layer]])


@pytest.mark.parametrize("model_type", CONFIGS)
def test_only_selected_rows_have_parameters_gradients_and_optimiser_state(model_type: str) -> None:
    model = build(model_type)
    neurons = neurons_of(model)
    rank, projections = 5, projections_of(model_type)
    adapted = build_adapter(model, neurons, rank=rank, attention=False, projections=projections)
    optimizer = train(adapted, steps=1)
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in trained.values()}
    per_layer = [count for count in neurons.per_layer("hi").tolist() if count]
    sizes = sorted(p.numel() for p in trained.values() if p.shape[0] != rank or p.shape[1] != rank)
    restricted = [module for module in adapted.modules() if isinstance(module, RestrictedFactor)]
    assert sum(module.entries.numel() for module in restricted) == rank * sum(per_layer) * len(projections)
    assert sum(sizes) == sum(p.numel() for p in trained.values())
    for module in restricted:
        assert module.weight.numel() > module.entries.numel()
        for state in (module.entries, *(v for v in optimizer.state[module.entries].values() if v.ndim)):
            assert state.shape == module.entries.shape
            assert len(module.kept) in state.shape


def test_layers_without_neurons_are_not_adapted() -> None:
    model = build("llama")
    neurons = NeuronSet("tiny", LAYERS, WIDTH, {"hi": {1: [3, 5]}})
    with pytest.warns(UserWarning, match="tiny"):
        adapted = build_adapter(model, neurons, attention=False)
    assert adapted.peft_config["default"].target_modules == {"model.layers.1.mlp.gate_proj"}


def test_all_neurons_are_plain_lora() -> None:
    model = build("llama")
    neurons = chosen_neurons(neurons_of(model), "all")
    ours = build_adapter(model, neurons, attention=False, projections=ALL, rank=4, alpha=8)
    config = LoraConfig(target_modules=["gate_proj", "up_proj", "down_proj"], r=4, lora_alpha=8, task_type="CAUSAL_LM")
    plain = get_peft_model(build("llama"), config)
    assert not [module for module in ours.modules() if isinstance(module, RestrictedFactor)]
    plain.load_state_dict(ours.state_dict())
    train(ours)
    train(plain)
    assert torch.equal(logits(ours), logits(plain))


def test_an_empty_set_trains_the_attention_alone() -> None:
    model = build("llama")
    empty = chosen_neurons(neurons_of(model), "none")
    with_none, without = build_adapter(build("llama"), empty), build_adapter(build("llama"))
    names = [name for name, p in with_none.named_parameters() if p.requires_grad]
    assert names == [name for name, p in without.named_parameters() if p.requires_grad]
    assert len(names) == LAYERS * 4 * 2
    assert count_parameters(with_none) == (sum(p.numel() for p in without.parameters() if p.requires_grad), 0)
    with refused("attention=False"):
        build_adapter(model, empty, attention=False)


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt2"])
def test_counts_parameters(model_type: str) -> None:
    model = build(model_type)
    neurons = neurons_of(model)
    adapted = build_adapter(model, neurons, rank=3, projections=projections_of(model_type))
    trainable, of_neurons = count_parameters(adapted)
    assert trainable == adapted.get_nb_trainable_parameters()[0]
    assert of_neurons == 3 * neurons.count("hi") * len(projections_of(model_type))
    whole = build_adapter(build(model_type), chosen_neurons(neurons, "all"), rank=3)
    row = ARCHITECTURES[model_type]
    assert count_parameters(whole).of_neurons == 3 * LAYERS * WIDTH, row


def test_the_first_weights_depend_on_the_seed_alone() -> None:
    def first(seed: int, noise: int) -> dict[str, Tensor]:
        torch.manual_seed(noise)
        model = build("llama")
        state = torch.get_rng_state()
        adapted = build_adapter(model, neurons_of(model), projections=ALL, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return {name: p.detach() for name, p in adapted.named_parameters() if p.requires_grad}

    one, same, other = first(1, 5), first(1, 6), first(2, 5)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(logits(build("llama")), logits(build_adapter(build("llama"))))


@pytest.mark.parametrize("model_type", ["llama", "gemma3", "phi3", "gpt2", "bloom", "gpt_neox", "falcon", "opt"])
def test_saved_it_is_an_ordinary_adapter(model_type: str, tmp_path: Path) -> None:
    model = build(model_type)
    neurons = neurons_of(model)
    adapted = build_adapter(model, neurons, rank=4, projections=projections_of(model_type))
    train(adapted)
    assert save_adapter(adapted, tmp_path / "adapter", neurons) == tmp_path / "adapter"
    assert sorted(file.name for file in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "neurons.json",
    ]
    assert NeuronSet.load(tmp_path / "adapter" / "neurons.json") == neurons
    plain = PeftModel.from_pretrained(build(model_type), tmp_path / "adapter")
    assert not [module for module in plain.modules() if isinstance(module, RestrictedFactor)]
    assert torch.equal(logits(plain), logits(adapted))
    merged = adapted.merge_and_unload()
    assert torch.equal(logits(plain.merge_and_unload()), logits(merged))
    assert not torch.equal(logits(merged), logits(build(model_type)))


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt2"])
def test_loaded_again_it_trains_on_as_if_never_saved(model_type: str, tmp_path: Path) -> None:
    model = build(model_type)
    neurons, projections = neurons_of(model), projections_of(model_type)
    adapted = build_adapter(model, neurons, rank=4, alpha=12, projections=projections)
    train(adapted)
    save_adapter(adapted, tmp_path, neurons)
    again = build_adapter(build(model_type), neurons, rank=4, alpha=12, projections=projections, seed=7)
    again.load_adapter(tmp_path, "default", is_trainable=True)
    assert count_parameters(again) == count_parameters(adapted)
    for one in (adapted, again):
        train(one)
    assert torch.equal(logits(adapted), logits(again))
    save_adapter(again, tmp_path / "again", neurons)
    save_adapter(adapted, tmp_path / "adapted", neurons)
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("again", "adapted"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("model_type", "projections"), [("llama", ["gate", "up"]), ("phi3", ["gate"])])
def test_an_adapter_is_loaded_with_the_neurons_and_projections_it_was_trained_with(
    model_type: str, projections: list[str], tmp_path: Path
) -> None:
    model = build(model_type)
    neurons = neurons_of(model)
    adapted = build_adapter(model, neurons, projections=["gate", "up"])
    train(adapted)
    save_adapter(adapted, tmp_path, neurons)
    fewer = {"hi": {layer: rows[1:] if model_type == "llama" else rows for layer, rows in neurons["hi"].items()}}
    other = NeuronSet(model_name(model), LAYERS, WIDTH, fewer)
    again = build_adapter(build(model_type), other, projections=projections)
    with refused("lora_B.default.weight"):
        again.load_adapter(tmp_path, "default", is_trainable=True)


def test_refuses_neurons_of_another_model() -> None:
    with refused("other", WIDTH, WIDTH + 1):
        build_adapter(build("llama"), NeuronSet("other", LAYERS, WIDTH + 1, {"hi": {0: [0]}}))


def test_refuses_what_cannot_be_trained() -> None:
    model = build("opt")
    neurons = neurons_of(model)
    with refused("gated", "up projection"):
        build_adapter(model, neurons, projections=["up"])
    with refused("side", "gate, up, down"):
        build_adapter(model, neurons, projections=["side"])  # type: ignore[list-item]
    with refused("adapter", "merge_and_unload()"):
        build_adapter(build_adapter(build("llama")))


def test_a_full_disk_leaves_the_files_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    adapted = build_adapter(model)
    folder = save_adapter(adapted, tmp_path / "adapter")
    whole = (folder / "adapter_model.safetensors").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapted, "save_pretrained", full)
    with refused(folder, "No space left on device"):
        save_adapter(adapted, folder)
    assert (folder / "adapter_model.safetensors").read_bytes() == whole
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_peft_checkpoint_restores_the_restricted_factors(tmp_path: Path) -> None:
    """What transformers' Trainer does: ``save_pretrained``, and ``load_adapter`` into the model built anew."""
    model = build("llama")
    neurons = neurons_of(model)
    adapted = build_adapter(model, neurons, projections=ALL)
    train(adapted)
    adapted.save_pretrained(tmp_path)
    again = build_adapter(build("llama"), neurons, projections=ALL, seed=7)
    again.load_adapter(tmp_path, "default", is_trainable=True)
    assert torch.equal(logits(adapted), logits(again))
    assert count_parameters(again) == count_parameters(adapted)
    one, other = adapted.state_dict(), again.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_dropout_and_scale_are_those_asked_for() -> None:
    model = build("llama")
    adapted = build_adapter(model, neurons_of(model), rank=4, alpha=6, dropout=0.25)
    module = next(one for one in adapted.modules() if isinstance(one, RestrictedFactor))
    config = adapted.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 6, 0.25)
    assert 4 in module.entries.shape
    assert "rows=" in repr(module)


# 4-bit weights


@pytest.mark.parametrize("device", DEVICES)
def test_nf4_trains_and_other_rows_keep_their_values(device: str, tmp_path: Path) -> None:
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    folder = tmp_path / "model"
    build("llama", hidden_size=64, intermediate_size=64, head_dim=16).save_pretrained(folder)
    model = quantised(folder, device)
    neurons = neurons_of(model)
    adapted = build_adapter(model, neurons, rank=4, projections=ALL)
    frozen = {name: p.detach().clone() for name, p in adapted.named_parameters() if not p.requires_grad}
    optimizer = train(adapted, steps=3, rate=0.05)
    assert all(p.dtype == torch.float32 for p in adapted.parameters() if p.requires_grad)
    assert len(optimizer.state) == sum(p.requires_grad for p in adapted.parameters())
    assert all(torch.equal(p, frozen[name]) for name, p in adapted.named_parameters() if not p.requires_grad)
    for bank in locate(adapted).banks:
        mask = neurons.mask("hi")[bank.layer]
        if not mask.any():
            continue
        for projection in ALL:
            one = place(bank, projection)
            module = locate(adapted).model.get_submodule(one.path)
            base = module.base_layer
            assert isinstance(base, Linear4bit)
            assert base.weight.quant_state.nested
            values = dequantize_4bit(base.weight.data, base.weight.quant_state)
            merged = values + module.get_delta_weight("default").detach().to(values.dtype)
            old, new = (values.T, merged.T) if one.dim else (values, merged)
            assert same_bits(old[~mask], new[~mask])
            assert not torch.equal(old[mask], new[mask])
    save_adapter(adapted, tmp_path / "adapter", neurons)
    plain = PeftModel.from_pretrained(quantised(folder, device), tmp_path / "adapter")
    assert torch.equal(logits(plain), logits(adapted))


# lm-eval


def test_lm_eval_reads_it_with_its_own_model(tmp_path: Path) -> None:
    from lnbench.files import tasks_dir

    # Where a prompt is cut, hf loses its BOS; and it cuts embeddings that have more rows than the tokenizer has tokens.
    tiny_model = save_tiny(tmp_path / "model", max_position_embeddings=2048)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.resize_token_embeddings(len(tokenizer()))
    model.save_pretrained(tiny_model)
    neurons = neurons_of(model)
    adapted = build_adapter(model, neurons)
    train(adapted)
    save_adapter(adapted, tmp_path, neurons)
    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False)

    def evaluate(kind: str, **more: Any) -> dict[str, Any]:
        results = lm_eval.simple_evaluate(
            kind,
            model_args={"pretrained": tiny_model, "device": "cpu", **more},
            tasks=["lnbench_demo"],
            task_manager=manager,
            limit=4,
            batch_size=4,
        )
        return json.loads(json.dumps(results["results"]))

    ours, theirs, base = evaluate("lnbench", peft=str(tmp_path)), evaluate("hf", peft=str(tmp_path)), evaluate("hf")
    assert ours == theirs
    assert theirs != base
