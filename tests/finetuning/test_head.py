"""The classification head: both poolings against code written out by hand, in training and in evaluation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.tasks import TaskManager
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from lnbench.files import tasks_dir
from lnbench.finetuning.data import TrainingData, prepare
from lnbench.finetuning.lora import build_adapter
from lnbench.finetuning.objectives import HeadObjective
from lnbench.finetuning.presets import TrainingSettings
from lnbench.finetuning.training import train_adapter
from lnbench.lm import LNBenchLM
from lnbench.lm.head import ClassificationHead, Pooling, save_head, separated
from lnbench.neurons import NeuronSet
from tests.support.finetuning import SETTINGS
from tests.support.messages import refused
from tests.support.tiny import build

PAPER = Pooling("paper", length=160, pad=2)


def by_hand(model: Any, head: ClassificationHead, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities of one text: ``[classes]``."""
    pooling = head.pooling
    if pooling.name == "last":
        hidden = model.model(torch.tensor([tokens])).last_hidden_state[0, len(tokens) - 1]
    else:
        assert pooling.length is not None
        assert pooling.pad is not None
        padded = tokens + [pooling.pad] * (pooling.length - len(tokens))
        mask = [1] * len(tokens) + [0] * (pooling.length - len(tokens))
        hidden = model.model(torch.tensor([padded]), attention_mask=torch.tensor([mask])).last_hidden_state[0, -1]
    return torch.log_softmax(head.weight @ hidden + head.bias, -1)


def head_file(folder: Path, pooling: Pooling, classes: int = 3) -> Path:
    torch.manual_seed(4)
    save_head(folder / "head.safetensors", nn.Linear(16, classes), pooling)
    return folder


@pytest.mark.parametrize("pooling", [Pooling(), PAPER], ids=lambda one: one.name)
def test_a_file_keeps_the_pooling(tmp_path: Path, pooling: Pooling) -> None:
    head = nn.Linear(16, 3)
    save_head(tmp_path / "head.safetensors", head, pooling)
    found = ClassificationHead.load(tmp_path)
    assert found.pooling == pooling
    assert torch.equal(found.weight, head.weight)
    assert torch.equal(found.bias, head.bias)


def test_a_file_without_pooling_reads_the_last_token(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3, 16)}, tmp_path / "head.safetensors", metadata={"format": "lnbench.head/1"})
    assert ClassificationHead.load(tmp_path).pooling == Pooling()


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"pooling": "first"}, ["first", "last, paper"]),
        ({"pooling": "paper", "length": "9"}, ["pooling=paper", "length", "pad"]),
        ({"pooling": "paper", "length": "nine", "pad": "0"}, ["pooling=paper", "length", "pad"]),
    ],
)
def test_a_wrong_pooling(tmp_path: Path, metadata: dict[str, str], named: list[str]) -> None:
    metadata = {"format": "lnbench.head/1", **metadata}
    save_file({"weight": torch.zeros(3, 16)}, tmp_path / "head.safetensors", metadata=metadata)
    with refused(*named):
        ClassificationHead.load(tmp_path)


def requests_for(contexts: list[str]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [
        Instance("loglikelihood", {"language": "en"}, (context, f" {choice}"), choice, metadata=("t_en", number, 1))
        for number, context in enumerate(contexts)
        for choice in range(3)
    ]


CONTEXTS = ["the owl", "the sea is deep and the owl is asleep", "a dog", "x" * 300, "a cat is a cat"]


@pytest.mark.parametrize("pooling", [Pooling(), PAPER], ids=lambda one: one.name)
def test_evaluation_reads_the_position_that_the_file_names(tiny_model: str, tmp_path: Path, pooling: Pooling) -> None:
    folder = head_file(tmp_path, pooling)
    lm = LNBenchLM(tiny_model, device="cpu", head=str(folder), batch_size=2)
    model, head = build("llama"), ClassificationHead.load(folder)
    answers = torch.tensor([one[0] for one in lm.loglikelihood(requests_for(CONTEXTS))]).view(-1, 3)
    for own, context in zip(answers, CONTEXTS, strict=True):
        tokens = lm.tok_encode(context)
        limit = pooling.length or len(tokens)
        tokens = tokens if len(tokens) <= limit else tokens[:1] + tokens[1 - limit :]
        torch.testing.assert_close(own, by_hand(model, head, tokens).detach())


@pytest.mark.parametrize("pooling", [Pooling(), PAPER], ids=lambda one: one.name)
def test_an_override_reaches_the_position_that_the_head_reads(
    tiny_model: str, tiny_corpus: str, neurons_file: Path, tmp_path: Path, pooling: Pooling
) -> None:
    folder = head_file(tmp_path, pooling)
    lm = LNBenchLM(
        tiny_model,
        device="cpu",
        head=str(folder),
        batch_size=2,
        intervention="constant:value=1",
        neurons=str(neurons_file),
        corpus=tiny_corpus,
        corpus_tokens=300,
    )
    contexts = CONTEXTS[:3]
    answers = torch.tensor([one[0] for one in lm.loglikelihood(requests_for(contexts))]).view(-1, 3)
    neurons = NeuronSet.load(neurons_file)["en"]
    model, head = build("llama"), ClassificationHead.load(folder)
    # As in the published code, which overrides every position: of the padding, only what is read matters.
    for layer, block in enumerate(model.model.layers):
        block.mlp.act_fn.register_forward_hook(
            lambda _, __, output, layer=layer: output.index_fill(-1, neurons[layer], 1)
        )
    lengths = []
    for own, context in zip(answers, contexts, strict=True):
        tokens = lm.tok_encode(context)
        lengths.append(len(tokens))
        torch.testing.assert_close(own, by_hand(model, head, tokens).detach())
    assert lm.accounts["en"].tokens == sum(lengths), "padding is not counted, even where the head reads it"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"idx": [0, 1]}, ["2 choices", "1"]),
        ({"idx": [0, 1, 2, 3]}, ["4 choices", "1"]),
        ({"idx": [0, 1, 2], "context": ["a", "a", "b"]}, ["3 choices", "2"]),
        ({"idx": [0]}, ["1 choices", "1"]),
    ],
)
def test_a_task_that_the_head_cannot_answer_is_refused(
    tiny_model: str, tmp_path: Path, changes: dict[str, Any], named: list[str]
) -> None:
    from lm_eval.api.instance import Instance

    lm = LNBenchLM(tiny_model, device="cpu", head=str(head_file(tmp_path, Pooling())))
    contexts = changes.get("context", ["a"] * 4)
    asked = [
        Instance("loglikelihood", {}, (contexts[one], " x"), one, metadata=("odd", 0, 1)) for one in changes["idx"]
    ]
    with refused("odd", "3 classes", *named):
        lm.loglikelihood([*requests_for(["a"]), *asked])


