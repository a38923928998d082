"""Files and folders → the figures that can be drawn from them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lnbench import leaderboard
from lnbench.analysis import Stability
from lnbench.analysis import stability as stability_file
from lnbench.analysis.until_stable import StabilityCurve
from lnbench.errors import LnbenchError
from lnbench.figures.figure import Figure
from lnbench.figures.registry import FIGURES, FigureData, uniquely_named
from lnbench.leaderboard import rows
from lnbench.neurons import NeuronSet
from lnbench.neurons_json import FORMAT as NEURONS
from lnbench.neurons_json import OLDER as OLDER_NEURONS
from lnbench.perplexity import matrix as perplexity
from lnbench.statistics import store
from lnbench.sweeps import records

_CURVE = str(StabilityCurve.model_fields["format"].default)
_FORMATS = (NEURONS, perplexity.FORMAT, rows.FORMAT, stability_file.FORMAT, _CURVE, store.FORMAT)
_OLDER = {OLDER_NEURONS: NEURONS, store.OLDER: store.FORMAT}
"""Formats that are read as the newer one."""
_HEAD = 400
"""Bytes at the start of a file that hold its format, if lnbench wrote it."""


def figures_of(paths: Sequence[Path]) -> list[Figure]:
    """Return all figures that can be drawn from files and from what lies in folders, each once, under its own name.

    Args:
        paths: NeuronSets, ``perplexity.json``, ``leaderboard.json``, ``records.jsonl``, ``stability.json``,
            ``stability-curve.json``, Statistics folders; or folders with such.

    Raises:
        LnbenchError: a path does not exist, a file is damaged, or there is nothing to draw.
    """
    data = data_in(paths)
    drawn = _once([figure for figures_from in FIGURES.values() for figure in figures_from(data)])
    if not drawn:
        raise LnbenchError(
            f"nothing to draw in {', '.join(map(str, paths))}: name NeuronSets, perplexity.json, leaderboard.json, "
            "records.jsonl, stability.json, stability-curve.json, a Statistics folder, or a folder with such"
        )
    return drawn


def data_in(paths: Sequence[Path]) -> FigureData:
    """Return what figures can be drawn from, in files and folders; see :func:`figures_of`."""
    files = _by_format(paths)
    return FigureData(
        leaderboards=[
            *(rows.load(path) for path in files[rows.FORMAT]),
            *(leaderboard.build(leaderboard.read_runs([folder])) for folder in _runs(paths, files[rows.FORMAT])),
        ],
        matrices=[perplexity.PerplexityMatrix.load(path) for path in files[perplexity.FORMAT]],
        neuron_sets=_sets(files[NEURONS]),
        stabilities=[Stability.load(path) for path in files[stability_file.FORMAT]],
        curves=[StabilityCurve.load(path) for path in files[_CURVE]],
        statistics=[manifest.parent for manifest in files[store.FORMAT]],
    )


def _runs(paths: Sequence[Path], leaderboards: Sequence[Path]) -> list[Path]:
    """Return the folders with records that are in no leaderboard beside them."""
    found = (file for path in paths for file in (sorted(path.rglob(records.FILE)) if path.is_dir() else [path]))
    folders = dict.fromkeys(file.parent for file in found if file.name == records.FILE)
    beside = {file.parent for file in leaderboards}
    return [folder for folder in folders if folder not in beside]


def _once(drawn: Sequence[Figure]) -> list[Figure]:
    """Return the figures without those that an earlier one equals: a report has its run's leaderboard too."""
    kept: list[Figure] = []
    for figure in drawn:
        if figure not in kept:
            kept.append(figure)
    return uniquely_named(kept)


def _by_format(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Return for each format the files that say they are of it, each once."""
    files: dict[str, list[Path]] = {name: [] for name in _FORMATS}
    for path in paths:
        if not path.exists():
            raise LnbenchError(f"no such file or folder: {path}")
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            declared = _format(file, whole=file == path)
            declared = _OLDER.get(declared or "", declared)
            if declared in files and file not in files[declared]:
                files[declared].append(file)
    return files


def _format(path: Path, *, whole: bool) -> str | None:
    """Return the format that a file's first bytes name or, if they name none and ``whole`` is set, its content.

    Of files in folders only the first bytes are read, since runs hold many files of other kinds.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    named = next((name for name in (*_FORMATS, *_OLDER) if f'"{name}"'.encode() in head), None)
    if named or not whole:
        return named
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        return None  # Not JSON, so no file of lnbench's: one of JSON lines, say, that a pattern named.
    return str(document.get("format")) if isinstance(document, dict) else None


def _sets(paths: Sequence[Path]) -> dict[str, NeuronSet]:
    """Return the sets by their files' stems, or by their paths where two stems are equal.

    Of files with the same set the first counts, so that none is compared with itself.
    """
    kept: dict[str, tuple[Path, NeuronSet]] = {}
    for path in paths:
        neurons = NeuronSet.load(path)
        kept.setdefault(neurons.fingerprint, (path, neurons))
    stems = Counter(path.stem for path, _ in kept.values())
    return {
        path.stem if stems[path.stem] == 1 else str(path.with_suffix("")): neurons for path, neurons in kept.values()
    }
