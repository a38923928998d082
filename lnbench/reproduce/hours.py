"""How long a reproduction takes on a device whose speeds were measured: an estimate, before anything is run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lnbench.errors import LnbenchError
from lnbench.estimates import BACKWARD, SHORT, LoadedAs, ModelSize, Room, Work, check, probe_shape
from lnbench.files import cache_dir, read_json
from lnbench.finetuning.training import total_steps
from lnbench.reproduce.plan import Plan
from lnbench.reproduce.steps import PlannedStep

FILE = "benchmarks-gpu.json"
"""What ``make gpu`` writes; a copy is kept in the cache, where ``lnbench reproduce --dry-run`` finds it."""
_DOCUMENTS = {"xnli": 5_010, "xquad": 238}
"""Documents per language: XNLI's test set, and the last fifth of XQuAD, which training leaves over."""
_WRITTEN = {"xnli": 0, "xquad": 64}
"""Tokens per document that are generated at most."""
_FINETUNERS = ("lora", "masked_lora")
_XNLI = (70, 15)
"""Tokens of one of XNLI's requests, and those of them that are scored."""
_NAMES = {
    "batch_size=1": "--set reading.batch_size=1",
    "kl_tokens=0": "",
    "gradient_checkpointing=True": "",
}
"""What ``lnbench reproduce`` calls the settings that make it fit, where its options differ from other commands'."""
_CELL = 0.5
"""Seconds that a cell takes beside its documents, where that was not measured."""
_EXAMPLES = {"xnli": 392_702, "xquad": 952}
"""English examples to train on, where the settings name no number."""


