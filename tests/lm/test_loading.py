"""Ways of loading a model, and what an answer or an artifact is kept under."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from peft import LoraConfig, PromptTuningConfig, get_peft_model

import lnbench
from lnbench.lm import LNBenchLM
from lnbench.neurons import NeuronSet
from lnbench.statistics import describe_model
from tests.support.messages import refused
from tests.support.tiny import save_tiny

PAIRS = [("The river", " is wide"), ("नदी चौड़ी", " है")]


def requests(task: str = "task_hi") -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, 0, (task, 0, 1)) for pair in PAIRS]


def ask(lm: Any) -> list[tuple[float, bool]]:
    return list(lm.loglikelihood(requests()))


def test_4_bit(given: dict[str, Any], tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    wide = save_tiny(tmp_path / "wide", **sizes)
    options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    lm = LNBenchLM(**(given | {"pretrained": wide}), **options, bnb_4bit_compute_dtype="float32", intervention="mean")
    assert type(lm.sites.blocks[0].mlp.gate_proj).__name__ == "Linear4bit"
    assert lm.described["quantization"] == "bitsandbytes"
    assert ask(lm) != ask(LNBenchLM(**(given | {"pretrained": wide}), intervention="mean"))
    assert lm.accounts["hi"].tokens > 0
    lm.generate_until(
        [Instance("generate_until", {}, ("नदी", {"until": ["\n"], "max_gen_toks": 3}), 0, ("t_hi", 0, 1))]
    )


@pytest.mark.parametrize("options", [{"parallelize": True}, {"device_map": "auto"}, {"dtype": "bfloat16"}])
def test_split_and_bfloat16_models(given: dict[str, Any], options: dict[str, Any], tmp_path: Path) -> None:
    if "parallelize" in options:
        options = options | {"offload_folder": str(tmp_path)}
    lm = LNBenchLM(**given, **options, intervention="p10")
    answers = ask(lm)
    assert lm.accounts["hi"].tokens > 0
    plain = ask(LNBenchLM(**given, intervention="p10"))
    tolerance = 0.3 if options.get("dtype") else 1e-4
    assert [one[0] for one in answers] == pytest.approx([one[0] for one in plain], abs=tolerance)


def test_prompt_tuning_is_refused_before_anything_is_overridden(given: dict[str, Any], tmp_path: Path) -> None:
    base = LNBenchLM(**given).model
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(base, config).save_pretrained(tmp_path / "prompt")
    ask(LNBenchLM(**given, peft=str(tmp_path / "prompt")))
    with refused("virtual tokens"):
        LNBenchLM(**given, peft=str(tmp_path / "prompt"), intervention="mean")


def test_a_continuation_longer_than_the_model(given: dict[str, Any]) -> None:
    lm = LNBenchLM(**given, max_length=4)
    with refused("max_length=4"):
        ask(lm)


def test_scheduled_batch_sizes_with_few_requests(given: dict[str, Any]) -> None:
    lm = LNBenchLM(**(given | {"batch_size": "auto:4"}), intervention="zero")
    fixed = ask(LNBenchLM(**given, intervention="zero"))
    assert [one[0] for one in ask(lm)] == pytest.approx([one[0] for one in fixed], abs=1e-4)


def test_neurons_of_a_language_without_text(given: dict[str, Any], tmp_path: Path) -> None:
    path = str(tmp_path / "neurons.json")
    NeuronSet("tiny-llama", 3, 24, {"ja": {0: [1, 2]}, "hi": {1: [3]}}).save(path)
    zeroed = LNBenchLM(**given, neurons=path, intervention="zero", language="ja")
    ask(zeroed)
    info = zeroed.get_model_info()["lnbench"]
    assert info["applied"]["ja"]["share_outside_observed_range"] is None
    assert info["statistics_fingerprints"] == {"ja": None}
    with refused("'mean'", "Statistics"):
        LNBenchLM(**given, neurons=path, intervention="mean", language="ja")
    cached = CachingLM(LNBenchLM(**given, neurons=path, intervention="mean"), str(tmp_path / "cache.db"))
    cached.loglikelihood(requests())


def test_neurons_that_were_selected_can_be_found_again(given: dict[str, Any]) -> None:
    lm = LNBenchLM(**given, intervention="mean")
    found = lm.get_model_info()["lnbench"]["neuron_set"]
    assert NeuronSet.load(found["file"]).fingerprint == found["fingerprint"]


def test_a_rewritten_file_is_read_again(given: dict[str, Any], tmp_path: Path) -> None:
    path = str(tmp_path / "neurons.json")
    NeuronSet("tiny-llama", 3, 24, {"hi": {0: [1]}}).save(path)
    lm = LNBenchLM(**given, neurons=path, intervention="zero")
    first = ask(lm)
    NeuronSet("tiny-llama", 3, 24, {"hi": {0: range(12), 1: range(12)}}).save(path)
    lm.configure(lm.experiment)
    assert ask(lm) != first


def test_a_cache_keeps_apart_what_only_statistics_or_settings_tell_apart(given: dict[str, Any], tmp_path: Path) -> None:
    cache = str(tmp_path / "cache.db")
    lm = LNBenchLM(**given)
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        blocks = [torch.randint(3, 250, (2, 32)) for _ in range(2)]
        folders.append(tmp_path / f"stats{seed}")
        lnbench.collect_statistics(lm.model, blocks, language="hi").save(folders[-1])
    path = str(tmp_path / "neurons.json")
    NeuronSet("tiny-llama", 3, 24, {"hi": {layer: range(20) for layer in range(3)}}).save(path)
    for changes in (
        *({"statistics": str(folder), "neurons": path, "intervention": "mean"} for folder in folders),
        *({"prefix_token_id": token} for token in (5, 50)),
        *({"max_length": length} for length in (8, 64)),
    ):
        fresh = LNBenchLM(**given, **changes)
        asked = [*requests(), Instance("loglikelihood", {}, ("", " a text without context"), 0, ("task_hi", 0, 1))]
        if changes.get("max_length") == 8:
            asked = requests()[:1]
        expected = fresh.loglikelihood(asked)
        assert CachingLM(LNBenchLM(**given, **changes), cache).loglikelihood(asked) == expected, changes


def test_a_cache_file_holds_no_pickles(given: dict[str, Any], tmp_path: Path) -> None:
    CachingLM(LNBenchLM(**given, intervention="zero"), str(tmp_path / "cache.db")).loglikelihood(requests())
    import sqlite3

    with sqlite3.connect(tmp_path / "cache.db") as database:
        kept = [row[0] for row in database.execute("SELECT value FROM lnbench")]
    assert len(kept) == len(PAIRS)
    assert all(str(value).startswith("[") for value in kept)


def test_the_description_of_a_model_follows_all_that_changes_its_activations(given: dict[str, Any]) -> None:
    def adapted(**options: Any) -> dict[str, Any]:
        torch.manual_seed(0)
        base = LNBenchLM(**given).model
        config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, **options)
        return describe_model(get_peft_model(base, config))

    plain = LNBenchLM(**given)
    descriptions = [describe_model(plain.model), adapted(lora_alpha=2), adapted(lora_alpha=64)]
    assert adapted(lora_alpha=2) == descriptions[1]
    plain.model.config.rms_norm_eps *= 2
    descriptions.append(describe_model(plain.model))
    assert len({str(one) for one in descriptions}) == len(descriptions)
