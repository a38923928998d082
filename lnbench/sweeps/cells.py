"""Spec → cells: what each lm-eval invocation of a sweep is given, and the key that tells it from all others."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lnbench import content_hash, task_data
from lnbench.corpora.corpus import fingerprint as text_fingerprint
from lnbench.corpora.patterns import choose_languages, is_hub
from lnbench.errors import LnbenchError, unknown
from lnbench.files import fingerprint, tasks_dir
from lnbench.formats import slug
from lnbench.host import changes_nothing, get_host
from lnbench.lm.arguments import format_model_args
from lnbench.settings import Positions, StatisticsSource, given
from lnbench.statistics import store
from lnbench.sweeps.records import BASELINE, NOT_SPECIFIC
from lnbench.sweeps.spec import Sweep

_OURS = "lnbench_"
_NOT_KEYED = ("batch_size", "device", "include_path")
"""Options that change no more than the last digits; and where tasks are, which count by what they hold."""
_NOT_SETUP = (*_NOT_KEYED, "limit")
"""And which documents are measured, as documents are compared one by one."""


@dataclass(frozen=True)
class Loading:
    """What is loaded: cells with the same are run on one loaded model."""

    model: str
    options: Mapping[str, Any]
    """Further arguments of lm-eval's ``hf``."""
    finetune: str = BASELINE
    adapter: str | None = None
    head: str | None = None
    content: Any = None
    """What a cell's key holds in place of the weights."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that decide what is loaded."""
        return {"pretrained": self.model, **self.options, **({"peft": self.adapter} if self.adapter else {})}


@dataclass(frozen=True)
class Invocation:
    """The options of lm-eval that all cells of a sweep share."""

    limit: float | None
    num_fewshot: int | None
    apply_chat_template: bool | str
    system_instruction: str | None
    gen_kwargs: Mapping[str, Any]
    metadata: Mapping[str, Any]
    include_path: str | None
    batch_size: int | str
    device: str | None

    @classmethod
    def of(cls, spec: Sweep) -> Invocation:
        """Return the part of a spec that is handed to lm-eval as it is."""
        given = {name: getattr(spec, name) for name in cls.__dataclass_fields__}
        # lm-eval takes a float below 1 for a share.
        whole = spec.limit is not None and spec.limit >= 1
        return cls(**{**given, "limit": int(spec.limit or 0) if whole else spec.limit})

    def folder_of(self, task: str) -> str | None:
        """Return where a task's YAML is looked for, beside lm-eval's own; if both have the name, the user's wins."""
        if not task.startswith(_OURS) or (self.include_path and task in _tasks_in(self.include_path)):
            return self.include_path
        return str(tasks_dir())

    @property
    def setup(self) -> dict[str, Any]:
        """The options that change the numbers of the same documents."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _NOT_SETUP}

    def words(self, seed: int | None) -> Iterator[str]:
        """Yield the options on lm_eval's command line."""
        named: dict[str, Any] = {
            "--num_fewshot": self.num_fewshot,
            "--limit": self.limit,
            "--seed": seed,
            "--batch_size": self.batch_size,
            "--device": self.device,
            "--system_instruction": self.system_instruction,
            "--gen_kwargs": format_model_args(self.gen_kwargs) or None,
            "--metadata": format_model_args(self.metadata) or None,
        }
        for option, value in named.items():
            if value is not None:
                yield from (option, str(value))
        if self.apply_chat_template:
            yield "--apply_chat_template"
            yield from [] if self.apply_chat_template is True else [self.apply_chat_template]