@pytest.mark.parametrize("task", ["lnbench_demo_nli_en", "lnbench_demo_nli_hi"])
def test_choices_with_text_that_the_head_does_not_read_are_refused(tiny_model: str, tmp_path: Path, task: str) -> None:
    model_args = {"pretrained": tiny_model, "device": "cpu", "head": str(head_file(tmp_path, Pooling()))}
    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False)
    with refused(task, "prompt alone", "lnbench_xnli_pair"):
        lm_eval.simple_evaluate("lnbench", model_args=model_args, tasks=[task], task_manager=manager, limit=3)


def test_other_prompts_than_those_of_training_are_warned_of(
    tiny_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_head(tmp_path / "head.safetensors", nn.Linear(16, 3), Pooling(), "xnli_pair_en")
    head = ClassificationHead.load(tmp_path)
    assert head.task == "xnli_pair_en"
    head.warn_of_other_prompts({"xnli_pair_hi", "xnli_pair_en"})
    assert not caplog.records
    head.warn_of_other_prompts({"xnli_hi", "xnli_pair_hi"})
    assert "trained on the prompts of xnli_pair_en; those of xnli_hi may differ" in caplog.text


def test_a_tokenizer_without_an_end_of_text_cannot_divide() -> None:
    without = SimpleNamespace(eos_token=None)
    assert separated("one two", without) == "one two"
    with refused("eos_token"):
        separated("one\x1etwo", without)


def test_the_head_fits_a_body_that_ends_in_another_width(lm: LNBenchLM) -> None:
    made = prepared(lm)
    objective = HeadObjective(build_adapter(build("opt", word_embed_proj_dim=8)), made)
    assert objective.head.in_features == 8
    objective(**objective.collate(made.training[:2]))["loss"].backward()


def prepared(lm: LNBenchLM, **changes: Any) -> TrainingData:
    return prepare("xnli", lm, TrainingSettings(**SETTINGS | {"answer": "head"} | changes))


@pytest.mark.parametrize("pooling", ["last", "paper"])
def test_training_reads_the_same_position(lm: LNBenchLM, pooling: str) -> None:
    made = prepared(lm, pooling=pooling, validation_examples=9)
    model = build("llama")
    objective = HeadObjective(build_adapter(model), made)
    wanted = Pooling("paper", SETTINGS["max_length"], made.pad) if pooling == "paper" else Pooling()
    assert objective.pooling == wanted
    head = ClassificationHead(objective.head.weight, objective.head.bias, "", objective.pooling)
    some = made.training[:5]
    own = torch.stack([by_hand(model, head, one.tokens) for one in some])
    gold = torch.tensor([one.label for one in some])
    batch = objective.collate(some)
    assert batch["labels"].tolist() == gold.tolist()
    torch.testing.assert_close(objective(**batch)["loss"], cross_entropy(own, gold))
    torch.testing.assert_close(
        objective(**batch, num_items_in_batch=torch.tensor(10))["loss"], cross_entropy(own, gold) / 2
    )
    measured = objective.measure(made.validation, 4)
    own = torch.stack([by_hand(model, head, one.choices[0].tokens) for one in made.validation]).detach()
    gold = torch.tensor([one.gold for one in made.validation])
    assert measured["loss"] == pytest.approx(float(cross_entropy(own, gold)), rel=1e-5)
    assert measured["accuracy"] == pytest.approx(float((own.argmax(-1) == gold).float().mean()))


def test_the_seed_decides_the_head(lm: LNBenchLM) -> None:
    heads = [HeadObjective(build_adapter(build("llama")), prepared(lm, seed=seed)).head.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_the_head_learns_at_its_own_rate(lm: LNBenchLM, tmp_path: Path) -> None:
    rates: dict[str, set[float]] = {}

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, _args: Any, _state: Any, _control: Any, **given: Any) -> None:
            of_head = {id(parameter) for parameter in given["model"].head.parameters()}
            for group in given["optimizer"].param_groups:
                for parameter in group["params"]:
                    rates.setdefault("head" if id(parameter) in of_head else "adapter", set()).add(group["lr"])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lnbench.finetuning.training.EarlyStoppingCallback", lambda _: Watch())
        made = prepared(lm, lr=0.01, head_lr=0.002, max_steps=2, schedule="constant", warmup=0, patience=9)
        train_adapter(build_adapter(build("llama")), lm.tokenizer, made, tmp_path)
    assert rates == {"head": {0.002}, "adapter": {0.01}}
