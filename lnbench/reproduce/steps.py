"""The steps of a reproduction as data: what each writes, the commands that do the same by hand, and how to run it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

from lnbench import content_hash
from lnbench.errors import LnbenchError
from lnbench.finetuning.job import FinetuneJob
from lnbench.finetuning.presets import TrainingSettings
from lnbench.hookspecs import Executor
from lnbench.lm.arguments import format_model_args, shell_line
from lnbench.perplexity.request import PerplexityRequest
from lnbench.reproduce.scale_settings import ReproductionSettings, TaskSettings
from lnbench.reproduce.workspace import Workspace
from lnbench.sweeps.cells import Loading
from lnbench.sweeps.cells import plan as plan_cells
from lnbench.sweeps.jobs import Job
from lnbench.sweeps.model_variants import Training
from lnbench.sweeps.run_sweep import run as run_sweep
from lnbench.sweeps.spec import Sweep, parse

StepKind = Literal["statistics", "neurons", "adapter", "sweep", "matrix"]
KINDS: tuple[StepKind, ...] = get_args(StepKind)
"""In the order in which they need each other."""
_TASKS = {"xnli": "lnbench_xnli_pair_{lang}", "xquad": "lnbench_xquad_pair_{lang}"}
"""One prompt in every language, as the model is trained in one; XNLI is answered by a head, from the pair alone."""
_DATA = {"plain": "xquad_pair", "english": "xquad_pair_english"}
"""Frame of XQuAD's prompt → what is trained on."""


@dataclass(frozen=True)
class PlannedStep:
    """One piece of work."""

    kind: StepKind
    at: Workspace
    out: Path
    """What it writes, by which a step is known."""
    doing: str
    """What it does, for the reader of a terminal."""
    commands: Callable[[], list[str]]
    """Return the commands that do the same by hand."""
    run: Callable[[Executor, Console], object]
    """Do what is not done yet."""
    languages: tuple[str, ...] = ()
    """Those whose text it reads, or compares."""
    adapter: Adapter | None = None
    """The fine-tuning, of that kind."""
    task: str | None = None
    """The task that a sweep measures: xnli or xquad."""
    tokens: int = 0
    """Tokens that Statistics or a matrix read in all."""
    cells: int = 0
    """Those of a matrix."""


def count_statistics(at: Workspace, languages: tuple[str, ...]) -> PlannedStep:
    """Return the step that counts Statistics of some languages."""
    settings, site = at.settings, at.settings.select_site
    text = {"corpus": at.corpus, "tokens": settings.tokens, "length": settings.length, **settings.reading.model_dump()}
    levels = text.pop("batch_levels")
    named = {"model": at.model, "model_args": format_model_args(at.options), "languages": "+".join(languages)}
    command = lnbench_command("stats", **named, **text, batch_level=list(levels), site=site, out=at.statistics)

    def run(_: Executor, console: Console) -> None:
        from lnbench.lm import LNBenchLM
        from lnbench.statistics.corpus_statistics import Reading
        from lnbench.statistics.statistics_folder import collect_folder

        lm = LNBenchLM(at.model, **at.options)
        texts = dict.fromkeys(languages, Reading(**text, batch_levels=levels))
        collect_folder(lm.model, lm.tokenizer, at.statistics, texts, site=site, say=_printing_to(console))
        del lm
        gc.collect()

    doing = f"Reading {settings.tokens:,} tokens of text in each of {', '.join(languages)}: {at.folder.name}"
    tokens = settings.tokens * len(languages)
    return PlannedStep("statistics", at, at.statistics, doing, lambda: [command], run, languages, tokens=tokens)


def select_neurons(at: Workspace, selection: str) -> PlannedStep:
    """Return the step that selects the neurons of one selection, from the Statistics as they are then."""
    languages, site, out = at.selections[selection].languages, at.settings.select_site, at.neurons(selection)
    selector = at.settings.selectors[at.selections[selection].selector]
    command = lnbench_command(
        "select", selector, statistics=at.statistics, languages="+".join(languages), site=site, out=out
    )

    def run(_: Executor, console: Console) -> None:
        from lnbench.choices import select
        from lnbench.statistics import Statistics

        statistics = {language: Statistics.load(at.statistics, language).at(site) for language in languages}
        neurons = select(selector, statistics)
        neurons.save(out)
        counts = ", ".join(f"{language} {neurons.count(language):,}" for language in neurons.languages)
        _printing_to(console)(f"{selection}: {counts}")

    doing = f"Selecting neurons by {selector} over {', '.join(languages)}: {at.folder.name}"
    return PlannedStep("neurons", at, out, doing, lambda: [command], run, languages)


