"""What the folders of runs hold that a report is made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from lnbench import leaderboard
from lnbench.analysis import Stability
from lnbench.analysis.until_stable import StabilityCurve
from lnbench.errors import LnbenchError
from lnbench.files import read_json
from lnbench.finetuning import training_record as training
from lnbench.leaderboard import Row
from lnbench.leaderboard.merged_records import Result
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.selection_account import SelectionAccount, account_of
from lnbench.statistics import store
from lnbench.sweeps import records
from lnbench.sweeps.records import Record
from lnbench.tables.reproduction import Reproduction
from lnbench.tables.words import short_names, without_folders

_NEURONS = "neurons"
_READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    PerplexityMatrix.usual_name: ("matrices", PerplexityMatrix.load),
    Reproduction.usual_name: ("reproductions", Reproduction.load),
    Stability.usual_name: ("stabilities", Stability.load),
    StabilityCurve.usual_name: ("curves", StabilityCurve.load),
    training.FILE: ("trainings", training.read),
}
"""File → the field of :class:`Sources` that it belongs to, and what reads it from its folder."""
_SKIPPED = ("cells", "unfinished", "shards")
"""Folders that hold nothing of a report's, and much else."""
_TEXTS = ("command", "error")
"""Fields in which paths are written without their folders."""
_Model = TypeVar("_Model", bound=BaseModel)
_Name = TypeVar("_Name", str, str | None)


@dataclass(frozen=True)
class OverrideInfo:
    """What lm-eval's results file says of the override in one cell: ``config`` → ``lnbench``."""

    selector: str
    control: bool
    """Whether the neurons are random ones."""
    outside: float | None
    """Largest share of a language's written values that lie outside the range observed on text."""
    read_site: str | None
    write_site: str | None
    neurons: Mapping[str, int]
    """Language → how many."""
    neuron_file: str | None
    fingerprint: str | None
    """Of the NeuronSet."""
    corpus: str | None
    """Text or Statistics that the values come from."""
    corpus_tokens: int | None
    """Tokens per language, where it was text."""

    @classmethod
    def read(cls, path: Path, record: Record) -> OverrideInfo | None:
        """Read the results file of a record; None where it was not lnbench that measured.

        Raises:
            LnbenchError: the file is missing or damaged.
        """
        if not (info := mapping(mapping(mapping(read_json(path)).get("config")).get("lnbench"))):
            return None
        applied = map(mapping, mapping(info.get("applied")).values())
        shares = [share for part in applied if isinstance(share := part.get("share_outside_observed_range"), float)]
        neuron_set, statistics = mapping(info.get("neuron_set")), info.get("statistics")
        return cls(
            selector=record.selector,
            control=record.control_of is not None,
            outside=max(shares, default=None),
            read_site=info.get("read_site"),
            write_site=info.get("write_site"),
            neurons=mapping(neuron_set.get("neurons")),
            neuron_file=neuron_set.get("file"),
            fingerprint=neuron_set.get("fingerprint"),
            corpus=statistics or info.get("corpus"),
            corpus_tokens=None if statistics else info.get("corpus_tokens"),
        )


