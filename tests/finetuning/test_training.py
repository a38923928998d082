"""The training loop: the loss is on answers alone, and an interruption changes nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jsonlines
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import BitsAndBytesConfig, Trainer, TrainerCallback

from lnbench.files import read_json
from lnbench.finetuning import training_record as record
from lnbench.finetuning.data import TrainingData, prepare
from lnbench.finetuning.lora import build_adapter, save_adapter
from lnbench.finetuning.objectives import IGNORED, TextObjective, objective_of
from lnbench.finetuning.presets import TrainingSettings
from lnbench.finetuning.training import total_steps, train_adapter
from lnbench.lm import LNBenchLM
from lnbench.neurons import NeuronSet
from tests.support.finetuning import SETTINGS
from tests.support.messages import refused
from tests.support.tiny import build

pytestmark = pytest.mark.slow


def prepared(lm: LNBenchLM, name: str = "xnli", **changes: Any) -> TrainingData:
    return prepare(name, lm, TrainingSettings(**SETTINGS | changes))


def adapted(neurons_file: Path, model: nn.Module | None = None, **parts: Any) -> Any:
    """A fresh adapter on a fresh model."""
    neurons = NeuronSet.load(neurons_file)
    only = NeuronSet(neurons.model, neurons.layers, neurons.width, {"en": neurons["en"]})
    return build_adapter(model or build("llama"), only, rank=4, alpha=8, **parts)


# What is trained


def test_labels_are_the_answers_tokens_where_they_are_predicted(lm: LNBenchLM, neurons_file: Path) -> None:
    made = prepared(lm)
    some = made.training[:5]
    batch = TextObjective(adapted(neurons_file), made).collate(some)
    assert batch["input_ids"].shape == batch["labels"].shape == (5, max(len(one.tokens) for one in some) - 1)
    for ids, labels, example in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), some, strict=True):
        end = len(example.tokens) - 1
        assert ids == example.tokens[:-1] + [made.pad] * (len(ids) - end)
        wanted = [IGNORED] * len(ids)
        wanted[end - example.answer : end] = example.tokens[-example.answer :]
        assert labels == wanted


def test_the_loss_is_that_of_the_answers_alone(lm: LNBenchLM, neurons_file: Path) -> None:
    made, model = prepared(lm, "squad"), adapted(neurons_file)
    objective = TextObjective(model, made)
    some = made.training[:5]
    total, count = torch.tensor(0.0), 0
    for example in some:
        tokens = torch.tensor([example.tokens])
        logits = model(tokens).logits[0, -example.answer - 1 : -1]
        total = total + cross_entropy(logits, tokens[0, -example.answer :], reduction="sum")
        count += example.answer
    loss = objective(**objective.collate(some))["loss"]
    torch.testing.assert_close(loss, total / count)
    torch.testing.assert_close(
        objective(**objective.collate(some), num_items_in_batch=torch.tensor(7))["loss"], total / 7
    )
    loss.backward()
    ours = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    (total / count).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(ours[name], parameter.grad)


def test_accuracy_is_lm_evals(lm: LNBenchLM, neurons_file: Path) -> None:
    made = prepared(lm, validation_examples=9)
    model = build("llama")
    measured = objective_of(adapted(neurons_file, model), made).measure(made.validation, 3)
    requests = [
        ((("", ""), one.tokens[: -one.answer], one.tokens[-one.answer :]))
        for question in made.validation
        for one in question.choices
    ]
    answers = lm._loglikelihood_tokens(requests, disable_tqdm=True)
    scores = torch.tensor([likelihood for likelihood, _ in answers]).view(9, 3)
    gold = torch.tensor([question.gold for question in made.validation])
    assert measured["accuracy"] == pytest.approx(float((scores.argmax(1) == gold).float().mean()))
    tokens = sum(question.choices[question.gold].answer for question in made.validation)
    assert measured["loss"] == pytest.approx(float(-scores.gather(1, gold[:, None]).sum()) / tokens, rel=1e-5)


def test_a_written_answer_counts_if_every_token_is_the_first_choice(lm: LNBenchLM, neurons_file: Path) -> None:
    made = prepared(lm, "squad", validation_examples=4, max_steps=80, lr=0.05)
    model = adapted(neurons_file)
    objective = TextObjective(model, made)
    assert objective.better == "loss"
    before = objective.measure(made.validation, 4)
    assert before["accuracy"] == 0
    right = 0
    for question in made.validation:
        (example,) = question.choices
        choices = model(torch.tensor([example.tokens])).logits[0, -example.answer - 1 : -1].argmax(-1)
        right += choices.tolist() == example.tokens[-example.answer :]
    assert before["accuracy"] == right / len(made.validation)


def test_measuring_switches_dropout_off_and_back_on(lm: LNBenchLM, neurons_file: Path) -> None:
    made = prepared(lm)
    objective = objective_of(adapted(neurons_file, dropout=0.5), made)
    objective.train()
    state = torch.get_rng_state()
    assert objective.measure(made.validation, 4) == objective.measure(made.validation, 4)
    assert objective.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("answer", ["prompt", "head"])
def test_accumulation_is_the_same_batch(lm: LNBenchLM, neurons_file: Path, tmp_path: Path, answer: str) -> None:
    found = []
    for accumulation in (1, 4):
        model = adapted(neurons_file)
        made = prepared(lm, answer=answer, accumulation=accumulation, clip=0.0)
        train_adapter(model, lm.tokenizer, made, tmp_path / f"{accumulation}")
        found.append({name: one.detach() for name, one in model.named_parameters() if one.requires_grad})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("answer", ["prompt", "head"])
def test_gradient_checkpointing_gives_the_same_adapter(
    lm: LNBenchLM, neurons_file: Path, tmp_path: Path, answer: str
) -> None:
    found = []
    for checkpointing in (False, True):
        model = adapted(neurons_file)
        made = prepared(lm, answer=answer, gradient_checkpointing=checkpointing)
        train_adapter(model, lm.tokenizer, made, tmp_path / f"{checkpointing}")
        found.append({name: one.detach() for name, one in model.named_parameters() if one.requires_grad})
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_what_training_learns(lm: LNBenchLM, neurons_file: Path, tmp_path: Path) -> None:
    model = adapted(neurons_file)
    frozen = {name: one.clone() for name, one in model.named_parameters() if not one.requires_grad}
    made = prepared(lm, answer="head", max_steps=60, eval_steps=30, validation_examples=9, batch_size=8, lr=0.02)
    train_adapter(model, lm.tokenizer, made, tmp_path)
    found = read_json(tmp_path / record.FILE)
    assert found["results"]["after"]["loss"] < found["results"]["before"]["loss"]
    assert found["results"]["after"]["accuracy"] > 0.8
    assert found["parameters"]["head"] == 3 * 16 + 3
    assert found["parameters"]["of_neurons"] == 3 * 5 * 4
    assert found["data"] == made.account
    assert found["settings"]["lr"] == 0.02
    assert found["versions"]["transformers"]
    assert all(torch.equal(one, frozen[name]) for name, one in model.named_parameters() if name in frozen)
    with jsonlines.open(tmp_path / "log.jsonl") as file:
        rows = list(file)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 61))
    assert [row["step"] for row in rows if "validation_loss" in row] == [0, 30, 60]
    assert rows[-1]["validation_accuracy"] == found["results"]["after"]["accuracy"]
    assert (tmp_path / "training.png").read_bytes()[:4] == b"\x89PNG"


def test_the_schedule_rises_for_a_share_of_the_steps_and_falls_to_nothing(
    lm: LNBenchLM, neurons_file: Path, tmp_path: Path
) -> None:
    made = prepared(lm, max_steps=10, warmup=0.3, lr=0.01, validation_examples=0)
    train_adapter(adapted(neurons_file), lm.tokenizer, made, tmp_path)
    with jsonlines.open(tmp_path / "log.jsonl") as file:
        rates = [row["lr"] for row in file]
    wanted = [0.01 * (step / 3 if step < 3 else (10 - step) / 7) for step in range(10)]
    assert rates == pytest.approx(wanted)


def test_the_number_of_steps() -> None:
    assert total_steps(100, TrainingSettings(batch_size=8, epochs=2)) == 26
    assert total_steps(100, TrainingSettings(batch_size=8, epochs=0.5)) == 7
    assert total_steps(100, TrainingSettings(max_steps=3)) == 3


# Interruptions


class Stopped(Exception):  # noqa: N818
    """A kill, as far as training can tell."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End the process's training after a step, as a kill would."""

    class Stop(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                raise Stopped

    train = Trainer.train

    def with_stop(self: Trainer, *arguments: Any, **options: Any) -> Any:
        self.add_callback(Stop())
        return train(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "train", with_stop)


@pytest.mark.parametrize(
    ("answer", "changes", "step"),
    [
        ("head", {}, 5),
        ("head", {}, 1),
        ("head", {"patience": 9}, 7),
        ("prompt", {"accumulation": 2, "sample": "random", "epochs": 1.1, "max_steps": None}, 8),
    ],
)
def test_an_interruption_changes_no_bit(
    lm: LNBenchLM,
    neurons_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    changes: dict[str, Any],
    step: int,
) -> None:
    made = prepared(lm, answer=answer, **{"max_steps": 8, "save_steps": 3, "eval_steps": 3, **changes})
    whole, halves = tmp_path / "whole", tmp_path / "halves"

    def train(folder: Path) -> None:
        model = adapted(neurons_file, dropout=0.3)
        torch.manual_seed(0)
        train_adapter(model, lm.tokenizer, made, folder)
        save_adapter(model, folder)

    train(whole)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, step)
        train(halves)
    assert not (halves / "adapter_model.safetensors").exists()
    train(halves)
    for file in ("adapter_model.safetensors", *(["head.safetensors"] if answer == "head" else [])):
        one, other = load_file(whole / file), load_file(halves / file)
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    with jsonlines.open(whole / "log.jsonl") as first, jsonlines.open(halves / "log.jsonl") as second:
        validation = [[row for row in file if "validation_loss" in row] for file in (first, second)]
    assert validation[0] == validation[1]


