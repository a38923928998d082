"""Every way in which a model arrives: image-text wrappers, split and offloaded, quantised, adapted, compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from lnbench import LayerOverride, Override, collect_statistics, override
from lnbench.lm import LNBenchLM
from lnbench.model.locate import locate
from lnbench.neurons import NeuronSet
from lnbench.testing import TINY_CONFIG, VOCABULARY
from tests.support.overrides import LEFT, REAL, generate, patched
from tests.support.tiny import HIDDEN, build, tokenizer

# Image-text models on text

_TEXT = TINY_CONFIG | {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_VISION = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
_VISION |= {"image_size": 4, "patch_size": 2}
_QWEN_VISION = {"hidden_size": 8, "intermediate_size": 8, "depth": 1, "num_heads": 1, "patch_size": 2}
_QWEN_VISION |= {"out_hidden_size": HIDDEN}
_IMAGE = VOCABULARY - 1
WRAPPERS: dict[str, dict[str, Any]] = {
    "gemma3": {"text_config": _TEXT, "vision_config": _VISION, "mm_tokens_per_image": 1, "image_token_index": _IMAGE},
    "gemma4": {
        "text_config": _TEXT
        | {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "global_head_dim": 4},
        "vision_config": _VISION | {"head_dim": 8},
        "image_token_id": _IMAGE,
    },
    "qwen3_5": {
        "text_config": _TEXT
        | {
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 4,
            "linear_value_head_dim": 4,
        },
        "vision_config": _QWEN_VISION,
        "image_token_id": _IMAGE,
    },
    "qwen2_5_vl": {
        "text_config": _TEXT
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0]}},
        "vision_config": _QWEN_VISION,
        "image_token_id": _IMAGE,
    },
    "llava": {
        "text_config": _TEXT | {"model_type": "llama"},
        "vision_config": _VISION | {"model_type": "clip_vision_model"},
        "image_token_index": _IMAGE,
    },
    "mistral3": {
        "text_config": _TEXT | {"model_type": "mistral"},
        "vision_config": _VISION | {"model_type": "pixtral", "head_dim": 8},
        "image_token_index": _IMAGE,
    },
    "llama4": {
        "text_config": _TEXT | {"intermediate_size_mlp": 24, "interleave_moe_layer_step": 5, "moe_layers": []},
        "vision_config": _VISION | {"vision_output_dim": 8, "projector_input_dim": 8, "projector_output_dim": 8},
    },
}
"""As lm-eval's ``hf-multimodal`` loads them."""


def wrapper(model_type: str) -> PreTrainedModel:
    config = AutoConfig.for_model(model_type, **WRAPPERS[model_type])
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape) * 0.3)
    return model


CHANGE = Override({0: LayerOverride(torch.tensor([3, 11]), torch.tensor([4.0, -3.0]))})


def assert_overridden(model: Any, tolerance: float = 1e-5) -> None:
    """An override equals the model changed by hand, statistics run, and generation with a cache counts each token."""
    ids, mask = LEFT
    sites = locate(model)
    real = mask.bool()
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=mask).logits
        with patched(sites.model, CHANGE, "post", real):
            expected = model(input_ids=ids, attention_mask=mask).logits
        with override(model, CHANGE) as applied:
            found = model(input_ids=ids, attention_mask=mask).logits
        assert applied.tokens == REAL
        torch.testing.assert_close(found[real], expected[real], rtol=tolerance, atol=tolerance)
        assert not torch.allclose(found[real], before[real], rtol=tolerance, atol=tolerance)
        with override(model, CHANGE) as applied:
            generate(sites.model, ids, mask, 3)
        assert applied.tokens == REAL + 2 * len(ids)
    statistics = collect_statistics(model, [LEFT], language="xx")
    assert statistics.tokens == REAL - len(ids)


@pytest.mark.parametrize("model_type", WRAPPERS)
def test_image_text_models_on_text(model_type: str) -> None:
    assert_overridden(wrapper(model_type))