@dataclass(frozen=True)
class Cell:
    """One lm-eval invocation, and under which names its results are recorded."""

    loading: Loading
    arguments: Mapping[str, Any]
    """The lnbench part of ``--model_args``."""
    invocation: Invocation
    task: str
    languages: tuple[str, ...]
    """Several where nothing tells them apart: the same task without intervention is run once."""
    intervention: str
    selector: str = NOT_SPECIFIC
    control_of: str | None = None
    control_seed: int | None = None
    seed: int | None = None
    content: Any = field(default=None, repr=False)
    """What the neurons and Statistics are made from, for the key."""
    override_setup: str | None = None
    """Fingerprint of all that an override and its controls have in common."""
    key: str = ""
    """16 hexadecimal digits of all that the numbers depend on, as it was when the sweep was planned."""
    deaths: int = 0
    """How many processes in a row ended in the middle of it."""

    @property
    def model_args(self) -> dict[str, Any]:
        """All of ``--model_args``."""
        return {**self.loading.arguments, **self.arguments}

    @property
    def setup(self) -> str:
        """Fingerprint of how the model was loaded and asked, which a cell and its baseline have in common."""
        return fingerprint([self.loading.options, self.invocation.setup])

    @property
    def command(self) -> str:
        """The shell command that gives the same numbers by hand, without an output path."""
        folder = self.invocation.folder_of(self.task)
        words = ["lm_eval", "--model", "lnbench", "--model_args", format_model_args(self.model_args)]
        words += ["--include_path", folder] if folder else []
        words += ["--tasks", self.task, *self.invocation.words(self.seed)]
        return shlex.join(words)

    @property
    def slug(self) -> str:
        """The name of the cell's folder."""
        parts = [self.loading.finetune] if self.loading.adapter else []
        parts += ["+".join(self.languages), self.task, self.selector, self.intervention]
        readable = "-".join(slug(part.rpartition("/")[2]).strip("_") for part in parts if part != "-")
        return f"{readable[:120]}-{self.key[:8]}"


def plan(spec: Sweep, loadings: list[Loading]) -> list[Cell]:
    """Return the cells of a spec, each once, in an order in which nothing is loaded twice.

    Args:
        spec: The spec.
        loadings: What is measured: models, without and with adapters.

    Raises:
        LnbenchError: an unknown selector, intervention or language; a file that is missing.
    """
    invocation = Invocation.of(spec)
    neurons = list(_neurons(spec))
    cells: dict[str, Cell] = {}
    for loading in loadings:
        seeds: list[int | None] = [*spec.seeds] or [None]
        for seed in seeds:
            blank = Cell(loading, {}, invocation, "", (), BASELINE, seed=seed)
            for cell in _of_loading(spec, blank, neurons):
                key = _key(cell)
                cells.setdefault(key, replace(cell, key=key))
    return list(cells.values())


def _key(cell: Cell) -> str:
    invocation = {name: value for name, value in asdict(cell.invocation).items() if name not in _NOT_KEYED}
    folder = cell.invocation.folder_of(cell.task)
    loading = cell.loading
    held = [loading.content, loading.options, cell.content, content_hash.of_folder(folder) if folder else None]
    if folder == str(tasks_dir()):
        held.append(task_data.content_of(cell.task.removeprefix(_OURS), cell.invocation.metadata.get("lnbench_data")))
    # Names that stand in the records count too, or a record would go by a name that is not in the spec. Without
    # intervention, a language that is added is measured already.
    languages = () if changes_nothing(cell.intervention) else cell.languages
    named = [loading.model, loading.finetune, cell.task, languages, cell.intervention, cell.selector]
    return fingerprint([held, named, invocation, cell.control_seed, cell.seed])


@dataclass(frozen=True)
class _Neurons:
    """Whose effect is measured: a selector's or a file's neurons, or random ones."""

    selector: str
    arguments: Mapping[str, Any]
    content: Any
    shared: Any
    """What its controls, too, are made from."""
    control_of: str | None = None
    control_seed: int | None = None


