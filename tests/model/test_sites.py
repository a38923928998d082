"""Where neurons sit: every architecture is located, bare or wrapped, and what cannot be overridden is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from lnbench.hookspecs import hookimpl
from lnbench.host import get_host
from lnbench.model.architectures import Architecture
from lnbench.model.locate import locate
from lnbench.model.sites import unwrap
from tests.support.known_rows import ARCHITECTURES
from tests.support.messages import refused
from tests.support.tiny import CONFIGS, HEADS, HIDDEN, LAYERS, VOCABULARY, WIDTH, build

SUPPORTED = {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text", "phi3", "cohere"} | {
    *("gpt2", "opt", "bloom", "gpt_neox", "falcon")
}
_SMALL = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": HEADS, "vocab_size": VOCABULARY}
_MIXTURE = _SMALL | {"num_key_value_heads": 2, "intermediate_size": WIDTH, "moe_intermediate_size": 8}
MIXTURES = {
    "mixtral": _MIXTURE | {"num_local_experts": 4},
    "qwen2_moe": _MIXTURE | {"num_experts": 4, "shared_expert_intermediate_size": 8},
    "qwen3_moe": _MIXTURE | {"num_experts": 4, "num_experts_per_tok": 2, "head_dim": 4},
}


@pytest.mark.parametrize("model_type", CONFIGS)
def test_structure_finds_what_a_person_reads_off_the_code(model_type: str) -> None:
    found, row = locate(build(model_type)).architecture, ARCHITECTURES[model_type]
    assert set(found.attention) == set(row.attention)
    assert replace(found, attention=()) == replace(row, attention=())


def test_every_known_row_is_tested() -> None:
    assert set(ARCHITECTURES) == set(CONFIGS) >= SUPPORTED


@pytest.mark.parametrize("model_type", CONFIGS)
def test_locates_every_layer(model_type: str) -> None:
    model = build(model_type)
    sites = locate(model)
    assert sites.model is model
    assert (sites.layers, sites.width) == (LAYERS, 4 * HIDDEN if model_type == "bloom" else WIDTH)
    assert len(set(map(id, sites.activations))) == LAYERS
    seen: list[int] = []
    for module in sites.activations:
        module.register_forward_hook(lambda _module, _args, output: seen.append(output.shape[-1]))
    with torch.no_grad():
        model(torch.tensor([[1, 5, 9]]))
    assert seen == [sites.width] * LAYERS


@pytest.mark.parametrize("model_type", CONFIGS)
def test_the_rows_projections_surround_the_activation(model_type: str) -> None:
    model, row = build(model_type), ARCHITECTURES[model_type]
    order: list[str] = []
    block: Any = locate(model).blocks[1]
    for name in filter(None, (row.before, row.activation, row.up, row.after)):
        block.get_submodule(name).register_forward_hook(lambda *_, name=name: order.append(name))
    with torch.no_grad():
        model(torch.tensor([[1, 5, 9]]))
    assert order[:2] == [row.before, row.activation]
    assert order[-1] == row.after
    assert (row.up in order) == (row.up is not None)


def test_parents_lead_from_the_causal_lm_to_the_blocks() -> None:
    model = build("opt")
    assert locate(model).parents == (model, model.model, model.model.decoder)


class Wrapped(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


WRAPPERS: dict[str, Any] = {
    "lora": lambda model: get_peft_model(model, LoraConfig(target_modules=["q_proj", "gate_proj", "down_proj"])),
    "prompt tuning": lambda model: get_peft_model(
        model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    ),
    "parallel": Wrapped,
    "data parallel": nn.DataParallel,
    "compiled": torch.compile,
    "parallel lora": lambda model: Wrapped(WRAPPERS["lora"](model)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_unwraps(wrapper: str) -> None:
    model = build("llama")
    sites = locate(WRAPPERS[wrapper](model))
    assert sites.model is model
    assert unwrap(model) is model
    assert (sites.layers, sites.width) == (LAYERS, WIDTH)


def test_width_of_an_adapted_conv1d() -> None:
    config = LoraConfig(target_modules=["c_attn", "c_fc", "c_proj"], fan_in_fan_out=True)
    assert locate(get_peft_model(build("gpt2"), config)).width == WIDTH


@pytest.mark.parametrize("model_type", MIXTURES)
def test_locates_mixtures_of_experts(model_type: str) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **MIXTURES[model_type]))
    assert locate(model).experts


def unknown_models() -> dict[str, Any]:
    t5 = {"d_model": HIDDEN, "d_kv": 4, "d_ff": WIDTH, "num_layers": 1, "num_heads": 2, "vocab_size": VOCABULARY}
    return {
        "mamba": lambda: AutoModelForCausalLM.from_config(
            AutoConfig.for_model("mamba", **_SMALL, state_size=4, time_step_rank=2)
        ),
        "t5": lambda: AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", **t5)),
    }


@pytest.mark.parametrize(
    ("model_type", "named"), [("mamba", ["no feed-forward", "mamba"]), ("t5", ["encoder-decoder"])]
)
def test_refuses_models_without_neurons(model_type: str, named: list[str]) -> None:
    with refused(*named):
        locate(unknown_models()[model_type]())


def test_a_model_without_neurons_says_how_a_plugin_can_name_them() -> None:
    with refused("lnbench_register_architectures", "Architecture(blocks=", "docs/howto/plugins.md"):
        locate(unknown_models()["mamba"]())


def test_refuses_what_is_no_hugging_face_model() -> None:
    with refused("Linear", "causal language model"):
        locate(nn.Linear(2, 2))


def test_refuses_a_body_without_its_causal_lm() -> None:
    with refused("LlamaModel", "causal language model"):
        locate(build("llama").model)


def test_refuses_a_shard_of_tensor_parallelism() -> None:
    model = build("llama")
    model._tp_size = 2
    with refused("tensor parallelism", "parallelize=True"):
        locate(model)
    model._tp_size = 1
    locate(model)
    model.model.layers[1].mlp.gate_proj.weight.placements = ("Shard(0)",)
    with refused("tensor parallelism"):
        locate(model)


def share_activation(model: Any) -> None:
    for layer in model.model.layers:
        layer.mlp.act_fn = model.model.layers[0].mlp.act_fn


def widen_layer(model: Any) -> None:
    mlp = model.model.layers[1].mlp
    mlp.gate_proj, mlp.up_proj = nn.Linear(HIDDEN, WIDTH + 1), nn.Linear(HIDDEN, WIDTH + 1)
    mlp.down_proj = nn.Linear(WIDTH + 1, HIDDEN)


def replace_activation(model: Any) -> None:
    for layer in model.model.layers:
        del layer.mlp.act_fn
        layer.mlp.act_fn = torch.nn.functional.relu


@pytest.mark.parametrize("break_it", [share_activation, widen_layer, replace_activation])
def test_finds_neurons_where_layers_share_or_lack_modules_or_differ(break_it: Any) -> None:
    model = build("llama")
    break_it(model)
    sites = locate(model)
    assert sites.widths == tuple(layer.mlp.down_proj.in_features for layer in model.model.layers)


def test_refuses_a_model_without_layers() -> None:
    model = build("llama")
    model.model.layers = nn.ModuleList()
    with refused("no feed-forward"):
        locate(model)


def test_a_changed_model_is_located_again() -> None:
    model = build("llama")
    first = locate(model)
    assert locate(model) is first
    widen_layer(model)
    assert locate(model).widths == (WIDTH, WIDTH + 1, WIDTH)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (Architecture("model.layers", "mlp.act_fn", "mlp.gate_proj", "mlp.down_proj", up="mlp.up_proj"), None),
        (Architecture("model.layers"), None),
        (Architecture("model.layers", after="mlp.down_proj"), None),
        (Architecture("model.blocks"), ["'model.blocks'"]),
        (Architecture("model.layers", "mlp.act_fn", "mlp.gate_proj", "mlp.down_proj"), ["effect", "neuron"]),
        (Architecture("model.layers", activation="mlp"), ["width", WIDTH, HIDDEN]),
        (Architecture("model.h", "mlp.act_fn", "mlp.gate_proj", "mlp.down_proj"), ["'novel'", "'h'"]),
        (Architecture("model.layers", "mlp.act_fn", "mlp.gate_proj", "mlp.c_proj"), ["'novel'", "'c_proj'"]),
        ("model.layers", ["Architecture"]),
    ],
)
def test_a_plugin_adds_an_architecture(row: Any, named: list[str] | None) -> None:
    model = build("llama")
    model.config.model_type = "novel"

    class Plugin:
        @hookimpl
        def lnbench_register_architectures(self, register: Any) -> None:
            register("novel", row)

    plugin = Plugin()
    try:
        if named is None:
            get_host().register(plugin)
            assert (locate(model).layers, locate(model).width) == (LAYERS, WIDTH)
        else:
            with refused(*named):
                get_host().register(plugin)
                locate(model)
    finally:
        if "novel" in get_host().names("architecture"):
            get_host().unregister(plugin)


def test_a_model_split_over_cpu_and_disk(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path / "model")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=str(tmp_path / "offload")
    )
    assert model.model.layers[1].mlp.down_proj.weight.is_meta
    assert (locate(model).layers, locate(model).width) == (LAYERS, WIDTH)
