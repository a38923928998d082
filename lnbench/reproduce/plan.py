"""Specs → steps: what has to be done for tables and figures, each thing once, however many of them need it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from typing import Any

from lnbench.data_folder import default_corpus
from lnbench.errors import LnbenchError
from lnbench.host import changes_nothing
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import FILE, PerplexityMatrix
from lnbench.reproduce import bench, catalogue
from lnbench.reproduce.catalogue import ActivationsSpec, BenchSpec, CellsSpec, ComparisonSpec, FigureSpec, Spec
from lnbench.reproduce.reproduction_request import ALL, ReproductionRequest
from lnbench.reproduce.scale_settings import PRESETS, Preset, ReproductionSettings, read_settings
from lnbench.reproduce.steps import (
    KINDS,
    Adapter,
    PlannedStep,
    StepKind,
    count_statistics,
    measure_cells,
    measure_matrix,
    select_neurons,
    train_adapter,
)
from lnbench.reproduce.workspace import Workspace, find_selections
from lnbench.tables.words import counted


@dataclass(frozen=True)
class CellsRow:
    """One row of a table of cells: whose neurons, how the model was fine-tuned, and which language is measured.

    ``label`` is the fine-tuning as the spec names it, with ``{lang}``; ``selection`` is what the neurons are from.
    """

    at: Workspace
    spec: CellsSpec
    selector: str
    selection: str
    adapter: Adapter
    label: str
    language: str


@dataclass(frozen=True)
class PlannedPart:
    """What one table or figure needs of one model under one preset."""

    at: Workspace
    spec: Spec
    steps: tuple[PlannedStep, ...]

    def of(self, kind: StepKind) -> list[PlannedStep]:
        """Return its steps of one kind."""
        return [step for step in self.steps if step.kind == kind]

    @property
    def rows(self) -> list[CellsRow]:
        """The rows of a table of cells; no rows of another table or figure."""
        return list(_rows(self.at, self.spec)) if isinstance(self.spec, CellsSpec) else []

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
    def steps(self) -> list[PlannedStep]:
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
    def steps(self) -> list[PlannedStep]:
        """All steps, each once, those first that others need."""
        return merged(step for item in self.items for step in item.steps)

    def amount(self) -> str:
        """Return one line on how much work this is: what can be counted without reading text or models."""
        steps = self.steps
        kinds = Counter(step.kind for step in steps)
        cells = {command for step in steps if step.kind == "sweep" for command in step.commands()}
        tokens = sum(step.tokens for step in steps if step.kind == "statistics")
        matrices = counted(kinds["matrix"], "perplexity matrix", "perplexity matrices")
        if in_matrices := sum(step.cells for step in steps):
            matrices += f" of {counted(in_matrices, 'cell')}"
        return (
            f"{counted(len(cells), 'distinct cell')}, {counted(kinds['adapter'], 'fine-tuning')}, {matrices}; "
            f"Statistics of up to {tokens:,} tokens"
        )


def plan(request: ReproductionRequest) -> Plan:
    """Return what a request needs. Neither models nor text are read.

    Raises:
        LnbenchError: an unknown name, language or setting; text that is missing.
    """
    settings = {preset: read_settings(request.scale, preset, request.replaced) for preset in PRESETS}
    corpus = settings[request.preset].corpus or default_corpus()
    selections = find_selections(corpus, request.languages)

    def parts(name: str, spec: Spec, preset: Preset) -> Iterator[PlannedPart]:
        for beside, model in _models(spec, request.model).items():
            folder = request.folder / f"{Path(model).name}{'' if preset == 'corrected' else f'-{preset}'}"
            at = Workspace(folder, model, beside, preset, settings[preset], corpus, selections, request.languages)
            if not (steps := merged(_steps(at, spec))):
                raise LnbenchError(f"{name}: none of its languages is left; name some of them in --languages")
            yield PlannedPart(at, spec, tuple(steps))

    names = [name for named in request.names for name in (catalogue.of_the_paper() if named == ALL else [named])]
    items = []
    for name, spec in {name: catalogue.spec(name) for name in names}.items():
        if isinstance(spec, ComparisonSpec):
            tables = {table: _comparable(name, table) for table in request.tables or spec.tables}
            of_item = [
                part for table, cells in tables.items() for preset in PRESETS for part in parts(table, cells, preset)
            ]
        else:
            of_item = list(parts(name, spec, request.preset))
        items.append(PlannedItem(name, spec, tuple(of_item)))
    return Plan(request, settings[request.preset], corpus, tuple(items))


def _comparable(name: str, table: str) -> Spec:
    spec = catalogue.spec(table)
    if not isinstance(spec, CellsSpec):
        raise LnbenchError(f"{name} compares tables 1 to 5, 7 and 8, of lm-eval cells; not {table}")
    return spec


def _models(spec: Spec, model: str | None) -> dict[str, str]:
    """Return key of a model of the paper → the model that is measured beside it, which may be the paper's own."""
    papers = {key: catalogue.models()[key] for key in spec.models}
    if model is None:
        return {key: paper.pretrained for key, paper in papers.items()}
    return {next((key for key, paper in papers.items() if paper.is_named(model)), spec.models[0]): model}


