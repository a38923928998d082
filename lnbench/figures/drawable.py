"""Files and folders → the figures that can be drawn from them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lnbench.analysis import Stability
from lnbench.analysis import stability as stability_file
from lnbench.errors import LnbenchError
from lnbench.figures.figure import Figure
from lnbench.figures.registry import FigureData, draw_all
from lnbench.leaderboard import rows as leaderboard
from lnbench.neurons import NeuronSet
from lnbench.neurons_json import FORMAT as NEURONS
from lnbench.neurons_json import OLDER as OLDER_NEURONS
from lnbench.perplexity import matrix as perplexity
from lnbench.statistics import store

_FORMATS = (NEURONS, perplexity.FORMAT, leaderboard.FORMAT, stability_file.FORMAT, store.FORMAT)
_OLDER = {OLDER_NEURONS: NEURONS, store.OLDER: store.FORMAT}
"""Formats that are read as the newer one."""
_HEAD = 400
"""Bytes at the start of a file that hold its format, if lnbench wrote it."""


def figures_of(paths: Sequence[Path]) -> list[Figure]:
    """Return all figures that can be drawn from files and from what lies in folders, each under its own name.

    Args:
        paths: NeuronSets, ``perplexity.json``, ``leaderboard.json``, ``stability.json``, Statistics folders; or folders
            with such.

    Raises:
        LnbenchError: a path does not exist, a file is damaged, or there is nothing to draw.
    """
    files = _by_format(paths)
    drawn = draw_all(
        FigureData(
            leaderboards=[leaderboard.load(path) for path in files[leaderboard.FORMAT]],
            matrices=[perplexity.PerplexityMatrix.load(path) for path in files[perplexity.FORMAT]],
            neuron_sets=_sets(files[NEURONS]),
            stabilities=[Stability.load(path) for path in files[stability_file.FORMAT]],
            statistics=[manifest.parent for manifest in files[store.FORMAT]],
        )
    )
    if not drawn:
        raise LnbenchError(
            f"nothing to draw in {', '.join(map(str, paths))}: name NeuronSets, perplexity.json, leaderboard.json, "
            "stability.json, a Statistics folder, or a folder with such"
        )
    return drawn


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
