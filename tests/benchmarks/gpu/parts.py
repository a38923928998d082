"""The parts: each measures one thing, and returns its figures by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lnbench import collect_statistics, override
from lnbench.finetuning.data import Example, TrainingData
from lnbench.finetuning.presets import TrainingSettings
from lnbench.host import get_host
from lnbench.lm import LNBenchLM
from lnbench.lm.evaluate import Tasks, evaluate
from lnbench.model.locate import locate
from lnbench.model.sites import transformer_body
from lnbench.override_values import LayerOverride, Override
from tests.benchmarks.gpu.machine import LANGUAGE, Machine
from tests.support.tiny import tokenizer

Figures = dict[str, float | None]
SHARE = 0.01
"""Of the neurons, overridden and trained."""
_TRAINED_LENGTH, _TRAINED_BATCH = 256, 8
_CLAIM = "The committee met on Tuesday to discuss the new bridge over the river, which is to open in spring."


@dataclass(frozen=True)
class Part:
    """One measurement."""

    title: str
    run: Callable[[Machine], Figures]
    needs: tuple[str, ...] = ()
    """Packages without which it is left out."""
    own_model: bool = False
    """Whether it changes or replaces the shared model."""


def peak(machine: Machine) -> Figures:
    """The device's own matrix product: what a forward pass could reach at most."""
    side = machine.scale.matrix
    one, other = (torch.randn(side, side, device=machine.device, dtype=machine.dtype) for _ in range(2))
    seconds = machine.in_turns({"product": lambda: [one @ other for _ in range(10)]})["product"] / 10
    return {"matmul_tflops": 2 * side**3 / seconds / 1e12}


def statistics(machine: Machine) -> Figures:
    """Statistics beside the bare transformer body, on the same blocks."""
    blocks, body = machine.text(machine.scale.blocks), transformer_body(machine.model)
    machine.peak_gib()

    def bare() -> None:
        with torch.inference_mode():
            for block in blocks:
                body(input_ids=block, use_cache=False)

    seconds = machine.in_turns(
        {"bare": bare, "counted": lambda: collect_statistics(machine.model, blocks, language=LANGUAGE)}
    )
    tokens = sum(block.numel() for block in blocks)
    linear = sum(module.weight.numel() for module in body.modules() if isinstance(module, nn.Linear))
    # Each weight is a multiplication and an addition per token; so is each query with each earlier key, and value.
    hidden, layers = machine.scale.shape["hidden_size"], machine.scale.shape["num_hidden_layers"]
    operations = tokens * (2 * linear + 2 * machine.scale.length * hidden * layers)
    return {
        "body_tokens_per_s": tokens / seconds["bare"],
        "tokens_per_s": tokens / seconds["counted"],
        "of_the_body": seconds["bare"] / seconds["counted"],
        "body_tflops": operations / seconds["bare"] / 1e12,
        "tflops": operations / seconds["counted"] / 1e12,
        "peak_gib": machine.peak_gib(),
    }