def _of_loading(spec: Sweep, blank: Cell, neurons: list[_Neurons]) -> Iterator[Cell]:
    tasks: dict[str, list[str]] = {}
    for language in spec.languages:
        for task in spec.tasks:
            name = task[language] if isinstance(task, dict) else task.replace("{lang}", language)
            tasks.setdefault(name, []).append(language)
    head = {"head": blank.loading.head} if blank.loading.head else {}
    shared = given(spec, StatisticsSource) | given(spec, Positions)
    for task, languages in tasks.items():
        if unchanged := [choice for choice in spec.interventions if changes_nothing(choice)]:
            arguments = {"intervention": unchanged[0], **head}
            yield replace(blank, task=task, languages=tuple(languages), arguments=arguments)
        for language in languages:
            for chosen in neurons:
                for choice in spec.changing:
                    intervention = get_host().format("intervention", choice)
                    arguments = {"intervention": intervention, **chosen.arguments, **shared, **head}
                    yield replace(
                        blank,
                        task=task,
                        languages=(language,),
                        arguments={**arguments, "language": language},
                        intervention=intervention,
                        selector=chosen.selector,
                        control_of=chosen.control_of,
                        control_seed=chosen.control_seed,
                        content=[chosen.content, spec.site, spec.positions, *_files("intervention", choice)],
                        override_setup=fingerprint([chosen.shared, spec.site, spec.positions]),
                    )


def _neurons(spec: Sweep) -> Iterator[_Neurons]:
    """Yield the selectors and files of a spec, each followed by its controls."""
    if not spec.changing:
        return
    compared = _compared(spec)
    read = _read(spec, compared)
    languages = {"languages": "+".join(compared)}
    for choice in spec.selectors:
        name, canonical = get_host().format("selector", choice), get_host().canonical("selector", choice)
        content = [canonical, read, *_files("selector", choice)]
        yield _Neurons(name, {"selector": name, **languages}, content, content)
        yield from _controls(spec, name, languages, content, content)
    for file in spec.neurons:
        content, held = [content_hash.of_file(file), read], content_hash.of_file(file)
        yield _Neurons(file, {"neurons": file}, content, held)
        yield from _controls(spec, file, {"languages": "+".join(spec.languages)}, content, held)


def _controls(spec: Sweep, name: str, arguments: Mapping[str, Any], content: Any, shared: Any) -> Iterator[_Neurons]:
    for seed in range(spec.controls):
        if (control := get_host().control_of(name, seed)) is not None:
            drawn = [content, "random", seed]
            yield _Neurons(control, {"selector": control, **arguments}, drawn, shared, name, seed)


def _files(kind: str, choice: str) -> list[tuple[str, str]]:
    """Return the parameters of a choice that name files, and what these hold."""
    given = get_host().canonical(kind, choice)["parameters"]
    named = {name: value for name, value in given.items() if isinstance(value, str) and Path(value).is_file()}
    return [(name, content_hash.of_file(path)) for name, path in sorted(named.items())]


def _compared(spec: Sweep) -> list[str]:
    """Return the languages whose Statistics are read.

    Raises:
        LnbenchError: a language that is measured is not among them, or has no text.
    """
    if spec.statistics is not None:
        found = store.planned_languages(spec.statistics)
        if found is None:
            return list(spec.compare or spec.languages)
        available, where = found, f"the Statistics in {spec.statistics}"
    else:
        hub = spec.languages if is_hub(spec.corpus) else None
        available, where = choose_languages(spec.corpus, spec.compare or hub), "the corpus, or compare,"
    if not spec.selectors:
        return [language for language in spec.languages if language in available]
    compared = spec.compare or available
    if missing := [one for one in [*compared, *spec.languages] if one not in available or one not in compared]:
        raise unknown("language", missing[0], compared, f"{where} lacks it: add it there, or leave it out")
    return list(compared)


def _read(spec: Sweep, compared: list[str]) -> Any:
    """Return what the Statistics are made from."""
    if spec.statistics is not None:
        return [store.content_of(spec.statistics), sorted(compared)]
    texts = [(language, text_fingerprint(spec.corpus, language)) for language in sorted(compared)]
    return [texts, spec.corpus_tokens, spec.corpus_length]


@content_hash.remembered
def _tasks_in(folder: str) -> frozenset[str]:
    """Return the names of the tasks, groups and tags of a folder.

    Raises:
        LnbenchError: it is no folder.
    """
    from lm_eval.tasks import TaskManager

    if not Path(folder).is_dir():
        raise LnbenchError(f"include_path: {folder} is not a folder")
    return frozenset(TaskManager(include_path=folder, include_defaults=False).all_tasks)
