"""Specs → steps: what has to be done for tables and figures, each thing once, however many of them need it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from typing import Any

from lnbench.errors import LnbenchError
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import FILE, PerplexityMatrix
from lnbench.reproduce import catalogue
from lnbench.reproduce.catalogue import ActivationsSpec, CellsSpec, ComparisonSpec, FigureSpec, Spec
from lnbench.reproduce.request import ALL, ReproductionRequest
from lnbench.reproduce.scale_settings import PRESETS, Preset, ReproductionSettings, read_settings
from lnbench.reproduce.steps import (
    KINDS,
    Adapter,
    Kind,
    Step,
    count_statistics,
    measure_cells,
    measure_matrix,
    select_neurons,
    train_adapter,
)
from lnbench.reproduce.workspace import Workspace, find_corpus, find_selections
from lnbench.tables.words import counted


@dataclass(frozen=True)
class CellsRow:
    """One row of a table of cells: whose neurons, how the model was fine-tuned, and which language is measured."""

    at: Workspace
    spec: CellsSpec
    selector: str
    selection: str
    """What the neurons are from."""
    adapter: Adapter
    label: str
    """The fine-tuning as the spec names it, with ``{lang}``."""
    language: str


@dataclass(frozen=True)
class PlannedPart:
    """What one table or figure needs of one model under one preset."""

    at: Workspace
    spec: Spec
    steps: tuple[Step, ...]

    def of(self, kind: Kind) -> list[Step]:
        """Return its steps of one kind."""
        return [step for step in self.steps if step.kind == kind]

    @property
    def rows(self) -> list[CellsRow]:
        """The rows of a table of cells; none of another table or figure."""
        return list(rows_of(self.at, self.spec)) if isinstance(self.spec, CellsSpec) else []

    @property
    def neurons(self) -> dict[str, NeuronSet]:
        """The neurons that were selected, by selection."""
        return {step.out.stem: NeuronSet.load(step.out) for step in self.of("neurons")}

    @property
    def matrices(self) -> list[PerplexityMatrix]:
        """The perplexity matrices that were measured."""
        return [PerplexityMatrix.load(step.out / FILE) for step in self.of("matrix")]


@dataclass(frozen=True)
class PlannedItem:
    """One table or figure, and its parts: one per model and, of a comparison, preset and table."""

    name: str
    spec: Spec
    parts: tuple[PlannedPart, ...]

    @property
    def steps(self) -> list[Step]:
        """Its steps, each once, those first that others need."""
        return merged(step for part in self.parts for step in part.steps)


@dataclass(frozen=True)
class Plan:
    """Everything that is to be done."""

    request: ReproductionRequest
    settings: ReproductionSettings
    corpus: str
    items: tuple[PlannedItem, ...]

    @property
    def steps(self) -> list[Step]:
        """All steps, each once, those first that others need."""
        return merged(step for item in self.items for step in item.steps)

    def amount(self) -> str:
        """Return one line on how much work this is: what can be counted without reading text or models."""
        of = {kind: [step for step in self.steps if step.kind == kind] for kind in KINDS}
        cells = {command for step in of["sweep"] for command in step.commands()}
        tokens = sum(step.at.settings.tokens * len(step.languages) for step in of["statistics"])
        trained, matrices = len(of["adapter"]), len(of["matrix"])
        return (
            f"{counted(len(cells), 'distinct cell')}, {counted(trained, 'fine-tuning')}, "
            f"{counted(matrices, 'perplexity matrix', 'perplexity matrices')}; Statistics of up to {tokens:,} tokens"
        )


def plan(request: ReproductionRequest) -> Plan:
    """Return what a request needs. Neither models nor text are read.

    Raises:
        LnbenchError: an unknown name, language or setting; text that is missing.
    """
    planner = _Planner(request)
    wanted = [name for given in request.names for name in (catalogue.specs() if given == ALL else [given])]
    specs = {name: catalogue.spec(name) for name in wanted}
    items = [PlannedItem(name, spec, tuple(planner.parts(name, spec))) for name, spec in specs.items()]
    return Plan(request, planner.settings[request.preset], planner.corpus, tuple(items))


class _Planner:
    """Specs → parts, in the workspaces of one request."""

    def __init__(self, request: ReproductionRequest) -> None:
        self._request = request
        self.settings = {preset: read_settings(request.scale, preset, request.replaced) for preset in PRESETS}
        self.corpus = find_corpus(self.settings[request.preset])
        self._selections = find_selections(self.corpus, request.languages)

    def parts(self, name: str, spec: Spec, preset: Preset | None = None) -> Iterator[PlannedPart]:
        if isinstance(spec, ComparisonSpec):
            for table in self._request.tables or spec.tables:
                compared = catalogue.spec(table)
                if not isinstance(compared, CellsSpec):
                    raise LnbenchError(f"{name} compares tables 1 to 5, 7 and 8, of lm-eval cells; not {table}")
                for each in PRESETS:
                    yield from self.parts(table, compared, each)
            return
        for at in self._workspaces(spec, preset or self._request.preset):
            if not (steps := merged(_steps(at, spec))):
                raise LnbenchError(f"{name}: none of its languages is left; name some of them in --languages")
            yield PlannedPart(at, spec, tuple(steps))

    def _workspaces(self, spec: Spec, preset: Preset) -> Iterator[Workspace]:
        pretrained = {key: catalogue.models()[key].pretrained for key in spec.models}
        if (model := self._request.model) is not None:
            name = Path(model).name.casefold()
            same = [key for key, hub_name in pretrained.items() if Path(hub_name).name.casefold() == name]
            pretrained = {(same or spec.models)[0]: model}
        suffix = "" if preset == "corrected" else f"-{preset}"
        for beside, model in pretrained.items():
            folder = self._request.folder / f"{Path(model).name}{suffix}"
            yield Workspace(folder, model, beside, preset, self.settings[preset], self.corpus, self._selections)


def _steps(at: Workspace, spec: Spec) -> Iterator[Step]:
    """Yield the steps of one spec on one model, each after those that it needs."""
    if isinstance(spec, CellsSpec):
        yield from _sweeps(at, spec)
    elif isinstance(spec, ActivationsSpec):
        known = {language for selection in at.selections.values() for language in selection.languages}
        if languages := tuple(language for language in spec.languages if language in known):
            yield count_statistics(at, languages)
    elif isinstance(spec, FigureSpec):
        for name in spec.selections:
            yield from _selected(at, at.own_selection(name))
            if spec.intervention:
                yield measure_matrix(at, at.own_selection(name), spec.intervention)


def _selected(at: Workspace, selection: str) -> Iterator[Step]:
    yield count_statistics(at, at.selections[selection].languages)
    yield select_neurons(at, selection)


def rows_of(at: Workspace, spec: CellsSpec) -> Iterator[CellsRow]:
    """Yield the rows of a table on one model, in the paper's order."""
    for selector, language in product(spec.selectors, spec.languages):
        if (selection := at.serving(selector, language)) is None:
            continue
        for label, how in spec.finetune.items():
            adapter = Adapter(at, spec.task, label, how.finetuner)
            if how.languages is not None:
                name, trained = (text.replace("{lang}", language) for text in (label, how.languages))
                adapter = Adapter(at, spec.task, name, how.finetuner, trained, selection)
            yield CellsRow(at, spec, selector, selection, adapter, label, language)