def override_cost(machine: Machine) -> Figures:
    """Overriding 1 % of the neurons: prefill, and generation with a KV cache."""
    neurons = machine.neurons(SHARE)[LANGUAGE]
    change = Override({layer: LayerOverride(own, torch.zeros(len(own))) for layer, own in neurons.items()})
    (ids,) = machine.text()
    body = transformer_body(machine.model)
    short = ids[:, : machine.scale.length // 8]
    options = {"max_new_tokens": machine.scale.decoded, "do_sample": False, "pad_token_id": 0}

    def prefill() -> None:
        with torch.inference_mode():
            body(input_ids=ids, use_cache=False)

    def decode() -> None:
        with torch.inference_mode():
            machine.model.generate(short, attention_mask=torch.ones_like(short), **options)

    def under(run: Callable[[], None]) -> None:
        with override(machine.model, change, sites=machine.sites):
            run()

    figures: Figures = {}
    for name, run in (("prefill", prefill), ("decoding", decode)):
        seconds = machine.in_turns({"plain": run, "overridden": partial(under, run)})
        figures[f"{name}_ratio"] = seconds["overridden"] / seconds["plain"]
        figures[f"{name}_tokens_per_s"] = (
            ids.numel() if name == "prefill" else len(ids) * machine.scale.decoded
        ) / seconds["overridden"]
    return figures


def scoring(machine: Machine) -> Figures:
    """Requests of XNLI's length, beside lm-eval's ``hf`` on the same model; the answers must agree."""
    options = {"batch_size": 32, "device": machine.name}
    theirs = HFLM(machine.model, tokenizer=tokenizer(), **options)
    ours = LNBenchLM(machine.model, tokenizer=tokenizer(), **options)
    requests = [
        Instance(
            "loglikelihood", {}, (f"{document}. {_CLAIM}", f" {answer}, it is so."), index, ("synthetic", document, 1)
        )
        for document in range(machine.scale.documents)
        for index, answer in enumerate(_ANSWERS)
    ]
    answers: dict[str, Any] = {}

    def answer(name: str, lm: Any) -> None:
        answers[name] = lm.loglikelihood(requests, disable_tqdm=True)

    seconds = machine.in_turns({"hf": partial(answer, "hf", theirs), "lnbench": partial(answer, "lnbench", ours)}, 2)
    apart = max(abs(one[0] - other[0]) for one, other in zip(answers["hf"], answers["lnbench"], strict=True))
    return {
        "hf_requests_per_s": len(requests) / seconds["hf"],
        "requests_per_s": len(requests) / seconds["lnbench"],
        "times_hf": seconds["hf"] / seconds["lnbench"],
        "largest_difference_nats": apart,
    }


_ANSWERS = ("Yes", "Also", "No")


def cell(machine: Machine) -> Figures:
    """One cell of a sweep on a loaded model: lm-eval's invocation on an embedded task, 24 documents, 1 % overridden."""
    file = machine.folder / "neurons.json"
    machine.neurons(SHARE).save(file)
    lm = LNBenchLM(machine.model, tokenizer=tokenizer(), batch_size=16, device=machine.name)
    tasks = Tasks()

    def run(intervention: str) -> None:
        arguments = {"intervention": intervention, "neurons": str(file), "language": LANGUAGE}
        given = arguments if intervention != "none" else {}
        evaluate(
            lm,
            f"lnbench_demo_nli_{LANGUAGE}",
            given,
            task_manager=tasks,
            output_path=machine.folder / intervention,
            model_args=given,
            limit=24,
        )

    seconds = machine.in_turns({"plain": partial(run, "none"), "overridden": partial(run, "zero")}, 2)
    return {"plain_s": seconds["plain"], "overridden_s": seconds["overridden"]}


_FINETUNERS = {
    "lora": ("lora", None),
    "masked_lora": (f"masked_lora:languages={LANGUAGE}:attention=false:projections=gate+up+down", SHARE),
    "dense_lora": (f"masked_lora:languages={LANGUAGE}:attention=false:projections=gate+up+down", 1.0),
}


def training(machine: Machine, quantised: bool = False) -> Figures:
    """Fine-tuning in bfloat16, or in NF4: attention LoRA, LoRA on 1 % of the MLP's rows, and on all of them."""
    settings = TrainingSettings(
        batch_size=_TRAINED_BATCH,
        max_steps=machine.scale.steps,
        max_length=_TRAINED_LENGTH,
        validation_examples=0,
        eval_steps=machine.scale.steps,
        bf16=machine.device.type == "cuda",
        gradient_checkpointing=machine.device.type == "cuda",
    )
    generator = torch.Generator().manual_seed(2)
    examples = torch.randint(3, 250, (_TRAINED_BATCH * machine.scale.steps, _TRAINED_LENGTH), generator=generator)
    data = TrainingData([Example(row.tolist(), 8) for row in examples], [], settings, None, 0, {"name": "synthetic"})
    sets = {share: machine.neurons(share) for _, share in _FINETUNERS.values() if share is not None}
    folder = machine.saved if quantised else None
    figures: Figures = {}
    for name, (choice, share) in _FINETUNERS.items():
        machine.forget()
        model = machine.model if folder is None else _in_nf4(folder, machine)
        out = machine.folder / f"{name}-{quantised}"
        out.mkdir(parents=True, exist_ok=True)
        tuner = get_host().resolve("finetuner", choice)
        machine.peak_gib()
        seconds = machine.seconds(
            lambda tuner=tuner, model=model, share=share, out=out: tuner.train(
                model, tokenizer(), sets.get(share), data, out
            )
        )
        figures[f"{name}_tokens_per_s"] = examples.numel() / seconds
        figures[f"{name}_peak_gib"] = machine.peak_gib()
        del model
    machine.forget()
    return figures


def _in_nf4(folder: Any, machine: Machine) -> Any:
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=machine.dtype,
        bnb_4bit_use_double_quant=True,
    )
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantisation, dtype=machine.dtype, device_map={"": machine.name}
    )


def experts(machine: Machine) -> Figures:
    """A small mixture of experts in transformers' grouped implementation: Statistics and an override."""
    machine.forget()
    model = machine.mixture()
    sites, body, blocks = locate(model), transformer_body(model), machine.text(machine.scale.blocks)

    def bare() -> None:
        with torch.inference_mode():
            for block in blocks:
                body(input_ids=block, use_cache=False)

    change = Override(
        {
            layer: LayerOverride(torch.arange(0, width, 100), torch.zeros(len(range(0, width, 100))))
            for layer, width in enumerate(sites.widths)
        }
    )

    def overridden() -> None:
        with override(model, change, sites=sites):
            bare()

    counted = lambda: collect_statistics(model, blocks, language=LANGUAGE)  # noqa: E731
    seconds = machine.in_turns({"bare": bare, "counted": counted, "overridden": overridden}, 2)
    return {
        "of_the_body": seconds["bare"] / seconds["counted"],
        "override_ratio": seconds["overridden"] / seconds["bare"],
        "tokens_per_s": sum(block.numel() for block in blocks) / seconds["counted"],
    }


PARTS = {
    "peak": Part("Matrix product", peak),
    "statistics": Part("Statistics", statistics),
    "override": Part("Override of 1 % of the neurons", override_cost),
    "scoring": Part("Scoring", scoring),
    "cell": Part("A sweep's cell", cell),
    "experts": Part("Mixture of experts", experts, own_model=True),
    "training": Part("Fine-tuning", training, own_model=True),
    "training_nf4": Part("Fine-tuning in NF4", partial(training, quantised=True), ("bitsandbytes",), own_model=True),
}
