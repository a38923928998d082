"""What the folders of runs hold that a report is made of."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lnbench import leaderboard
from lnbench.errors import LnbenchError
from lnbench.files import read_json
from lnbench.finetuning import training_record as training
from lnbench.leaderboard import Row
from lnbench.leaderboard.merged_records import Result
from lnbench.neurons import NeuronSet
from lnbench.report.override_info import Told
from lnbench.statistics import store
from lnbench.sweeps import records

if TYPE_CHECKING:
    from lnbench.perplexity.matrix import PerplexityMatrix
    from lnbench.tables.reproduction import Reproduction

MATRIX, REPRODUCTION, NEURONS, MANIFEST = "perplexity.json", "reproduction.json", "neurons", "manifest.json"
_PASSED_BY = ("cells", "unfinished", "shards")
"""Folders that hold nothing of a report's, and much else."""
_LOOKED_FOR = f"{records.FILE}, {MATRIX}, {REPRODUCTION}, {NEURONS}/*.json, {training.FILE}"


@dataclass(frozen=True)
class Sources:
    """All that a report is made of."""

    runs: tuple[Path, ...]
    sweeps: tuple[Path, ...] = ()
    """Folders with records."""
    matrices: dict[Path, PerplexityMatrix] = field(default_factory=dict)
    neurons: dict[str, NeuronSet] = field(default_factory=dict)
    """By the name that they are shown under."""
    reproductions: dict[Path, Reproduction] = field(default_factory=dict)
    trainings: dict[Path, dict[str, Any]] = field(default_factory=dict)
    statistics: dict[Path, dict[str, Any]] = field(default_factory=dict)
    """The manifests of folders of Statistics."""

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
        fields = ("model", "selector", "control_of", "adapter")
        return [row.model_copy(update={one: self.named(getattr(row, one)) for one in fields}) for row in self.rows]

    @cached_property
    def shown_matrices(self) -> dict[Path, PerplexityMatrix]:
        """The perplexity matrices, named likewise."""
        return {
            folder: one.model_copy(update={"model": self.named(one.model), "selector": self.named(one.selector)})
            for folder, one in self.matrices.items()
        }

    def named(self, text: str | None) -> str | None:
        """A model, selector or adapter as the page calls it: the last part of a path, if no other has the same."""
        return self._names.get(text, text) if text else text

    @cached_property
    def _names(self) -> dict[str, str]:
        given = {value for row in self.rows for value in (row.model, row.selector, row.control_of, row.adapter)}
        given |= {value for one in self.matrices.values() for value in (one.model, one.selector)}
        given |= {model for one in self.reproductions.values() for model in one.models}
        paths = [Path(value) for value in given if value and Path(value).is_absolute()]
        known = Counter(path.name for path in paths)
        return {str(path): path.name for path in paths if known[path.name] == 1}

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
            names[fingerprint] = self.named(selector) or selector
        found: dict[str, NeuronSet] = {}
        for fingerprint, neurons in sets.items():
            name = names[fingerprint]
            found[name if name not in found else f"{name} ({fingerprint[:6]})"] = neurons
        return found

    def _overridden(self) -> Iterator[tuple[str, str, str | None]]:
        """Selector, fingerprint and file of the NeuronSets that cells and matrices name."""
        for told in self.told.values():
            if not told.control and told.selector and told.fingerprint:
                yield told.selector, told.fingerprint, told.neuron_file
        for matrix in self.matrices.values():
            yield matrix.selector, matrix.neuron_set, matrix.selector

    @cached_property
    def told(self) -> dict[str, Told]:
        """What lm-eval's results say of each cell that overrode neurons, by the cell."""
        found: dict[str, Told] = {}
        for result in self.results:
            record = result.record
            if record.results and record.cell not in found:
                about = Told.read(result.run / record.results)
                if about is not None:
                    control = record.control_of is not None
                    found[record.cell] = replace(about, selector=record.selector, control=control)
        return found


def find(runs: Sequence[Path]) -> Sources:
    """Look through folders and their subfolders.

    Raises:
        LnbenchError: a folder is missing or holds nothing to report; a file is damaged.
    """
    roots = tuple(dict.fromkeys(run.resolve() for run in runs))
    found = Sources(roots)
    sweeps: list[Path] = []
    for root in roots:
        if not root.is_dir():
            raise LnbenchError(f"there is no folder {root}; name the folder of a run")
        before = _size(found, sweeps)
        for folder, files in _walk(root):
            _take(folder, files, found, sweeps)
        # Several reproductions share runs, which lie beside them.
        for folder, reproduction in list(found.reproductions.items()):
            for run in reproduction.runs:
                beside = (folder / run).resolve()
                if not beside.is_relative_to(folder.resolve().parent):
                    raise LnbenchError(f"{folder}: the run {run} lies elsewhere; name its folder, to have it reported")
                for below, files in _walk(beside):
                    _take(below, files, found, sweeps)
        if _size(found, sweeps) == before and not any(root != other and root.is_relative_to(other) for other in roots):
            raise LnbenchError(f"nothing to report in {root}; looked there and in its subfolders for {_LOOKED_FOR}")
    return Sources(
        roots,
        tuple(dict.fromkeys(sweeps)),
        found.matrices,
        found.neurons,
        found.reproductions,
        found.trainings,
        found.statistics,
    )


def _unchanged(file: str | None, fingerprint: str) -> NeuronSet | None:
    """The NeuronSet in a file, if it is there and has this fingerprint."""
    if not file or not file.endswith(".json") or not Path(file).is_file():
        return None
    try:
        neurons = NeuronSet.load(file)
    except LnbenchError:
        # It is no part of the run, and something else now.
        return None
    return neurons if neurons.fingerprint == fingerprint else None


def _size(found: Sources, sweeps: Sequence[Path]) -> int:
    kinds = (found.matrices, found.neurons, found.reproductions, found.trainings)
    return sum(len(kind) for kind in kinds) + len(sweeps)


def _walk(root: Path) -> Iterator[tuple[Path, set[str]]]:
    for folder, below, files in os.walk(root):
        below[:] = sorted(
            name for name in below if not name.startswith((".", "checkpoint-")) and name not in _PASSED_BY
        )
        yield Path(folder), set(files)


def _take(folder: Path, files: set[str], found: Sources, sweeps: list[Path]) -> None:
    if records.FILE in files:
        sweeps.append(folder)
    if MATRIX in files:
        from lnbench.perplexity.matrix import PerplexityMatrix

        found.matrices[folder] = PerplexityMatrix.load(folder / MATRIX)
    if REPRODUCTION in files:
        from lnbench.tables.reproduction import Reproduction

        found.reproductions[folder] = Reproduction.load(folder / REPRODUCTION)
    if training.FILE in files and (record := training.read(folder)):
        found.trainings[folder] = record
    if MANIFEST in files and (manifest := read_json(folder / MANIFEST)).get("format") == store.FORMAT:
        found.statistics[folder] = manifest
    if folder.name == NEURONS:
        for file in sorted(name for name in files if name.endswith(".json")):
            _keep(found.neurons, NeuronSet.load(folder / file), folder / file)


def _keep(kept: dict[str, NeuronSet], neurons: NeuronSet, file: Path) -> None:
    """Add a set under its file's name, unless it is there already; two sets of one name get their folder's too."""
    if neurons.fingerprint in {known.fingerprint for known in kept.values()}:
        return
    name = file.stem
    kept[name if name not in kept else f"{file.parent.parent.name}/{name}"] = neurons
