"""Specs → steps: what has to be done for tables and figures, each thing once, however many of them need it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lnbench.errors import LnbenchError
from lnbench.reproduce import catalogue
from lnbench.reproduce.catalogue import (
    ActivationsSpec,
    CellsSpec,
    ComparisonSpec,
    NeuronsSpec,
    PerplexitySpec,
    Spec,
)
from lnbench.reproduce.scale_settings import Preset, Scale, Settings, settings
from lnbench.reproduce.steps import Collect, Measure, Perplexity, Select, Step, Train
from lnbench.reproduce.workspace import Workspace, find_corpus, find_selections

ALL = "all"
_Step = TypeVar("_Step", bound=Step)


@dataclass(frozen=True)
class Request:
    """What ``lnbench reproduce`` is asked for."""

    names: tuple[str, ...]
    out: Path
    model: str | None = None
    scale: Scale = "paper"
    preset: Preset = "corrected"
    corpus: str | None = None
    languages: tuple[str, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    """``--set`` key → value."""
    tables: tuple[str, ...] = ()
    """Those that a comparison compares, in place of its own."""

    @property
    def wanted(self) -> list[str]:
        """The names of the specs, each once.

        Raises:
            LnbenchError: there is none of that name.
        """
        found = [one for name in self.names for one in (catalogue.names() if name == ALL else [name])]
        for name in found:
            catalogue.spec(name)
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Piece:
    """What one table or figure needs of one model under one preset."""

    at: Workspace
    spec: Spec
    steps: tuple[Step, ...]

    def of(self, kind: type[_Step]) -> list[_Step]:
        """Its steps of one kind."""
        return [step for step in self.steps if isinstance(step, kind)]


@dataclass(frozen=True)
class Job:
    """One table or figure, and its pieces: one a model and, of a comparison, preset and table."""

    name: str
    spec: Spec
    pieces: tuple[Piece, ...]

    @property
    def steps(self) -> list[Step]:
        """Its steps, each once, those first that others need."""
        return list(merged(step for piece in self.pieces for step in piece.steps))


@dataclass(frozen=True)
class Plan:
    """Everything that is to be done."""

    request: Request
    settings: Settings
    corpus: str
    jobs: tuple[Job, ...]

    @property
    def steps(self) -> list[Step]:
        """All steps, each once, those first that others need."""
        return list(merged(step for job in self.jobs for step in job.steps))


def plan(request: Request) -> Plan:
    """What a request comes to. Neither models nor text are read.

    Raises:
        LnbenchError: an unknown name, language or setting; text that is missing.
    """
    planner = _Planner(request)
    jobs = tuple(Job(name, catalogue.spec(name), tuple(planner.pieces(name))) for name in request.wanted)
    return Plan(request, planner.settings(request.preset), planner.corpus, jobs)


class _Planner:
    """Specs → pieces, in the workspaces of one request."""

    def __init__(self, request: Request) -> None:
        self._request = request
        given = {**request.given, **({"corpus": request.corpus} if request.corpus else {})}
        self._settings: dict[Preset, Settings] = {
            "corrected": settings(request.scale, "corrected", given),
            "paper": settings(request.scale, "paper", given),
        }
        self.corpus = find_corpus(self._settings[request.preset])
        self._selections = find_selections(self.corpus, request.languages)

    def settings(self, preset: Preset) -> Settings:
        return self._settings[preset]

    def pieces(self, name: str, preset: Preset | None = None) -> Iterator[Piece]:
        spec = catalogue.spec(name)
        if isinstance(spec, ComparisonSpec):
            presets: tuple[Preset, ...] = ("corrected", "paper")
            for table in self._request.tables or spec.tables:
                if not isinstance(catalogue.spec(table), CellsSpec):
                    raise LnbenchError(
                        f"{name} compares tables 1 to 5, 7 and 8, which are of lm-eval cells; not {table}"
                    )
                for one in presets:
                    yield from self.pieces(table, one)
            return
        for at in self._workspaces(spec, preset or self._request.preset):
            steps = tuple(merged(_steps(at, spec)))
            if not steps:
                raise LnbenchError(f"{name}: none of its languages is left; name some of them in --languages")
            yield Piece(at, spec, steps)

    def _workspaces(self, spec: Spec, preset: Preset) -> Iterator[Workspace]:
        papers = catalogue.models()
        keys = spec.named_models
        if (model := self._request.model) is not None:
            same = [key for key in keys if Path(papers[key].pretrained).name.casefold() == Path(model).name.casefold()]
            yield self._workspace(model, (same or keys)[0], preset)
            return
        for key in keys:
            yield self._workspace(papers[key].pretrained, key, preset)

    def _workspace(self, model: str, beside: str, preset: Preset) -> Workspace:
        suffix = "" if preset == "corrected" else f"-{preset}"
        folder = self._request.out / f"{Path(model).name}{suffix}"
        return Workspace(folder, model, beside, preset, self._settings[preset], self.corpus, self._selections)


def _steps(at: Workspace, spec: Spec) -> Iterator[Step]:
    """The steps of one spec on one model, each after those that it needs."""
    if isinstance(spec, CellsSpec):
        for measure in _measures(at, spec):
            for train in measure.adapters:
                yield from _selected(at, [train.selection] if train.selection else [])
                yield train
            yield from _selected(at, [Path(file).stem for file in measure.fields.get("neurons", [])])
            yield measure
    elif isinstance(spec, PerplexitySpec):
        selection = at.selection(spec.selection)
        yield from _selected(at, [selection])
        yield Perplexity(at, selection, spec.intervention)
    elif isinstance(spec, NeuronsSpec):
        yield from _selected(at, [at.selection(name) for name in spec.selections])
    elif isinstance(spec, ActivationsSpec):
        known = {language for one in at.selections.values() for language in one.languages}
        if languages := [language for language in spec.languages if language in known]:
            yield Collect(at, tuple(languages))


def _selected(at: Workspace, names: Iterable[str]) -> Iterator[Step]:
    for name in dict.fromkeys(names):
        yield Collect(at, tuple(at.selections[name].languages))
        yield Select(at, name)


def _measures(at: Workspace, spec: CellsSpec) -> Iterator[Measure]:
    """A table's sweeps: languages are measured together if they share adapters and files of neurons."""
    adapters: dict[tuple[Path, ...], tuple[Train, ...]] = {}
    files: dict[tuple[Path, ...], dict[str, list[str]]] = {}
    for selector in spec.selectors:
        for language in spec.languages:
            if (selection := at.serving(selector, language)) is None:
                continue
            trains = tuple(fine_tuning(at, spec, label, language, selection) for label in spec.finetune)
            outs = tuple(train.out for train in trains)
            adapters[outs] = trains
            files.setdefault(outs, {}).setdefault(language, []).append(selection)
    for outs, by_language in files.items():
        together: dict[tuple[str, ...], list[str]] = {}
        for language, chosen in by_language.items():
            together.setdefault(tuple(chosen), []).append(language)
        for names, languages in together.items():
            for number, interventions in enumerate(spec.interventions):
                yield _measure(at, spec, adapters[outs], names, languages, interventions, first=number == 0)


