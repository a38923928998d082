"""Spec → cells: what each lm-eval invocation of a sweep is given, and the key that tells it from all others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lnbench import content_hash, task_data
from lnbench.corpora.corpus import fingerprint as text_fingerprint
from lnbench.corpora.patterns import choose_languages, is_hub
from lnbench.errors import LnbenchError, unknown
from lnbench.files import fingerprint, tasks_dir, versions
from lnbench.formats import slug
from lnbench.host import between_languages, changes_nothing, get_host, whole_site_of
from lnbench.hub_neurons import local_file
from lnbench.language_control.questions import is_of_pairs
from lnbench.lm.arguments import format_model_args, shell_line, without_home
from lnbench.model.names import name_of
from lnbench.settings import Positions, StatisticsSource, given
from lnbench.statistics import store
from lnbench.sweeps.records import BASELINE, NOT_SPECIFIC, Record
from lnbench.sweeps.spec import OURS, Invocation, Sweep
from lnbench.task_files import content_of_data

OUR_TASKS = '"$(lnbench tasks)"'
"""The folder of lnbench's tasks, in a command."""


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
    model_files: str | None = None
    """Fingerprint of the model's files, where it is a local folder."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that decide what is loaded."""
        return {"pretrained": self.model, **self.options, **({"peft": self.adapter} if self.adapter else {})}


@dataclass(frozen=True)
class Cell:
    """One lm-eval invocation, and under which names its results are recorded."""

    loading: Loading
    invocation: Invocation
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The lnbench part of ``--model_args``."""
    task: str = ""
    languages: tuple[str, ...] = ()
    """Several where nothing tells them apart: the same task without intervention is run once."""
    source: str | None = None
    """Of a pair of languages."""
    intervention: str = BASELINE
    selector: str = NOT_SPECIFIC
    control_of: str | None = None
    control_seed: int | None = None
    control_kind: str | None = None
    seed: int | None = None
    content: Any = field(default=None, repr=False)
    """What the neurons and Statistics are made from, for the key."""
    override_setup: str | None = None
    """Fingerprint of all that an override and its controls have in common."""
    key: str = ""
    """16 hexadecimal digits of all that the numbers depend on, as it was when the sweep was planned."""
    crashes: int = 0
    """How many processes in a row ended in the middle of it."""

    @property
    def model_args(self) -> dict[str, Any]:
        """All of ``--model_args``."""
        return {**self.loading.arguments, **self.arguments}

    @property
    def setup(self) -> str:
        """Fingerprint of how the model was loaded and asked, which a cell and its baseline have in common."""
        # Documents are compared one by one, so it does not matter how many there are.
        return fingerprint([self.loading.options, self.invocation.keyed(leave_out="limit")])

    @property
    def command(self) -> str:
        """The shell command that gives the same numbers by hand, without an output path."""
        folder = self.invocation.folder_of(self.task)
        words = ["lm_eval", "--model", "lnbench", "--model_args", format_model_args(self.model_args)]
        options = ["--tasks", self.task, *self.invocation.words(self.seed)]
        # lnbench's own tasks are found on any machine.
        include = (
            ["--include_path", OUR_TASKS if folder == str(tasks_dir()) else shell_line([folder])] if folder else []
        )
        return " ".join([shell_line(words), *include, shell_line(options)])

    @property
    def slug(self) -> str:
        """The name of the cell's folder."""
        parts = [self.loading.finetune] if self.loading.adapter else []
        parts += [
            *([self.source] if self.source else []),
            "+".join(self.languages),
            self.task,
            self.selector,
            self.intervention,
        ]
        readable = "-".join(slug(part.rpartition("/")[2]).strip("_") for part in parts if part != NOT_SPECIFIC)
        return f"{readable[:120]}-{self.key[:8]}"

    @property
    def described(self) -> dict[str, Any]:
        """What its records say of it, whatever came of it."""
        return {
            "cell": self.key,
            "model": name_of(self.loading.model),
            "model_files": self.loading.model_files,
            "adapter": self.loading.adapter and without_home(self.loading.adapter),
            "finetune": self.loading.finetune,
            "source": self.source,
            "selector": without_home(self.selector),
            "control_of": self.control_of and without_home(self.control_of),
            "control_seed": self.control_seed,
            "control_kind": self.control_kind,
            "seed": self.seed or 0,
            "setup": self.setup,
            "override_setup": self.override_setup,
            "intervention": self.intervention,
            "site": self.arguments.get("site", Sweep.model_fields["site"].default) if self.override_setup else None,
            "command": self.command,
            "limit": self.invocation.limit,
            "batch_size": self.invocation.batch_size,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **versions(),
        }

    def failure(self, error: str) -> Record:
        """Return its record where it gave no numbers."""
        about = {"task": self.task, "language": "+".join(self.languages), "status": "failed"}
        return Record.model_validate({**self.described, **about, "error": without_home(error)})


