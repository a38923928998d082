"""The training loop: transformers' Trainer on an adapted model, resumed exactly after an interruption."""

from __future__ import annotations

import math
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from lnbench.errors import LnbenchError
from lnbench.estimates import BACKWARD, Work
from lnbench.files import read_json, write_json
from lnbench.finetuning import training_record as record
from lnbench.finetuning.data import TrainingData
from lnbench.finetuning.lora import count_parameters
from lnbench.finetuning.objectives import HeadObjective, Objective, objective_of
from lnbench.finetuning.presets import TrainingSettings
from lnbench.finetuning.training_log import LogFile, plot
from lnbench.interruption import reached
from lnbench.lm.head import FILE as HEAD_FILE
from lnbench.lm.head import save_head
from lnbench.model.sites import unwrap

_WEIGHTS = "trained.safetensors"
_COMPLETE = "complete.json"
"""Written last into a checkpoint: one without it was cut off by a kill."""
_FULL_DISK = (OSError, RuntimeError, SafetensorError)
"""What Python, torch and safetensors raise when a file cannot be written."""
_MEASUREMENTS = 10
"""How often a training is measured, where its settings do not say."""
_LIBRARIES = ("lnbench", "torch", "transformers", "peft", "lm_eval", "bitsandbytes")


def keep_trainable(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking a model's 4-bit weights for fast inference, which it does on some CPUs.

    It does so in the first forward pass in evaluation mode, for good, and what it computes from repacked weights has
    no gradient. Call this before any forward pass.

    Raises:
        LnbenchError: it is too late.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
                raise LnbenchError(
                    "bitsandbytes repacked the 4-bit weights in an earlier forward pass, so they have no gradient; "
                    "reload the model"
                )
            module.support_avx512bf16_for_cpu = False


def train_adapter(adapted: nn.Module, tokenizer: Any, data: TrainingData, output_dir: Path) -> None:  # noqa: ARG001 - the contract
    """Train what has ``requires_grad`` in an adapted model, in place.

    If ``output_dir`` holds checkpoints of an interrupted training, it resumes from the last one, and on the CPU ends
    with the same bits as without the interruption. A fine-tuner calls this, then saves the adapter.

    Args:
        adapted: A PEFT model, or any causal LM of a supported architecture with trainable parameters.
        tokenizer: The model's.
        data: What to train on, and how; see :func:`lnbench.finetuning.data.prepare`.
        output_dir: Gets ``training.json``, ``log.jsonl``, ``training.png``, ``head.safetensors`` if a head is trained,
            ``checkpoint-*`` during training, and what trackers (``report_to``) write.

    Raises:
        LnbenchError: a loss that is not a number, a full disk, several processes, nothing to train.
    """
    started = time.monotonic()
    settings = data.settings
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise LnbenchError(
            "fine-tuning runs in one process; a model too large for one GPU is spread by --model-args parallelize=True"
        )
    keep_trainable(adapted)
    objective = objective_of(adapted, data)
    counts = count_parameters(adapted)
    if counts.trainable == 0:
        raise LnbenchError("nothing to train: no parameter of the adapted model requires a gradient")
    of_head = sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad)
    parameters = {"trainable": counts.trainable, "of_neurons": counts.of_neurons, "head": of_head - counts.trainable}
    Console(stderr=True).print(
        f"training {counts.trainable:,} parameters of the adapter, {counts.of_neurons:,} of them of neurons"
        + (f", and {parameters['head']:,} of the head" if parameters["head"] else "")
        + f", on {len(data.training):,} examples",
        soft_wrap=True,
    )
    record.update(
        output_dir,
        settings=settings.model_dump(mode="json"),
        data=data.account,
        parameters=parameters,
        versions={name: version(name) for name in _LIBRARIES},
    )
    log = LogFile(output_dir / "log.jsonl")
    trainer = _AdapterTrainer(objective, data, _arguments(objective, data, output_dir), log)
    base = unwrap(adapted)
    config = base.config.get_text_config()
    cached, config.use_cache = getattr(config, "use_cache", True), False
    if settings.gradient_checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        trainer.run()
    finally:
        config.use_cache = cached
        if settings.gradient_checkpointing:
            base.gradient_checkpointing_disable()
        adapted.eval()
    plot(log.rows, output_dir / "training.png")
    if isinstance(objective, HeadObjective):
        save_head(output_dir / HEAD_FILE, objective.head, objective.pooling, data.account["task"])
    record.update(output_dir, results=trainer.results() | {"seconds": round(time.monotonic() - started, 1)})


