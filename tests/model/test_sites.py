"""Where neurons sit: every architecture is located, bare or wrapped, and what cannot be overridden is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from lnbench.hookspecs import hookimpl
from lnbench.host import get_host
from lnbench.model.architectures import ARCHITECTURES, Architecture
from lnbench.model.sites import architecture_of, locate, unwrap
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
    "qwen3_moe": _MIXTURE | {"num_experts": 4, "head_dim": 4},
}


def test_the_table_holds_the_supported_architectures_and_all_are_tested() -> None:
    assert set(ARCHITECTURES) >= SUPPORTED
    assert set(CONFIGS) == set(ARCHITECTURES)


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
    block = locate(model).blocks[1]
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
def test_refuses_mixtures_of_experts(model_type: str) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **MIXTURES[model_type]))
    with refused(model_type, "mixture of experts", "lnbench_register_architectures"):
        locate(model)


@pytest.mark.parametrize("experts", [{"num_local_experts": 8}, {"n_routed_experts": 64}, {"num_experts_per_tok": 2}])
def test_refuses_an_unknown_mixture_inside_a_multimodal_model(experts: dict[str, int]) -> None:
    with refused("novel", "mixture of experts"):
        architecture_of(SimpleNamespace(model_type="novel", text_config=SimpleNamespace(**experts)))


def unknown_models() -> dict[str, Any]:
    t5 = {"d_model": HIDDEN, "d_kv": 4, "d_ff": WIDTH, "num_layers": 1, "num_heads": 2, "vocab_size": VOCABULARY}
    return {
        "mamba": lambda: AutoModelForCausalLM.from_config(
            AutoConfig.for_model("mamba", **_SMALL, state_size=4, time_step_rank=2)
        ),
        "t5": lambda: AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", **t5)),
    }


@pytest.mark.parametrize("model_type", unknown_models())
def test_refuses_unknown_architectures_and_says_how_to_add_one(model_type: str) -> None:
    with refused(
        model_type, "llama", "lnbench_register_architectures", "Architecture(blocks=", "docs/howto/plugins.md"
    ) as error:
        locate(unknown_models()[model_type]())
    for part in ("lnbench_register_architectures", "Architecture(blocks=", "docs/howto/plugins.md"):
        assert part in str(error.value)


def test_refuses_what_is_no_hugging_face_model() -> None:
    with refused("'None'", "llama"):
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
    model.model.layers[1].mlp.act_fn = model.model.layers[0].mlp.act_fn


def widen_layer(model: Any) -> None:
    model.model.layers[1].mlp.down_proj = nn.Linear(WIDTH + 1, HIDDEN)


def drop_layers(model: Any) -> None:
    model.model.layers = nn.ModuleList()


def replace_activation(model: Any) -> None:
    del model.model.layers[0].mlp.act_fn
    model.model.layers[0].mlp.act_fn = torch.relu


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (share_activation, ["non-linearity", "layers"]),
        (widen_layer, ["widths", WIDTH, WIDTH + 1]),
        (drop_layers, ["layers"]),
        (replace_activation, ["module"]),
    ],
)
def test_refuses_a_structure_that_does_not_fit(break_it: Any, named: list[Any]) -> None:
    model = build("llama")
    break_it(model)
    with refused(*named):
        locate(model)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (Architecture("model.layers", "mlp.act_fn", "mlp.gate_proj", "mlp.down_proj", up="mlp.up_proj"), None),
        (Architecture("model.h", "mlp.act_fn", "mlp.gate_proj", "mlp.down_proj"), ["'novel'", "'h'"]),
        (Architecture("model.layers", "mlp.act_fn", "mlp.gate_proj", "mlp.c_proj"), ["'novel'", "'c_proj'"]),
        ("model.layers", ["Architecture"]),
    ],
)
def test_a_plugin_adds_an_architecture(row: Any, named: list[str] | None) -> None:
    model = build("llama")
    model.config.model_type = "novel"
    with refused("novel", "llama"):
        locate(model)

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
