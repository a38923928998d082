"""How an adapter is trained: every number of it, and the paper's two sets of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lnbench.errors import unknown
from lnbench.settings import Names, Settings


class TrainingSettings(Settings):
    """The numbers of one training run. Steps are optimiser steps.

    Raises:
        LnbenchError: an unknown name, or a value that does not fit.
    """

    subject = "training setting "

    answer: Literal["prompt", "head"] = Field(
        default="prompt", description="how the task is answered: by the likelihood of text, or by a classification head"
    )
    pooling: Literal["last", "paper"] = Field(
        default="last", description="what the head reads: the last real token, or the last position after padding"
    )
    examples: int | None = Field(default=None, ge=1, description="training rows; none: all")
    sample: Literal["first", "random"] = Field(default="first", description="which rows: the first, or a seeded sample")
    validation_examples: int = Field(
        default=500, ge=0, description="rows to measure on; where the data has none, at most a tenth of the others"
    )
    max_length: int = Field(default=256, ge=8, description="tokens of prompt and answer")
    too_long: Literal["cut", "drop"] = Field(
        default="cut",
        description="longer examples: cut at the start of the prompt, where that leaves what is trained, or left out",
    )
    drop_from: int | None = Field(
        default=None, ge=2, description="examples of so many tokens and more are left out, whatever max_length is"
    )
    loss: Literal["answer", "all"] = Field(
        default="answer", description="what has a loss, of answers in text: the answer, or the prompt too"
    )
    lr: float = Field(default=2e-4, gt=0, description="peak learning rate")
    head_lr: float | None = Field(default=None, gt=0, description="that of the classification head; none: lr")
    batch_size: int = Field(default=8, ge=1, description="examples per optimiser step")
    accumulation: int = Field(default=1, ge=1, description="forward passes that a batch is split into")
    epochs: float = Field(default=1, gt=0, description="passes over the training rows")
    max_steps: int | None = Field(default=None, ge=1, description="steps; wins over epochs")
    warmup: float = Field(
        default=0.01, ge=0, lt=1, description="share of the steps in which the rate rises to its peak"
    )
    schedule: str = Field(default="linear", description="any lr_scheduler_type of transformers; linear falls to 0")
    beta1: float = Field(default=0.95, ge=0, lt=1, description="AdamW's decay of the mean")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW's decay of the variance")
    weight_decay: float = Field(default=0.1, ge=0, description="AdamW's decoupled weight decay")
    clip: float = Field(default=10.0, ge=0, description="largest norm of the gradient; 0: any")
    bf16: bool = Field(default=False, description="bfloat16 mixed precision (autocast)")
    gradient_checkpointing: bool = Field(default=False, description="less memory, a third more time")
    eval_steps: int | None = Field(
        default=None, ge=1, description="steps between two measurements; none: a tenth of all"
    )
    patience: int | None = Field(
        default=None, ge=1, description="stop after so many measurements without a better accuracy, and keep the best"
    )
    log_steps: int = Field(default=10, ge=1, description="steps between two lines of log.jsonl")
    save_steps: int | None = Field(
        default=None, ge=1, description="steps between two checkpoints; none, and always with patience: as eval_steps"
    )
    seed: int = Field(
        default=0, ge=0, description="of the head, dropout and the order of the rows; the fine-tuner has its own"
    )
    report_to: Names = Field(default=(), description="any of Trainer's: tensorboard+wandb …")

    @field_validator(
        "examples", "drop_from", "head_lr", "max_steps", "eval_steps", "patience", "save_steps", mode="before"
    )
    @classmethod
    def _none(cls, value: Any) -> Any:
        return None if value == "none" else value

    @model_validator(mode="after")
    def _divisible(self) -> TrainingSettings:
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size={self.batch_size} cannot be split into accumulation={self.accumulation}")
        if self.loss == "all" and self.answer == "head":
            raise ValueError("loss=all is of answers in text: a classification head reads a prompt and writes none")
        if self.patience is not None and self.validation_examples == 0:
            raise ValueError("patience needs validation_examples")
        return self


@dataclass(frozen=True)
class TrainingPreset:
    """A published way to train."""

    adapter: Mapping[str, Any]
    """Parameters of the fine-tuner."""
    settings: Mapping[str, Any]
    data: str = "xnli"
    """What it trains on."""


_PAPER = {
    "beta1": 0.95,
    "beta2": 0.999,
    "weight_decay": 0.1,
    "clip": 10.0,
    "warmup": 0.01,
    "schedule": "linear",
    "sample": "first",
    "bf16": True,
    "too_long": "drop",
}
"""What both tasks share (appendix B of *Language-specific Neurons Do Not Facilitate Cross-Lingual Transfer*)."""

PRESETS: dict[str, TrainingPreset] = {
    "xnli-paper": TrainingPreset(
        adapter={"rank": 8, "alpha": 16},
        settings=_PAPER
        | {
            "answer": "head",
            "lr": 1e-5,
            "examples": 100_000,
            "max_length": 256,
            "drop_from": 256,
            "batch_size": 8,
            "epochs": 2,
        },
    ),
    "xquad-paper": TrainingPreset(
        adapter={"rank": 64, "alpha": 128},
        settings=_PAPER
        | {
            "answer": "prompt",
            "lr": 5e-5,
            "examples": None,
            "validation_examples": 0,
            "max_length": 512,
            "drop_from": 511,
            "batch_size": 4,
            "epochs": 10,
        },
        data="xquad",
    ),
    "sse-paper": TrainingPreset(
        adapter={},
        settings={
            "answer": "prompt",
            "loss": "all",
            "lr": 1e-4,
            "examples": None,
            "max_length": 512,
            "batch_size": 2,
            "epochs": 1,
            "beta1": 0.9,
            "weight_decay": 0.0,
            "warmup": 0.0,
            "clip": 1.0,
        },
    ),
}


def preset_of(name: str | None) -> TrainingPreset:
    """Return a preset by name; without one, the defaults.

    Raises:
        LnbenchError: no such preset.
    """
    if name is None:
        return TrainingPreset({}, {})
    if name not in PRESETS:
        raise unknown("training preset", name, PRESETS)
    return PRESETS[name]


def settings_of(preset: str | None, overrides: Mapping[str, Any]) -> TrainingSettings:
    """Return a preset's settings with some of them replaced.

    Raises:
        LnbenchError: an unknown preset or setting, or a value that does not fit.
    """
    return TrainingSettings(**{**preset_of(preset).settings, **overrides})