def plan(spec: Sweep, loadings: Sequence[Loading]) -> list[Cell]:
    """Return the cells of a spec, each once, in an order in which nothing is loaded twice.

    Args:
        spec: The spec.
        loadings: What is measured: models, without and with adapters.

    Raises:
        LnbenchError: an unknown selector, intervention or language; a file that is missing.
    """
    blank = Cell(Loading("", {}), Invocation.of(spec))
    overriding = [*_overriding(spec, blank)]
    cells: dict[str, Cell] = {}
    for loading in loadings:
        for seed in (*spec.seeds,) or (None,):
            for cell in _of_loading(spec, replace(blank, loading=loading, seed=seed), overriding):
                key = _key(cell)
                cells.setdefault(key, replace(cell, key=key))
    return list(cells.values())


def _key(cell: Cell) -> str:
    invocation, loading = cell.invocation, cell.loading
    folder = invocation.folder_of(cell.task)
    held = [loading.content, loading.options, cell.content, content_hash.of_folder(folder) if folder else None]
    if folder and folder != str(tasks_dir()) and (read := content_of_data(folder)):
        held.append(read)
    if folder == str(tasks_dir()):
        held.append(task_data.content_of(cell.task.removeprefix(OURS), invocation.metadata.get("lnbench_data")))
    # Names in the records count too, or a record would have a name that is not in the spec. Without intervention, a
    # language that is added is measured already.
    languages = () if changes_nothing(cell.intervention) and not is_of_pairs(cell.task) else cell.languages
    named = [loading.model, loading.finetune, cell.task, languages, cell.intervention, cell.selector]
    named += [] if cell.source is None else [cell.source]
    return fingerprint([held, named, invocation.keyed(), cell.control_seed, cell.seed])


def _of_loading(spec: Sweep, blank: Cell, overriding: Sequence[Cell]) -> Iterator[Cell]:
    tasks: dict[str, list[tuple[str | None, str]]] = {}
    of_a_source = set[str]()
    for source, language in spec.measured:
        for task in spec.tasks:
            name = _task_for(task, source, language)
            tasks.setdefault(name, []).append((source, language))
            if isinstance(task, str) and "{source}" in task:
                of_a_source.add(name)
    shared = {"share_prefix": True} if spec.share_prefix else {}
    scored: dict[str, Any] = {"head": blank.loading.head} if blank.loading.head else shared
    for task, measured in tasks.items():
        languages = list(dict.fromkeys(language for _, language in measured))
        for unchanged in [choice for choice in spec.interventions if changes_nothing(choice)][:1]:
            arguments = {"intervention": unchanged, **scored}
            # Without intervention the target decides nothing but how answers are scored.
            for targets in [(language,) for language in languages] if is_of_pairs(task) else [tuple(languages)]:
                target = {"language": targets[0]} if is_of_pairs(task) else {}
                source = measured[0][0] if task in of_a_source else None
                yield replace(blank, task=task, languages=targets, source=source, arguments=arguments | target)
        for source, language in measured:
            for cell in overriding:
                if source is None and between_languages(cell.intervention):
                    continue
                pair = {"language": language, **({} if source is None else {"source": source})}
                yield replace(
                    cell,
                    loading=blank.loading,
                    seed=blank.seed,
                    task=task,
                    languages=(language,),
                    source=source,
                    arguments={**cell.arguments, **scored, **pair},
                )


def _task_for(task: str | dict[str, str], source: str | None, language: str) -> str:
    """Return the task that measures a language, or a pair.

    Raises:
        LnbenchError: the name has a source, and there is none.
    """
    if isinstance(task, dict):
        return task[language]
    if source is None and "{source}" in task:
        raise LnbenchError(
            f"tasks: {task} has {{source}} in its name, and {language!r} is measured without one; use pairs"
        )
    return task.replace("{lang}", language).replace("{target}", language).replace("{source}", source or "")


def _overriding(spec: Sweep, blank: Cell) -> Iterator[Cell]:
    """Yield a cell without task and model for each intervention, of each of the spec's neurons or of a whole site."""
    of_site: dict[str | None, list[str]] = {}
    for choice in spec.changing:
        of_site.setdefault(whole_site_of(choice), []).append(choice)
    for site, choices in of_site.items():
        own: dict[str, Any] = {"interventions": choices}
        if site is not None:
            # Other units of it there are none, so its controls are other directions.
            by_units = get_host().kind_of_control(spec.control) == "selector"
            own |= {"site": site, "selectors": ["all"], "neurons": []}
            own |= {"control": "random_direction"} if by_units else {}
        yield from _of_interventions(spec.model_copy(update=own), blank)


