"""The steps of a reproduction: each knows the command that does it by hand, what it writes, and how to do it here."""

from __future__ import annotations

import gc
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lnbench.errors import LnbenchError
from lnbench.reproduce.catalogue import Finetune
from lnbench.reproduce.workspace import Workspace

if TYPE_CHECKING:
    from lnbench.finetuning.job import FinetuneJob
    from lnbench.perplexity.request import Request
    from lnbench.sweeps.cells import Cell, Loading
    from lnbench.sweeps.model_variants import Training
    from lnbench.sweeps.run_sweep import Executor
    from lnbench.sweeps.spec import Sweep

_TASKS = {"xnli": "lnbench_xnli_pair_{lang}", "xquad": "lnbench_xquad_{lang}"}
"""XNLI is answered by a head: from the pair alone, as in the paper."""
_METADATA: dict[str, dict[str, Any]] = {"xnli": {}, "xquad": {"xquad_part": "last20"}}
"""Of XQuAD, the questions that training leaves over."""


@dataclass(frozen=True)
class Collect:
    """Statistics of some languages."""

    at: Workspace
    languages: tuple[str, ...]

    @property
    def out(self) -> Path:
        """What it writes, by which a step is known."""
        return self.at.statistics

    @property
    def doing(self) -> str:
        """What it does, for the reader of a terminal."""
        tokens = f"{self.at.settings.tokens:,} tokens of text in each of {', '.join(self.languages)}"
        return f"Reading {tokens}: {self.at.folder.name}"

    @property
    def commands(self) -> list[str]:
        """What does the same by hand."""
        settings, reading = self.at.settings, self.at.settings.reading
        words = ["lnbench", "stats", *_model(self.at), "--corpus", self.at.corpus]
        words += ["--languages", "+".join(self.languages), "--tokens", str(settings.tokens)]
        words += ["--length", str(settings.length), "--mode", reading.mode, "--skip", str(reading.skip)]
        words += [word for level in reading.batch_levels for word in ("--batch-level", f"{level:g}")]
        return [shlex.join([*words, "--site", settings.select_site, "--out", str(self.out)])]

    def run(self, console: Console) -> None:
        """Read the text that is not read yet."""
        from lnbench.lm import LNBenchLM
        from lnbench.statistics.corpus_statistics import Reading
        from lnbench.statistics.statistics_folder import collect_folder

        settings, how = self.at.settings, self.at.settings.reading
        reading = Reading(
            self.at.corpus,
            settings.tokens,
            length=settings.length,
            mode=how.mode,
            skip=how.skip,
            batch_levels=tuple(how.batch_levels),
        )
        lm = LNBenchLM(self.at.model, **self.at.options)
        readings = dict.fromkeys(self.languages, reading)
        collect_folder(lm.model, lm.tokenizer, self.out, readings, site=settings.select_site, say=_say(console))
        del lm
        gc.collect()


@dataclass(frozen=True)
class Select:
    """The neurons of one selection."""

    at: Workspace
    name: str

    @property
    def out(self) -> Path:
        return self.at.neurons(self.name)

    @property
    def languages(self) -> list[str]:
        """The languages that are compared."""
        return self.at.selections[self.name].languages

    @property
    def selector(self) -> str:
        """The selector with its parameters."""
        return self.at.settings.selectors[self.at.selections[self.name].selector]

    @property
    def doing(self) -> str:
        return f"Selecting neurons by {self.selector} over {', '.join(self.languages)}: {self.at.folder.name}"

    @property
    def commands(self) -> list[str]:
        words = ["lnbench", "select", self.selector, "--statistics", str(self.at.statistics)]
        words += ["--languages", "+".join(self.languages), "--site", self.at.settings.select_site]
        return [shlex.join([*words, "--out", str(self.out)])]

    def run(self, console: Console) -> None:
        """Select them, from the Statistics as they are now."""
        from lnbench.choices import select
        from lnbench.statistics import Statistics

        loaded = {language: Statistics.load(self.at.statistics, language) for language in self.languages}
        found = select(self.selector, {key: one.at(self.at.settings.select_site) for key, one in loaded.items()})
        found.save(self.out)
        counts = ", ".join(f"{language} {found.count(language):,}" for language in found.languages)
        _say(console)(f"{self.name}: {counts}")