def test_a_checkpoint_that_was_cut_off_is_not_used(
    lm: LNBenchLM, neurons_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepared(lm, max_steps=9, save_steps=2, validation_examples=0)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, 5)
        train_adapter(adapted(neurons_file), lm.tokenizer, made, tmp_path)
    (tmp_path / "checkpoint-4" / "complete.json").unlink()
    (tmp_path / "checkpoint-4" / "trained.safetensors").write_bytes(b"cut off")
    model = adapted(neurons_file)
    train_adapter(model, lm.tokenizer, made, tmp_path)
    undisturbed = adapted(neurons_file)
    train_adapter(undisturbed, lm.tokenizer, made, tmp_path / "other")
    theirs = dict(undisturbed.named_parameters())
    assert all(torch.equal(one, theirs[name]) for name, one in model.named_parameters())


def test_a_finished_training_is_loaded_and_not_trained_on(
    lm: LNBenchLM, neurons_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepared(lm, answer="head")
    model = adapted(neurons_file)
    train_adapter(model, lm.tokenizer, made, tmp_path)
    head = load_file(tmp_path / "head.safetensors")
    results = read_json(tmp_path / record.FILE)["results"]
    (tmp_path / "head.safetensors").unlink()
    again = adapted(neurons_file)
    monkeypatch.setattr(Trainer, "train", None)
    train_adapter(again, lm.tokenizer, made, tmp_path)
    theirs = dict(model.named_parameters())
    assert all(torch.equal(one, theirs[name]) for name, one in again.named_parameters())
    assert torch.equal(load_file(tmp_path / "head.safetensors")["weight"], head["weight"])
    seconds = {"seconds": 0}
    assert read_json(tmp_path / record.FILE)["results"] | seconds == results | seconds


@pytest.mark.parametrize(
    ("measured", "last", "stopped", "best_step"),
    [([0.1, 0.5, 0.9, 0.3, 0.2, 0.1], 40, 8, 4), ([0.1, 0.2, 0.3, 0.9], 5, 5, 5)],
    ids=["early", "at the last step"],
)
def test_early_stopping_keeps_the_best(
    lm: LNBenchLM,
    neurons_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    measured: list[float],
    last: int,
    stopped: int,
    best_step: int,
) -> None:
    accuracies = iter(measured)
    measure = TextObjective.measure
    monkeypatch.setattr(
        TextObjective, "measure", lambda *arguments: measure(*arguments) | {"accuracy": next(accuracies)}
    )
    made = prepared(lm, max_steps=last, eval_steps=2, patience=2)
    best: dict[str, torch.Tensor] = {}

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
            if state.global_step == best_step:
                best.update({name: one.detach().clone() for name, one in model.adapted.named_parameters()})

    train = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda self, *a, **o: (self.add_callback(Watch()), train(self, *a, **o))[1])
    model = adapted(neurons_file)
    train_adapter(model, lm.tokenizer, made, tmp_path)
    results = read_json(tmp_path / record.FILE)["results"]
    assert (results["steps"], results["best_step"]) == (stopped, best_step)
    assert results["after"]["accuracy"] == 0.9
    with jsonlines.open(tmp_path / "log.jsonl") as file:
        assert [row["step"] for row in file if "validation_loss" in row] == [*range(0, stopped, 2), stopped]
    assert all(torch.equal(one, best[name]) for name, one in model.named_parameters())