@dataclass(frozen=True)
class Sources:
    """All that a report is made of, by the folder or, for NeuronSets, the name that they are shown under."""

    runs: Sequence[Path]
    sweeps: list[Path] = field(default_factory=list)
    """Folders with records."""
    matrices: dict[Path, PerplexityMatrix] = field(default_factory=dict)
    neurons: dict[str, NeuronSet] = field(default_factory=dict)
    reproductions: dict[Path, Reproduction] = field(default_factory=dict)
    stabilities: dict[Path, Stability] = field(default_factory=dict)
    curves: dict[Path, StabilityCurve] = field(default_factory=dict)
    trainings: dict[Path, dict[str, Any]] = field(default_factory=dict)
    statistics: dict[Path, dict[str, Any]] = field(default_factory=dict)
    """The manifests of folders of Statistics."""

    @property
    def size(self) -> int:
        """How many things there are to report."""
        kinds = (
            self.sweeps,
            self.matrices,
            self.neurons,
            self.reproductions,
            self.stabilities,
            self.curves,
            self.trainings,
        )
        return len(self.statistics) + sum(len(kind) for kind in kinds)

    @cached_property
    def results(self) -> list[Result]:
        """The records of all sweeps, merged."""
        return leaderboard.read_runs(self.sweeps)

    @cached_property
    def rows(self) -> list[Row]:
        """The leaderboard."""
        return leaderboard.build(self.results)

    @cached_property
    def shown_rows(self) -> list[Row]:
        """The leaderboard, with files called by their name without their folder."""
        rows = [self._shown(row, "model", "selector", "control_of", "adapter") for row in self.rows]
        return [row.model_copy(update=self._known_of_neurons(row)) for row in rows]

    def _known_of_neurons(self, row: Row) -> dict[str, float | None]:
        """Return the shares of a row's neurons that an older record does not say, where their set is at hand."""
        account = self.accounts.get(row.neuron_set or "")
        if row.control_of is not None or account is None or row.language not in account.languages:
            return {}
        own = account.languages[row.language]
        known = {"neurons_own": own.share_own, "neurons_common": own.share_common}
        return {name: share for name, share in known.items() if getattr(row, name) is None}

    @cached_property
    def accounts(self) -> dict[str, SelectionAccount]:
        """Fingerprint → what the languages of a NeuronSet share, from the set itself."""
        return {
            neurons.fingerprint: account_of({code: neurons.mask(code) for code in neurons}, None)
            for neurons in self.neuron_sets.values()
            if neurons.languages
        }

    @cached_property
    def shown_matrices(self) -> dict[Path, PerplexityMatrix]:
        """The perplexity matrices, named likewise."""
        return {folder: self._shown(matrix, "model", "selector") for folder, matrix in self.matrices.items()}

    def _shown(self, model: _Model, *names: str) -> _Model:
        texts = {name: without_folders(text) for name in _TEXTS if isinstance(text := getattr(model, name, None), str)}
        return model.model_copy(update=texts | {name: self.named(getattr(model, name)) for name in names})

    def named(self, text: _Name) -> _Name:
        """Return what the page calls a model, selector or adapter: the last part of a path, if no other shares it."""
        return text if text is None else self._names.get(text, text)

    @cached_property
    def _names(self) -> dict[str, str]:
        names = {value for row in self.rows for value in (row.model, row.selector, row.control_of, row.adapter)}
        names |= {value for matrix in self.matrices.values() for value in (matrix.model, matrix.selector)}
        names |= {model for reproduction in self.reproductions.values() for model in reproduction.models}
        return short_names(names)

    @cached_property
    def neuron_sets(self) -> dict[str, NeuronSet]:
        """All NeuronSets that were overridden or lie in the folders, by the name that the leaderboard has for them.

        A set that a sweep left in the cache, or that a run was given, is taken from there if it is still the same.
        """
        names = {neurons.fingerprint: name for name, neurons in self.neurons.items()}
        sets = {neurons.fingerprint: neurons for neurons in self.neurons.values()}
        for selector, fingerprint, file in self._overridden():
            if fingerprint not in sets and (neurons := _unchanged(file, fingerprint)):
                sets[fingerprint] = neurons
            names[fingerprint] = self.named(selector)
        by_name: dict[str, NeuronSet] = {}
        for fingerprint, neurons in sets.items():
            name = names[fingerprint]
            by_name[name if name not in by_name else f"{name} ({fingerprint[:6]})"] = neurons
        return by_name

    def _overridden(self) -> Iterator[tuple[str, str, str | None]]:
        """Yield selector, fingerprint and file of the NeuronSets that cells and matrices name."""
        for info in self.overrides.values():
            if not info.control and info.fingerprint:
                yield info.selector, info.fingerprint, info.neuron_file
        for matrix in self.matrices.values():
            yield matrix.selector, matrix.neuron_set, matrix.selector

    @cached_property
    def overrides(self) -> dict[str, OverrideInfo]:
        """Cell → what lm-eval's results say of its override."""
        overrides: dict[str, OverrideInfo] = {}
        for result in self.results:
            record = result.record
            if not record.results or record.cell in overrides:
                continue
            if info := OverrideInfo.read(result.run / record.results, record):
                overrides[record.cell] = info
        return overrides


def find(runs: Sequence[Path]) -> Sources:
    """Look through folders and their subfolders.

    Raises:
        LnbenchError: a folder is missing or holds nothing to report; a file is damaged.
    """
    roots = tuple(dict.fromkeys(run.resolve() for run in runs))
    sources = Sources(roots)
    for root in roots:
        if not root.is_dir():
            raise LnbenchError(f"there is no folder {root}; name the folder of a run")
        before = sources.size
        _take_all(root, sources)
        # Several reproductions share runs, which lie beside them.
        for folder, reproduction in list(sources.reproductions.items()):
            for run in reproduction.runs:
                beside = (folder / run).resolve()
                if not beside.is_relative_to(folder.resolve().parent):
                    raise LnbenchError(
                        f"{folder / Reproduction.usual_name} refers to {run}, which is outside the given folders; add "
                        "that folder to the command"
                    )
                _take_all(beside, sources)
        nested = any(root != other and (root.is_relative_to(other) or other.is_relative_to(root)) for other in roots)
        if sources.size == before and not nested:
            names = ", ".join([records.FILE, *_READERS, f"{_NEURONS}/*.json", "Statistics"])
            raise LnbenchError(f"nothing to report in {root}; looked there and in its subfolders for {names}")
    return sources


def _take_all(root: Path, sources: Sources) -> None:
    """Read what a report shows from a folder and its subfolders."""
    for name, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith((".", "checkpoint-")) and name not in _SKIPPED)
        folder = Path(name)
        if records.FILE in files and folder not in sources.sweeps:
            sources.sweeps.append(folder)
        for file, (kind, read) in _READERS.items():
            if file in files:
                getattr(sources, kind)[folder] = read(folder)
        if store.MANIFEST in files:
            manifest = read_json(folder / store.MANIFEST)
            if manifest.get("format") in (store.FORMAT, store.OLDER):
                sources.statistics[folder] = manifest
        if folder.name == _NEURONS:
            for file in sorted(file for file in files if file.endswith(".json")):
                _keep(sources.neurons, NeuronSet.load(folder / file), folder / file)


def _keep(sets: dict[str, NeuronSet], neurons: NeuronSet, file: Path) -> None:
    """Add a set under its file's name, unless it is there already; a second one of that name gets its folder's too."""
    if neurons.fingerprint not in {other.fingerprint for other in sets.values()}:
        sets[file.stem if file.stem not in sets else f"{file.parent.parent.name}/{file.stem}"] = neurons


def _unchanged(file: str | None, fingerprint: str) -> NeuronSet | None:
    """Read a NeuronSet outside the run, if it is still the one that the run used."""
    if not file or not file.endswith(".json") or not Path(file).is_file():
        return None
    try:
        neurons = NeuronSet.load(file)
    except LnbenchError:
        return None  # It is no part of the run, and something else now.
    return neurons if neurons.fingerprint == fingerprint else None


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a value of a stranger's file that should be a mapping, or an empty one."""
    return value if isinstance(value, dict) else {}
