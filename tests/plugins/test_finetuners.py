"""The built-in fine-tuners build the adapter that their parameters describe, have it trained, and save it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn

from lnbench import NeuronSet
from lnbench.finetuning.lora import count_parameters
from lnbench.host import get_host
from tests.support import docs_pages as docs
from tests.support.adapters import logits, neurons_of, train
from tests.support.messages import refused
from tests.support.tiny import LAYERS, WIDTH, build

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}


class Loop:
    """A stand-in for the training loop that remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def __call__(self, adapted: nn.Module, tokenizer: Any, data: Any, output_dir: Path) -> None:
        self.given = [tokenizer, data, output_dir]
        self.counts = count_parameters(adapted)
        train(adapted)
        self.logits = logits(adapted)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    module, loop = ModuleType("lnbench.finetuning.training"), Loop()
    module.train_adapter = loop  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lnbench.finetuning.training", module)
    return loop


def run(choice: str, neurons: NeuronSet | None, out: Path, model_type: str = "llama") -> Path:
    finetuner = get_host().resolve("finetuner", choice)
    return finetuner.train(build(model_type), "the tokenizer", neurons, "the data", out)


def adapted_names(folder: Path) -> set[str]:
    model = PeftModel.from_pretrained(build("llama"), folder)
    return {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_A" in name}


def test_lora_adapts_the_attention_alone(loop: Loop, tmp_path: Path) -> None:
    folder = run("lora:rank=3:alpha=9:dropout=0.1", neurons_of(build("llama")), tmp_path / "out")
    assert loop.given == ["the tokenizer", "the data", tmp_path / "out"]
    assert loop.counts.of_neurons == 0
    assert adapted_names(folder) == ATTENTION
    assert not (folder / "neurons.json").exists()
    config = PeftModel.from_pretrained(build("llama"), folder).peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (3, 9, 0.1)


def test_masked_lora_adds_the_chosen_neurons(loop: Loop, tmp_path: Path) -> None:
    neurons = neurons_of(build("llama"))
    folder = run("masked_lora:languages=hi:rank=2", neurons, tmp_path)
    assert adapted_names(folder) == {*ATTENTION, "gate_proj"}
    assert loop.counts.of_neurons == 2 * neurons.count("hi")
    assert NeuronSet.load(folder / "neurons.json") == neurons
    assert torch.equal(loop.logits, logits(PeftModel.from_pretrained(build("llama"), folder)))


def test_masked_lora_takes_its_parts_from_its_parameters(loop: Loop, tmp_path: Path) -> None:
    neurons = neurons_of(build("llama"))
    choice = "masked_lora:languages=random-like-hi:attention=false:projections=gate+up+down:seed=3"
    folder = run(choice, neurons, tmp_path)
    assert adapted_names(folder) == {"gate_proj", "up_proj", "down_proj"}
    trained = NeuronSet.load(folder / "neurons.json")
    assert trained.per_layer("random").tolist() == neurons.per_layer("hi").tolist()
    assert not (trained.mask("random") & neurons.mask("hi")).any()
    assert loop.counts.of_neurons == 3 * 8 * neurons.count("hi")


def test_all_and_none_need_no_neurons(loop: Loop, tmp_path: Path) -> None:
    run("masked_lora:languages=all", None, tmp_path / "all")
    assert loop.counts.of_neurons == 8 * LAYERS * WIDTH
    folder = run("masked_lora:languages=none", None, tmp_path / "none")
    assert loop.counts.of_neurons == 0
    assert adapted_names(folder) == ATTENTION
    assert NeuronSet.load(folder / "neurons.json").languages == []
    plain = run("lora", None, tmp_path / "lora")
    one, other = ((at / "adapter_model.safetensors").read_bytes() for at in (plain, folder))
    assert one == other


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("masked_lora", "languages"),
        ("masked_lora:languages=hi:projections=side", "projections"),
        ("masked_lora:languages=hi:rank=0", "rank"),
        ("lora:languages=hi", "languages"),
        ("lora:dropout=1", "dropout"),
    ],
)
def test_refuses_parameters_that_do_not_fit(choice: str, message: str) -> None:
    with refused(message):
        get_host().resolve("finetuner", choice)


def test_refuses_neurons_that_do_not_fit(loop: Loop, tmp_path: Path) -> None:
    other = NeuronSet("other", LAYERS + 1, WIDTH, {"hi": {0: [1]}})
    with refused("other", LAYERS, LAYERS + 1):
        run("masked_lora:languages=hi", other, tmp_path)
    with refused("ur"):
        run("masked_lora:languages=ur", neurons_of(build("llama")), tmp_path)
    assert loop.given == []
    assert list(tmp_path.iterdir()) == []


def test_the_plugin_pages_fine_tuner(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = [block for block in docs.blocks("howto/plugins.md", "python") if "lnbench_register_finetuners" in block]
    plugin = ModuleType("documented_finetuner")
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    exec(source, plugin.__dict__)
    host = get_host()
    host.register(plugin)
    try:
        neurons = neurons_of(build("llama"))
        folder = run("gate_only:language=hi:rank=4", neurons, tmp_path)
        assert adapted_names(folder) == {"gate_proj"}
        assert loop.counts.of_neurons == 4 * neurons.count("hi")
    finally:
        host.unregister(plugin)