@dataclass(frozen=True)
class Adapter:
    """One fine-tuning on English."""

    at: Workspace
    task: str
    label: str
    """What tables call it."""
    finetuner: str
    languages: str | None = None
    """Whose neurons are trained, if not the attention."""
    selection: str | None = None
    """What those are from."""

    @property
    def out(self) -> Path:
        """Its folder."""
        parts = (self.task, self.selection, self.languages or self.label)
        return self.at.folder / "adapters" / "-".join(filter(None, parts))

    @property
    def name(self) -> str:
        """What records call it."""
        return self.label.replace("+", "-")

    @property
    def training(self) -> Training:
        """The fine-tuning for an executor, and the model with the adapter, which need not be there yet."""
        settings = self.at.settings
        choices: dict[str, Any]
        if self.task == "xnli":
            choices, data, finetuner = {"pooling": settings.pooling}, None, self.finetuner
        else:
            choices, data = {"loss": settings.xquad_loss}, _DATA[settings.xquad_frame]
            finetuner = self.finetuner + ("" if settings.xquad_output_projection else ":output_projection=false")
        defaults = TrainingSettings()
        choices = {name: value for name, value in choices.items() if value != getattr(defaults, name)}
        job = FinetuneJob(
            finetuner=finetuner,
            data=data,
            languages=self.languages,
            model=self.at.model,
            model_args=settings.model_args,
            quantize=settings.quantize,
            preset=f"{self.task}-paper",
            settings={**choices, **getattr(settings, self.task).settings},
            out=self.out,
            neurons=None if self.selection is None else str(self.at.neurons(self.selection)),
        )
        head = str(self.out) if job.training.answer == "head" else None
        return Training(job, Loading(self.at.model, self.at.options, self.name, str(self.out), head))


def train_adapter(adapter: Adapter) -> PlannedStep:
    """Return the step that trains an adapter."""
    doing = f"Fine-tuning {adapter.out.name}: {adapter.at.folder.name}"
    run = partial(train_adapters, [adapter])
    return PlannedStep(
        "adapter", adapter.at, adapter.out, doing, lambda: [adapter.training.command], run, adapter=adapter
    )


def train_adapters(adapters: Sequence[Adapter], executor: Executor, console: Console) -> None:
    """Train what is not trained yet.

    Raises:
        LnbenchError: a fine-tuning failed, or ended elsewhere than planned.
    """
    for job, folder in executor.run([Job("train", adapter.training, adapter.out) for adapter in adapters]):
        if isinstance(folder, Exception):
            raise LnbenchError(f"fine-tuning {job.out.name} failed: {folder}") from folder
        _printing_to(console)(f"fine-tuned: {folder}")


def measure_cells(
    at: Workspace, name: str, task: str, adapters: Sequence[Adapter], fields: Mapping[str, Any]
) -> PlannedStep:
    """Return the step that measures a sweep over adapters that were trained before, with its languages and neurons."""
    how: TaskSettings = getattr(at.settings, task)
    out = at.folder / "sweeps" / name

    def sweep() -> Sweep:
        content = {
            "models": [{"pretrained": at.model, **at.options}],
            "base": False,
            "adapters": {adapter.name: str(adapter.out) for adapter in adapters},
            "selectors": [],
            "tasks": [_TASKS[task]],
            "site": at.settings.site,
            "batch_size": at.settings.batch_size,
            "metadata": _metadata(at.settings) if task == "xquad" else {},
        }
        return parse({**fields, **content, "limit": how.limit, "gen_kwargs": how.gen_kwargs}, name)

    def commands() -> list[str]:
        with content_hash.planning():
            cells = plan_cells(sweep(), [adapter.training.loading for adapter in adapters])
        return [cell.command for cell in cells]

    def run(executor: Executor, console: Console) -> None:
        run_sweep(sweep(), out, executor, console)

    return PlannedStep(
        "sweep", at, out, f"Measuring {name}: {at.folder.name}", commands, run, tuple(fields["languages"]), task=task
    )


def _metadata(settings: ReproductionSettings) -> dict[str, Any]:
    """Return XQuAD's metadata: the questions that training leaves over, in its prompt."""
    end = {"xquad_end_token": True} if settings.xquad_end_token else {}
    return {"xquad_part": "last20", "xquad_frame": settings.xquad_frame, **end}


def measure_matrix(at: Workspace, selection: str, intervention: str) -> PlannedStep:
    """Return the step that measures one matrix of perplexity changes."""
    languages = at.selections[selection].languages
    out = at.folder / "perplexity" / f"{selection}-{intervention}"
    request = PerplexityRequest(
        model=at.model,
        model_args=at.options,
        neurons=str(at.neurons(selection)),
        statistics=str(at.statistics),
        corpus=at.corpus,
        languages=languages,
        intervention=intervention,
        site=at.settings.site,
        bos=at.settings.reading.bos,
        labels=at.settings.labels,
        **at.settings.ppl.model_dump(),
        kl_tokens=0,
    )

    def run(_: Executor, _console: Console) -> None:
        from lnbench.perplexity.run_matrix import run

        run(request, out)

    doing = f"Reading text with {selection} neurons under {intervention}: {at.folder.name}"
    command = f"{request.command} --out {shell_line([str(out)])}"
    cells = len(languages) ** 2
    tokens = request.tokens * (len(languages) + (1 + request.controls) * cells)
    return PlannedStep("matrix", at, out, doing, lambda: [command], run, languages, tokens=tokens, cells=cells)


def lnbench_command(*words: str, **options: object) -> str:
    """Return a command of lnbench; an option without a value is left out, one with several is repeated."""
    parts = ["lnbench", *words]
    for name, value in options.items():
        values = value if isinstance(value, list) else [] if value in ("", None) else [value]
        parts += [word for text in map(str, values) for word in (f"--{name.replace('_', '-')}", text)]
    return shell_line(parts)


def _printing_to(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, highlight=False, markup=False)