def _of_interventions(spec: Sweep, blank: Cell) -> Iterator[Cell]:
    """Yield a cell without task and model for each intervention of each of the spec's neurons."""
    shared = given(spec, StatisticsSource) | given(spec, Positions)
    for cell, in_common in _neurons(spec, blank):
        for choice in spec.changing:
            intervention = get_host().format("intervention", choice)
            changed = replace(
                cell,
                arguments={"intervention": intervention, **cell.arguments, **shared},
                intervention=intervention,
                content=[cell.content, spec.site, spec.positions, *_files("intervention", choice)],
                override_setup=fingerprint([in_common, spec.site, spec.positions]),
            )
            yield changed
            yield from _controls_of_intervention(spec, changed)


def _controls_of_intervention(spec: Sweep, cell: Cell) -> Iterator[Cell]:
    """Yield the controls that do something else with the same neurons, where the spec has chosen such a control."""
    for seed in range(spec.controls):
        if get_host().kind_of_control(spec.control) != "intervention":
            return
        if (control := get_host().control_of(cell.intervention, seed, spec.control)) is not None:
            yield replace(
                cell,
                arguments={**cell.arguments, "intervention": control},
                content=[cell.content, spec.control, seed],
                control_of=cell.selector,
                control_seed=seed,
                control_kind=spec.control,
            )


def _neurons(spec: Sweep, blank: Cell) -> Iterator[tuple[Cell, Any]]:
    """Yield the selectors and files of a spec, each followed by its controls, and what these have in common with it."""
    if not spec.changing:
        return
    compared = _compared(spec)
    read = _read(spec, compared)
    chosen: list[tuple[str, dict[str, str], dict[str, str], Any, Any]] = []
    for choice in spec.selectors:
        name, languages = get_host().format("selector", choice), {"languages": "+".join(compared)}
        content = [get_host().canonical("selector", choice), read, *_files("selector", choice)]
        chosen.append((name, {"selector": name, **languages}, languages, content, content))
    for file in spec.neurons:
        held = content_hash.of_file(str(local_file(file)))
        chosen.append((file, {"neurons": file}, {"languages": "+".join(spec.named_languages)}, [held, read], held))
    for name, arguments, of_control, content, in_common in chosen:
        yield replace(blank, selector=name, arguments=arguments, content=content), in_common
        for seed in range(spec.controls):
            if get_host().kind_of_control(spec.control) != "selector":
                break
            if (control := get_host().control_of(name, seed, spec.control)) is not None:
                drawn = replace(blank, selector=control, arguments={"selector": control, **of_control})
                drawn = replace(drawn, control_of=name, control_seed=seed, control_kind=spec.control)
                yield replace(drawn, content=[content, spec.control, seed]), in_common


def _files(kind: str, choice: str) -> list[tuple[str, str]]:
    """Return the parameters of a choice that name files, and what these hold."""
    parameters = get_host().canonical(kind, choice)["parameters"]
    files = {name: value for name, value in parameters.items() if isinstance(value, str) and Path(value).is_file()}
    others = {name: value for name, value in parameters.items() if name not in files}
    held = [(name, content_hash.of_file(path)) for name, path in sorted(files.items())]
    return [*held, *sorted(content_hash.of_settings(others).items())]


def _compared(spec: Sweep) -> list[str]:
    """Return the languages whose Statistics are read.

    Raises:
        LnbenchError: a language that is measured is not among them, or has no text.
    """
    if spec.statistics is not None:
        planned = store.planned_languages(spec.statistics)
        if planned is None:
            return list(spec.compare or spec.named_languages)
        available, where = planned, f"the Statistics in {spec.statistics}"
    else:
        hub = spec.named_languages if is_hub(spec.corpus) else None
        available, where = choose_languages(spec.corpus, spec.compare or hub), "the corpus, or compare,"
    if not spec.selectors:
        return [language for language in spec.named_languages if language in available]
    compared = spec.compare or available
    for language in [*compared, *spec.named_languages]:
        if language not in available or language not in compared:
            raise unknown("language", language, compared, f"{where} lacks it: add it there, or leave it out")
    return list(compared)


def _read(spec: Sweep, compared: list[str]) -> Any:
    """Return what the Statistics are made from."""
    if spec.statistics is not None:
        return [store.content_of(spec.statistics), sorted(compared)]
    texts = [(language, text_fingerprint(spec.corpus, language, spec.text_column)) for language in sorted(compared)]
    return [texts, spec.corpus_tokens, spec.corpus_length]