@pytest.mark.parametrize("model_type", WRAPPERS)
def test_image_text_models_through_lm_eval(model_type: str, tmp_path: Path) -> None:
    model = wrapper(model_type)
    model.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    neurons = str(tmp_path / "neurons.json")
    NeuronSet("tiny", 3, 24, {"hi": {0: [3, 11], 2: [5]}}).save(neurons)
    asked = [Instance("loglikelihood", {}, pair, 0, ("t_hi", 0, 1)) for pair in [("नदी", " चौड़ी"), ("a", " b")]]
    answers = {}
    for intervention in ("none", "zero"):
        options = {} if intervention == "none" else {"intervention": intervention, "neurons": neurons}
        named = LNBenchLM(str(tmp_path / "model"), batch_size=2, **options)
        answers[intervention] = [likelihood for likelihood, _ in named.loglikelihood(asked)]
        handed = LNBenchLM(model, tokenizer=tokenizer(), batch_size=2, **options)
        alike = [likelihood for likelihood, _ in handed.loglikelihood(asked)]
        assert answers[intervention] == pytest.approx(alike, abs=1e-4)
    assert answers["none"] != pytest.approx(answers["zero"], abs=1e-4)
    named.generate_until(
        [Instance("generate_until", {}, ("नदी", {"until": ["\n"], "max_gen_toks": 3}), 0, ("t_hi", 0, 1))]
    )
    assert named.accounts["hi"].tokens > sum(len(named.tok_encode("".join(one.args))) - 1 for one in asked)


# Split, offloaded, quantised, adapted, compiled


def offloaded(folder: Path, places: dict[str, str]) -> Any:
    build("llama").save_pretrained(folder / "model")
    rest = dict.fromkeys(["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"], "cpu")
    layers = {f"model.layers.{number}": places.get(str(number), "cpu") for number in range(3)}
    return AutoModelForCausalLM.from_pretrained(
        folder / "model", device_map=rest | layers, offload_folder=str(folder / "offload")
    ).eval()


def four_bit(folder: Path) -> Any:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "num_key_value_heads": 4}
    build("llama", **sizes).save_pretrained(folder / "model")
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(
        folder / "model", quantization_config=quantization, dtype=torch.float32, device_map={"": "cpu"}
    ).eval()


DOORS: dict[str, Callable[[Path], Any]] = {
    "everything on the processor by a map": lambda folder: offloaded(folder, {}),
    "the first layer on disk": lambda folder: offloaded(folder, {"0": "disk"}),
    "two layers on disk": lambda folder: offloaded(folder, {"0": "disk", "2": "disk"}),
    "four bits": four_bit,
    "an adapter": lambda _: get_peft_model(
        build("llama"), LoraConfig(target_modules=["gate_proj", "down_proj"], init_lora_weights=False)
    ).eval(),
}


@pytest.mark.parametrize("door", DOORS)
def test_models_in_every_form(door: str, tmp_path: Path) -> None:
    model = DOORS[door](tmp_path)
    assert_overridden(model)


@pytest.mark.parametrize("door", ["two layers on disk", "an adapter", pytest.param("compiled", marks=pytest.mark.slow)])
def test_a_model_in_any_form_as_an_object(door: str, tmp_path: Path) -> None:
    model = torch.compile(build("llama"), backend="eager") if door == "compiled" else DOORS[door](tmp_path)
    neurons = str(tmp_path / "neurons.json")
    NeuronSet("tiny", 3, 24, {"hi": {0: [3, 11], 2: [5]}}).save(neurons)
    asked = [Instance("loglikelihood", {}, pair, 0, ("t_hi", 0, 1)) for pair in [("नदी", " चौड़ी"), ("a", " b")]]
    answers = []
    for options in ({}, {"intervention": "zero", "neurons": neurons}):
        lm = LNBenchLM(model, tokenizer=tokenizer(), batch_size=2, **options)
        answers.append([likelihood for likelihood, _ in lm.loglikelihood(asked)])
    assert answers[0] != pytest.approx(answers[1], abs=1e-4)
    torch._dynamo.reset()


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt"])
def test_bfloat16(model_type: str) -> None:
    assert_overridden(build(model_type).to(torch.bfloat16), tolerance=2e-2)
