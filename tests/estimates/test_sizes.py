"""What a configuration says of a model's size, against the loaded model; and what work takes, by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from lnbench.estimates import LoadedAs, ModelSize, Speed, Work, size_of
from lnbench.model.locate import locate
from tests.support.every_type import build_type
from tests.support.tiny import CONFIGS, HIDDEN, LAYERS, build


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_the_size_is_that_of_the_model(model_type: str) -> None:
    model = build(model_type)
    size = ModelSize.of(model)
    assert size.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (size.layers, size.hidden) == (LAYERS, HIDDEN)
    assert size.neurons == sum(locate(model).widths)


def test_the_size_by_name_is_the_same(tiny_model: str) -> None:
    loaded = ModelSize.of(AutoModelForCausalLM.from_pretrained(tiny_model))
    assert size_of(tiny_model) == loaded
    assert size_of(f"{tiny_model}/none") is None


@pytest.mark.parametrize(
    ("loading", "expected"),
    [
        (LoadedAs(), 4 * 1000),
        (LoadedAs.of({"dtype": torch.bfloat16}), 2 * 1000),
        (LoadedAs.of({"dtype": "float16"}), 2 * 1000),
        (LoadedAs.of({"load_in_4bit": True, "dtype": "bfloat16"}), 0.5625 * 600 + 2 * 400),
        (LoadedAs.of({"load_in_8bit": True}), 600 + 2 * 400),
    ],
)
def test_bytes_of_weights(loading: LoadedAs, expected: float) -> None:
    size = ModelSize(1000, 400, 2, 20, 8, 2, 50)
    assert loading.weights(size) == expected


def test_seconds_are_tokens_times_speed() -> None:
    work = Work("work", read=100, scored=10, trained=20)
    assert Speed(0.5, 2.0).seconds(work) == 0.5 * (100 + 3 * 20) + 2.0 * 10
    assert Speed(0.5, 2.0).seconds(Work("work", trained=20, checkpointing=True)) == 0.5 * 4 * 20


def test_memory_by_part() -> None:
    size = ModelSize(1000, 400, 2, 20, 8, 2, 50)
    parts = Work("work", read=1, length=4, rows=3, counted=2, text=5, states=7).memory(size, LoadedAs())
    assert parts["weights"] == 4000
    assert parts["a forward pass"] == 3 * 4 * 4 * (4 * 10 + 16 * 8 + 2 * 2 * 4)
    assert parts["counts of every neuron"] == 2 * 4096 * 20
    assert parts["hidden states that are kept"] == 4 * 8 * 7
    assert "training" not in parts


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_every_experts_neurons_count(model_type: str) -> None:
    model = build_type(model_type)
    assert ModelSize.of(model).neurons == sum(locate(model).widths)