class _AdapterTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that keeps the trained parameters alone, and measures as lm-eval does."""

    def __init__(self, objective: Objective, data: TrainingData, arguments: TrainingArguments, log: LogFile) -> None:
        self._data, self._log = data, log
        self.control: TrainerControl
        patience = data.settings.patience
        super().__init__(
            model=objective,
            args=arguments,
            data_collator=objective.collate,
            train_dataset=data.training,
            eval_dataset=data.validation or None,
            callbacks=[log, *([EarlyStoppingCallback(patience)] if patience else [])],
        )

    def run(self) -> None:
        """Train, from where an earlier process stopped if one did; then measure, unless the last step is measured."""
        checkpoint = self._last_checkpoint()
        if checkpoint is not None and read_json(checkpoint / _COMPLETE)["finished"]:
            self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            self._load_from_checkpoint(str(checkpoint))
            self._log.on_train_begin(self.args, self.state, self.control)
            if self.args.load_best_model_at_end:
                self._load_best_model()
        else:
            self.args.eval_on_start = bool(self._data.validation) and checkpoint is None
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        measured = {row["step"] for row in self._measures()}
        if self._data.validation and self.state.global_step not in measured:
            self.evaluate()

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **keywords: Any) -> Any:
        """Do as Trainer; reversible layers give weights a gradient only where their inputs have one, too."""
        loss = super().compute_loss(model, inputs, *arguments, **keywords)
        if torch.is_grad_enabled() and isinstance(loss, Tensor) and not loss.requires_grad:
            unwrap(self.model.adapted).enable_input_require_grads()
            loss = super().compute_loss(model, inputs, *arguments, **keywords)
        return loss

    def results(self) -> dict[str, Any]:
        """Return the steps, and the measures before and after, as JSON data."""
        results: dict[str, Any] = {"steps": self.state.global_step}
        if measures := self._measures():
            last = measures[-1]
            if self.args.load_best_model_at_end and (best := self.state.best_global_step):
                results["best_step"] = best
                last = next(row for row in measures if row["step"] == best)
            for when, row in {"before": measures[0], "after": last}.items():
                results[when] = {name: row[f"eval_{name}"] for name in ("loss", "accuracy")}
        return results

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure on the validation questions; no random numbers are drawn, so training continues as without it."""
        measures = self.model.measure(self._data.validation, self.args.per_device_eval_batch_size)
        metrics = {f"eval_{name}": value for name, value in measures.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Do as Trainer; the head learns at a rate of its own, if it is given one."""
        head_lr = self._data.settings.head_lr
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if is_new and head_lr is not None and isinstance(self.model, HeadObjective):
            of_head = {id(parameter) for parameter in self.model.head.parameters()}
            for group in list(optimizer.param_groups):
                head = [parameter for parameter in group["params"] if id(parameter) in of_head]
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in of_head]
                if head:
                    optimizer.add_param_group({**group, "params": head, "lr": head_lr})
        return optimizer

    def _measures(self) -> list[dict[str, Any]]:
        return [row for row in self.state.log_history if "eval_accuracy" in row]

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """Leave the model where it was loaded."""

    # Checkpoints: the trained parameters, exactly, and a mark that they are all there

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def _save(self, output_dir: str | None = None, **_: Any) -> None:
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in self._trained().items()}
        save_file(tensors, Path(output_dir) / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *_: Any) -> None:
        stored, trained = load_file(Path(resume_from_checkpoint) / _WEIGHTS), self._trained()
        if {name: value.shape for name, value in stored.items()} != {name: now.shape for name, now in trained.items()}:
            raise LnbenchError(f"{resume_from_checkpoint} is of another adapter; delete the folder to start over")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(stored[name])

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        except _FULL_DISK as error:
            raise LnbenchError(
                f"cannot write {folder}: {' '.join(str(error).split())}. Make room and run the same command again: it "
                "resumes from the checkpoint before"
            ) from error
        finished = self.control.should_training_stop or self.state.global_step >= self.state.max_steps
        write_json(folder / _COMPLETE, {"finished": finished})
        reached(f"step {self.state.global_step} of {self.state.max_steps}")

    def _last_checkpoint(self) -> Path | None:
        folders = {
            int(path.parent.name.rpartition("-")[2]): path.parent
            for path in Path(self.args.output_dir).glob(f"{record.CHECKPOINTS}/{_COMPLETE}")
        }
        return folders[max(folders)] if folders else None


def total_steps(examples: int, settings: TrainingSettings) -> int:
    """Return the number of optimiser steps of a training."""
    return settings.max_steps or math.ceil(settings.epochs * math.ceil(examples / settings.batch_size))


def work_of(data: TrainingData) -> Work:
    """Return what training on data takes, the measurements in between included."""
    settings = data.settings
    seen = total_steps(len(data.training), settings) * settings.batch_size / max(1, len(data.training))
    tokens, answers = (
        sum(part) for part in zip(*((len(one.tokens), one.answer) for one in data.training), strict=True)
    )
    asked = [choice for question in data.validation for choice in question.choices]
    return Work(
        "fine-tuning",
        read=_MEASUREMENTS * sum(len(choice.tokens) for choice in asked),
        scored=round(BACKWARD * seen * answers) + _MEASUREMENTS * sum(choice.answer for choice in asked),
        trained=round(seen * tokens),
        length=settings.max_length,
        rows=settings.batch_size // settings.accumulation,
        checkpointing=settings.gradient_checkpointing,
    )


def _arguments(objective: Objective, data: TrainingData, output_dir: Path) -> TrainingArguments:
    """Return Trainer's arguments."""
    settings = data.settings
    steps = total_steps(len(data.training), settings)
    measured = settings.eval_steps or max(1, math.ceil(steps / _MEASUREMENTS))
    share = settings.batch_size // settings.accumulation
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        learning_rate=settings.lr,
        per_device_train_batch_size=share,
        per_device_eval_batch_size=max(8, share),
        gradient_accumulation_steps=settings.accumulation,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        warmup_steps=math.ceil(settings.warmup * steps),
        lr_scheduler_type=settings.schedule,
        optim="adamw_torch",
        adam_beta1=settings.beta1,
        adam_beta2=settings.beta2,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        bf16=settings.bf16,
        use_cpu=objective.device.type == "cpu",
        eval_strategy="steps" if data.validation else "no",
        eval_steps=measured,
        save_strategy="steps",
        # The best state can only be kept if every measured state is.
        save_steps=measured if settings.patience or settings.save_steps is None else settings.save_steps,
        save_total_limit=2,
        load_best_model_at_end=settings.patience is not None,
        metric_for_best_model=objective.better,
        greater_is_better=objective.better == "accuracy",
        restore_callback_states_from_checkpoint=True,
        logging_steps=settings.log_steps,
        logging_nan_inf_filter=False,
        report_to=list(settings.report_to) or "none",
        seed=settings.seed,
        data_seed=settings.seed,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=objective.device.type == "cuda",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # or Trainer would split batches over all GPUs that it sees  # noqa: SLF001 - no public way
    return arguments