def fine_tuning(at: Workspace, spec: CellsSpec, label: str, language: str, selection: str) -> Train:
    """How the model of one row of a table is fine-tuned."""
    how = spec.finetune[label]
    if how.languages is None:
        return Train(at, spec.task, label, how)
    languages = how.languages.replace("{lang}", language)
    named = label.replace("{lang}", language)
    return Train(at, spec.task, named, how.model_copy(update={"languages": languages}), selection)


def _measure(
    at: Workspace,
    spec: CellsSpec,
    adapters: tuple[Train, ...],
    selections: Sequence[str],
    languages: Sequence[str],
    interventions: Sequence[str],
    *,
    first: bool,
) -> Measure:
    parts = [spec.task, spec.folder, "+".join(selections), "+".join(languages)]
    fields: dict[str, Any] = {"languages": list(languages), "interventions": list(interventions)}
    if interventions != ["none"]:
        fields |= {
            "neurons": [str(at.neurons(name)) for name in selections],
            "statistics": str(at.statistics),
            "controls": at.settings.controls,
        }
    name = "-".join([*parts, *([] if first else ["+".join(interventions)])])
    return Measure(at, name, spec.task, fields, adapters)


def merged(steps: Iterable[Step]) -> Iterator[Step]:
    """Steps once each, one kind after the other; what is collected into one folder, together."""
    found: dict[Path, Step] = {}
    for step in steps:
        before = found.get(step.out)
        if isinstance(step, Collect) and isinstance(before, Collect):
            step = Collect(step.at, tuple(dict.fromkeys([*before.languages, *step.languages])))
        found[step.out] = step
    for kind in (Collect, Select, Train, Measure, Perplexity):
        yield from (step for step in found.values() if isinstance(step, kind))