# 4 bits, and failures


@pytest.mark.parametrize("answer", ["prompt", "head"])
def test_nf4_with_double_quantisation(tiny_model: str, neurons_file: Path, tmp_path: Path, answer: str) -> None:
    arguments = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    lm = LNBenchLM(tiny_model, device="cpu", dtype="bfloat16", bnb_4bit_compute_dtype="bfloat16", **arguments)
    configured = lm.model.config.quantization_config
    assert isinstance(configured, BitsAndBytesConfig)
    assert (configured.bnb_4bit_quant_type, configured.bnb_4bit_use_double_quant) == ("nf4", True)
    made = prepared(lm, answer=answer, gradient_checkpointing=True, max_steps=12, lr=0.02)
    model = adapted(neurons_file, lm.model)
    packed = {name: one.detach().clone() for name, one in model.named_parameters() if one.dtype == torch.uint8}
    assert len(packed) > 10
    train_adapter(model, lm.tokenizer, made, tmp_path)
    results = read_json(tmp_path / record.FILE)["results"]
    assert results["after"]["loss"] < results["before"]["loss"]
    assert all(torch.equal(one, packed[name]) for name, one in model.named_parameters() if name in packed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_precision(lm: LNBenchLM, neurons_file: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    made = prepared(lm, answer="head", bf16=True)
    train_adapter(adapted(neurons_file, build("llama").to(dtype)), lm.tokenizer, made, tmp_path)
    assert math.isfinite(read_json(tmp_path / record.FILE)["results"]["after"]["loss"])


def test_a_loss_that_is_no_number_stops_training(
    lm: LNBenchLM, neurons_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Break(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, _args: Any, _state: Any, _control: Any, **given: Any) -> None:
            for name, weight in given["model"].named_parameters():
                if name.endswith("model.norm.weight"):
                    weight.data.fill_(float("nan"))

    monkeypatch.setattr("lnbench.finetuning.training.EarlyStoppingCallback", lambda _: Break())
    with refused("step 1", "finite", "lr"):
        train_adapter(adapted(neurons_file), lm.tokenizer, prepared(lm, patience=9), tmp_path)


def test_a_full_disk_says_so(
    lm: LNBenchLM, neurons_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lnbench.finetuning.training.save_file", full)
    with refused("checkpoint-1", "No space left on device"):
        train_adapter(adapted(neurons_file), lm.tokenizer, prepared(lm), tmp_path)


def test_several_processes_are_refused(
    lm: LNBenchLM, neurons_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with refused("one process", "parallelize=True"):
        train_adapter(adapted(neurons_file), lm.tokenizer, prepared(lm), tmp_path)


def test_a_frozen_model_is_refused(lm: LNBenchLM, tmp_path: Path) -> None:
    model = build("llama").requires_grad_(False)
    with refused("gradient"):
        train_adapter(model, lm.tokenizer, prepared(lm), tmp_path)