def _sweeps(at: Workspace, spec: CellsSpec) -> Iterator[Step]:
    """Yield a table's sweeps after what they need; languages that share adapters and neurons are measured together."""
    selections: dict[tuple[str, tuple[Adapter, ...]], list[str]] = {}
    for (language, selection), rows in groupby(rows_of(at, spec), lambda row: (row.language, row.selection)):
        selections.setdefault((language, tuple(row.adapter for row in rows)), []).append(selection)
    languages: dict[tuple[tuple[Adapter, ...], tuple[str, ...]], list[str]] = {}
    for (language, adapters), chosen in selections.items():
        languages.setdefault((adapters, tuple(chosen)), []).append(language)
    for (adapters, names), measured in languages.items():
        for adapter in adapters:
            yield from _selected(at, adapter.selection) if adapter.selection else ()
            yield train_adapter(adapter)
        for number, interventions in enumerate(spec.interventions):
            fields: dict[str, Any] = {"languages": measured, "interventions": interventions}
            if interventions != ["none"]:
                yield from (step for name in names for step in _selected(at, name))
                neurons = [str(at.neurons(name)) for name in names]
                fields |= {"neurons": neurons, "statistics": str(at.statistics), "controls": at.settings.controls}
            parts = [spec.task, spec.folder, "+".join(names), "+".join(measured)]
            sweep = "-".join(parts if number == 0 else [*parts, "+".join(interventions)])
            yield measure_cells(at, sweep, spec.task, adapters, fields)


def merged(steps: Iterable[Step]) -> list[Step]:
    """Return steps once each, one kind after the other; what is counted into one folder, together."""
    by_folder: dict[Path, Step] = {}
    for step in steps:
        before = by_folder.get(step.out)
        if step.kind == "statistics" and before is not None:
            step = count_statistics(step.at, tuple(dict.fromkeys(before.languages + step.languages)))
        by_folder[step.out] = step
    return sorted(by_folder.values(), key=lambda step: KINDS.index(step.kind))