@dataclass(frozen=True)
class Rates:
    """The speeds of one device, of an 8B model unless it is a rehearsal; None: not measured.

    Args:
        device: Its name.
        rehearsal: Whether a tiny model was measured, so that the hours are of no use.
        read: Tokens per second while Statistics are counted.
        scored: Requests per second of XNLI's length.
        written: Tokens per second that are generated under an override, in a batch.
        cell: Seconds that one cell takes beside its documents.
        trained: Tokens per second of a fine-tuning, by the first word of the fine-tuner and quantisation.
    """

    device: str
    rehearsal: bool
    read: float | None
    scored: float | None
    written: float | None
    cell: float | None
    trained: Mapping[tuple[str, bool], float | None]
    model: str = "an 8B model"

    @classmethod
    def probed(cls, size: ModelSize, model: str, loading: LoadedAs) -> Rates:
        """Return the rates of a model on this machine, from products of matrices of its shape."""
        speed = probe_shape(size, loading)
        read, scored = _XNLI
        return cls(
            device=f"this machine ({Room.here(loading.device).device}; from a probe)",
            rehearsal=False,
            read=1 / speed.read,
            scored=1 / (read * speed.read + scored * speed.scored),
            written=1 / (speed.read + speed.scored),
            cell=_CELL,
            trained={
                (finetuner, quantised): 1 / (BACKWARD * speed.read)
                for finetuner in _FINETUNERS
                for quantised in (False, True)
            },
            model=model,
        )

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Rates:
        """Return the rates in the figures of ``make gpu``.

        Raises:
            LnbenchError: it is no such content.
        """

        def figure(part: str, name: str) -> float | None:
            value = content["parts"].get(part, {}).get("figures", {}).get(name)
            return None if value is None else float(value)

        try:
            trained = {
                (finetuner, quantised): figure("training_nf4" if quantised else "training", f"{finetuner}_tokens_per_s")
                for finetuner in _FINETUNERS
                for quantised in (False, True)
            }
            return cls(
                device=str(content["device"]["device"]),
                rehearsal=bool(content["rehearsal"]),
                read=figure("statistics", "tokens_per_s"),
                scored=figure("scoring", "requests_per_s"),
                written=figure("override", "decoding_tokens_per_s"),
                cell=figure("cell", "overridden_s"),
                trained=trained,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise LnbenchError(f"no figures of make gpu: {error!r} is missing or of another form") from error

    @classmethod
    def load(cls, path: str | Path | None = None) -> Rates | None:
        """Return the rates in a file; without one, those in the cache, or None if nothing was measured.

        Raises:
            LnbenchError: the file named cannot be read.
        """
        kept = cache_dir() / FILE
        if path is None and not kept.exists():
            return None
        return cls.of(read_json(path or kept))

    @property
    def where(self) -> str:
        """The device, for a sentence."""
        return f"{self.device} (a rehearsal with a tiny model: of no use)" if self.rehearsal else self.device

    def statistics_hours(self, tokens: float) -> float | None:
        """Return the hours that Statistics over so many tokens take."""
        return None if not self.read else tokens / self.read / 3600

    def sentences(self, tokens: Sequence[int], languages: int) -> list[str]:
        """Return one sentence per number of tokens per language, on Statistics of so many languages."""
        hours = {count: _hours(self.statistics_hours(count * languages)) for count in tokens}
        return [
            f"Statistics of {count:,} tokens in each of {languages} languages: {took} on {self.where}"
            for count, took in hours.items()
        ]

    def of_step(self, step: PlannedStep) -> float | None:
        """Return the hours that one step takes; None where a speed was not measured. Selecting neurons takes none."""
        settings = step.at.settings
        if step.kind in ("statistics", "matrix"):
            return self.statistics_hours(step.tokens)
        if step.kind == "adapter" and step.adapter is not None:
            job = step.adapter.training.job
            training = job.training
            examples = training.examples or _EXAMPLES[step.adapter.task]
            read = total_steps(examples, training) * training.batch_size * training.max_length
            rate = self.trained.get((job.finetuner.partition(":")[0], settings.quantize != "none"))
            return None if not rate else read / rate / 3600
        if step.kind == "sweep" and step.task is not None:
            documents = min(getattr(settings, step.task).limit or _DOCUMENTS[step.task], _DOCUMENTS[step.task])
            if not self.scored or not self.written or self.cell is None:
                return None
            of_cell = documents / self.scored + documents * _WRITTEN[step.task] / self.written + self.cell
            return len(step.commands()) * of_cell / 3600
        return 0.0


def estimate(steps: Sequence[PlannedStep], rates: Rates) -> list[str]:
    """Return lines on how long steps take at ``rates``, by kind of step and in all.

    Args:
        steps: What is to be done; what is done already is counted too.
        rates: Of the device and the model.
    """
    hours: dict[str, list[float | None]] = defaultdict(list)
    for step in steps:
        hours[step.kind].append(rates.of_step(step))
    totals = {kind: _total(of_kind) for kind, of_kind in hours.items()}
    parts = ", ".join(f"{kind} {_hours(total)}" for kind, total in totals.items() if total != 0)
    return [f"about {_hours(_total(list(totals.values())))} on {rates.where}, of {rates.model}: {parts}"]


def on_this_machine(plan: Plan, *, dry_run: bool = True) -> list[str]:
    """Return lines on how long a plan takes here, model by model, from probes; nothing is loaded.

    Args:
        plan: What is to be done.
        dry_run: Where something cannot fit, a line says so; else that is an error, and a minute is no line.

    Raises:
        LnbenchError: Statistics of a model cannot be counted here, see :func:`lnbench.estimates.check`.
    """
    lines = []
    for model, steps in _by_model(plan).items():
        at = steps[0].at
        counted = {language for step in steps if step.kind == "statistics" for language in step.languages}
        rows = at.settings.reading.batch_size or 1
        work = Work(f"reproducing with {model}", length=at.settings.length, rows=rows, counted=len(counted))
        try:
            size = check(model, at.options, work, at.folder, names=_NAMES)
        except LnbenchError as error:
            if not dry_run:
                raise
            lines.append(f"does not fit: {error}")
            continue
        if size is None and dry_run:
            lines.append(f"how long is not known: {model} is not on this machine yet; see --speeds")
        if size is None:
            continue
        rates = Rates.probed(size, Path(model).name, LoadedAs.of(at.options))
        if dry_run or (_total([rates.of_step(step) for step in steps]) or math.inf) * 3600 > SHORT:
            lines += estimate(steps, rates)
    return lines


def _by_model(plan: Plan) -> dict[str, list[PlannedStep]]:
    models: dict[str, list[PlannedStep]] = defaultdict(list)
    for step in plan.steps:
        models[step.at.model].append(step)
    return models


def _total(hours: Sequence[float | None]) -> float | None:
    known = [each for each in hours if each is not None]
    return sum(known) if len(known) == len(hours) else None


def _hours(hours: float | None) -> str:
    if hours is None:
        return "an unknown time (not measured)"
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:.0f} min"