@dataclass(frozen=True)
class Train:
    """One fine-tuning on English."""

    at: Workspace
    task: str
    label: str
    how: Finetune
    selection: str | None = None

    @property
    def out(self) -> Path:
        trained = self.how.languages or self.label
        return self.at.folder / "adapters" / "-".join(filter(None, (self.task, self.selection, trained)))

    @property
    def name(self) -> str:
        """As records call it."""
        return self.label.replace("+", "-")

    @property
    def job(self) -> FinetuneJob:
        """The request for the adapter."""
        from lnbench.finetuning.job import FinetuneJob

        settings, task = self.at.settings, getattr(self.at.settings, self.task)
        pooling = {} if settings.pooling == "last" or self.task != "xnli" else {"pooling": settings.pooling}
        neurons = {} if self.selection is None else {"neurons": self.at.neurons(self.selection)}
        return FinetuneJob(
            finetuner=self.how.finetuner,
            languages=self.how.languages,
            model=self.at.model,
            model_args=settings.model_args,
            quantize=settings.quantize,
            preset=f"{self.task}-paper",
            settings={**pooling, **task.settings},
            out=self.out,
            **neurons,
        )

    @property
    def training(self) -> Training:
        """It, for an executor."""
        from lnbench.sweeps.model_variants import Training

        return Training(self.job, self.loading)

    @property
    def loading(self) -> Loading:
        """The model with the adapter, which need not be there yet."""
        from lnbench.sweeps.cells import Loading

        head = str(self.out) if self.job.training.answer == "head" else None
        return Loading(self.at.model, self.at.options, self.name, str(self.out), head)

    @property
    def doing(self) -> str:
        return f"Fine-tuning {self.out.name}: {self.at.folder.name}"

    @property
    def commands(self) -> list[str]:
        return [self.training.command]


@dataclass(frozen=True)
class Measure:
    """One sweep over adapters that were trained before."""

    at: Workspace
    name: str
    task: str
    fields: Mapping[str, Any]
    """Of the sweep, besides what follows from the model and the adapters."""
    adapters: tuple[Train, ...]

    @property
    def out(self) -> Path:
        return self.at.folder / "sweeps" / self.name

    @property
    def spec(self) -> Sweep:
        """The sweep."""
        from lnbench.sweeps.spec import parse

        settings = self.at.settings
        task = getattr(settings, self.task)
        return parse(
            {
                **self.fields,
                "models": [{"pretrained": self.at.model, **self.at.options}],
                "base": False,
                "adapters": {one.name: str(one.out) for one in self.adapters},
                "selectors": [],
                "tasks": [_TASKS[self.task]],
                "site": settings.site,
                "limit": task.limit,
                "batch_size": settings.batch_size,
                "gen_kwargs": task.gen_kwargs,
                "metadata": _METADATA[self.task],
            },
            self.name,
        )

    @property
    def cells(self) -> list[Cell]:
        """Its cells, before anything of what they need is there."""
        from lnbench.content_hash import planning
        from lnbench.sweeps.cells import plan

        with planning():
            return plan(self.spec, [one.loading for one in self.adapters])

    @property
    def doing(self) -> str:
        return f"Measuring {self.name}: {self.at.folder.name}"

    @property
    def commands(self) -> list[str]:
        return [cell.command for cell in self.cells]

    def run(self, executor: Executor, console: Console) -> None:
        """Measure what is not measured yet. Cells that fail are told of in the tables."""
        from lnbench.sweeps.run_sweep import run

        run(self.spec, self.out, executor, console)


@dataclass(frozen=True)
class Perplexity:
    """One matrix of perplexity changes."""

    at: Workspace
    selection: str
    intervention: str

    @property
    def out(self) -> Path:
        return self.at.folder / "perplexity" / f"{self.selection}-{self.intervention}"

    @property
    def request(self) -> Request:
        """What is measured."""
        from lnbench.perplexity.request import Request

        settings = self.at.settings
        return Request(
            model=self.at.model,
            model_args=self.at.options,
            neurons=str(self.at.neurons(self.selection)),
            statistics=str(self.at.statistics),
            corpus=self.at.corpus,
            languages=tuple(self.at.selections[self.selection].languages),
            intervention=self.intervention,
            site=settings.site,
            tokens=settings.ppl.tokens,
            length=settings.ppl.length,
            controls=settings.ppl.controls,
        )

    @property
    def doing(self) -> str:
        return f"Reading text with {self.selection} neurons under {self.intervention}: {self.at.folder.name}"

    @property
    def commands(self) -> list[str]:
        return [f"{self.request.command} --out {shlex.quote(str(self.out))}"]

    def run(self, console: Console) -> None:
        """Measure the rows that are not measured yet."""
        from lnbench.perplexity.run_matrix import run

        run(self.request, self.out)


Step = Collect | Select | Train | Measure | Perplexity


def train(steps: Sequence[Train], executor: Executor, console: Console) -> None:
    """Train what is not trained yet.

    Raises:
        LnbenchError: a fine-tuning failed, or ended elsewhere than planned.
    """
    for training, adapter in executor.train([step.training for step in steps]):
        if isinstance(adapter, Exception):
            raise LnbenchError(f"fine-tuning {training.job.out.name} failed: {adapter}") from adapter
        _say(console)(f"fine-tuned: {adapter}")


def _model(at: Workspace) -> list[str]:
    from lnbench.lm.arguments import format_model_args

    return ["--model", at.model, *(["--model-args", format_model_args(at.options)] if at.options else [])]


def _say(console: Console) -> Any:
    return lambda line: console.print(line, highlight=False, markup=False)