def _steps(at: Workspace, spec: Spec) -> Iterator[PlannedStep]:
    """Yield the steps of one spec on one model, each after those that it needs."""
    if isinstance(spec, CellsSpec):
        yield from _sweeps(at, spec)
    elif isinstance(spec, ActivationsSpec):
        available = {language for selection in at.selections.values() for language in selection.languages}
        if languages := tuple(language for language in spec.languages if language in available):
            yield count_statistics(at, languages)
    elif isinstance(spec, BenchSpec):
        yield from bench.steps(at, spec)
    elif isinstance(spec, FigureSpec):
        for name in spec.selections:
            yield from _selected(at, at.own_selection(name))
            if spec.intervention:
                yield measure_matrix(at, at.own_selection(name), spec.intervention)


def _selected(at: Workspace, selection: str) -> Iterator[PlannedStep]:
    yield count_statistics(at, at.selections[selection].languages)
    yield select_neurons(at, selection)


def _rows(at: Workspace, spec: CellsSpec) -> Iterator[CellsRow]:
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


def _sweeps(at: Workspace, spec: CellsSpec) -> Iterator[PlannedStep]:
    """Yield a table's sweeps after what they need; languages that share adapters and neurons are measured together."""
    selections: dict[tuple[str, tuple[Adapter, ...]], list[str]] = defaultdict(list)
    for (language, selection), rows in groupby(_rows(at, spec), lambda row: (row.language, row.selection)):
        selections[language, tuple(row.adapter for row in rows)].append(selection)
    languages: dict[tuple[tuple[Adapter, ...], tuple[str, ...]], list[str]] = defaultdict(list)
    for (language, adapters), of_both in selections.items():
        languages[adapters, tuple(of_both)].append(language)
    for (adapters, names), measured in languages.items():
        for adapter in adapters:
            yield from _selected(at, adapter.selection) if adapter.selection else ()
            yield train_adapter(adapter)
        for number, interventions in enumerate(spec.interventions):
            fields: dict[str, Any] = {"languages": measured, "interventions": interventions}
            if not all(map(changes_nothing, interventions)):
                yield from (step for name in names for step in _selected(at, name))
                neurons = [str(at.neurons(name)) for name in names]
                fields |= {"neurons": neurons, "statistics": str(at.statistics), "controls": at.settings.controls}
            parts = [spec.task, spec.folder, "+".join(names), "+".join(measured)]
            sweep = "-".join(parts if number == 0 else [*parts, "+".join(interventions)])
            yield measure_cells(at, sweep, spec.task, adapters, fields)


def merged(steps: Iterable[PlannedStep]) -> list[PlannedStep]:
    """Return steps once each, one kind after the other; what is counted into one folder, together."""
    by_folder: dict[Path, PlannedStep] = {}
    for step in steps:
        before = by_folder.get(step.out)
        if step.kind == "statistics" and before is not None:
            step = count_statistics(step.at, tuple(dict.fromkeys(before.languages + step.languages)))
        by_folder[step.out] = step
    return sorted(by_folder.values(), key=lambda step: KINDS.index(step.kind))
