"""Files and folders → the figures that can be drawn from them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from lnbench.analysis import Stability
from lnbench.analysis import stability as stability_file
from lnbench.errors import LnbenchError
from lnbench.figures.activations import activation_statistics
from lnbench.figures.figure import Figure
from lnbench.figures.intervention_effects import interventions
from lnbench.figures.neuron_counts import neurons_per_language, neurons_per_layer
from lnbench.figures.overlaps import language_overlap, selector_overlap, stability
from lnbench.figures.perplexity_matrix import Unit, perplexity_matrix
from lnbench.leaderboard import Row
from lnbench.leaderboard import rows as leaderboard
from lnbench.neurons import NeuronSet
from lnbench.neurons_json import FORMAT as NEURONS
from lnbench.perplexity import matrix as perplexity
from lnbench.statistics import Statistics, store

_HEAD = 400
"""Bytes at the start of a file that hold its format, if lnbench wrote it."""


def figures_of(paths: Sequence[Path]) -> list[Figure]:
    """Everything that can be drawn from files and from all that lies in folders, each under a name of its own.

    Args:
        paths: NeuronSets, ``perplexity.json``, ``leaderboard.json``, ``stability.json``, Statistics folders; or folders
            with such.

    Raises:
        LnbenchError: a path does not exist, a file is damaged, or there is nothing to draw.
    """
    found = _by_format(paths)
    drawn = [
        *figures_of_neurons(_sets(found[NEURONS])),
        *(figure for kind, make in _MAKERS.items() for path in found[kind] for figure in make(path)),
    ]
    if not drawn:
        raise LnbenchError(
            f"nothing to draw in {', '.join(map(str, paths))}: name NeuronSets, perplexity.json, leaderboard.json, "
            "stability.json, a Statistics folder, or a folder with such"
        )
    return uniquely_named(drawn)


def uniquely_named(figures: Iterable[Figure]) -> list[Figure]:
    """The same figures; of those with one name, the second gets ``-2`` after it, and so on."""
    seen: Counter[str] = Counter()
    named = []
    for figure in figures:
        seen[figure.name] += 1
        number = seen[figure.name]
        named.append(figure if number == 1 else replace(figure, name=f"{figure.name}-{number}"))
    return named


def figures_of_neurons(sets: Mapping[str, NeuronSet]) -> Iterator[Figure]:
    """Neurons per language; of each set, per layer and overlap; of each two of one model, what they share."""
    models: dict[tuple[str, int, int], dict[str, NeuronSet]] = defaultdict(dict)
    for name, one in sets.items():
        if one.languages:
            models[one.model, one.layers, one.width][name] = one
    for own in models.values():
        yield neurons_per_language(own)
        for one in own.values():
            yield neurons_per_layer(one)
            if len(one.languages) > 1:
                yield language_overlap(one)
        for first, second in combinations(own.values(), 2):
            if {*first.languages} & {*second.languages}:
                yield selector_overlap(first, second)


def figures_of_leaderboard(rows: Sequence[Row]) -> Iterator[Figure]:
    """One figure for each model, task and metric that has an intervention."""
    tables: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.delta is not None and row.control_of is None:
            tables[*row.measured_on, row.metric].append(row)
    return map(interventions, tables.values())


def _of_statistics(manifest: Path) -> Iterator[Figure]:
    folder = manifest.parent
    loaded = {language: Statistics.load(folder, language) for language in store.languages(folder)}
    sites = set.intersection(*(set(one.sites) for one in loaded.values())) if loaded else set()
    return (activation_statistics(loaded, site) for site in sorted(sites))


def _of_perplexity(path: Path) -> Iterator[Figure]:
    matrix = perplexity.PerplexityMatrix.load(path)
    return (perplexity_matrix(matrix, unit) for unit in get_args(Unit))


_MAKERS: dict[str, Callable[[Path], Iterable[Figure]]] = {
    store.FORMAT: _of_statistics,
    stability_file.FORMAT: lambda path: [stability(Stability.load(path))],
    perplexity.FORMAT: _of_perplexity,
    leaderboard.FORMAT: lambda path: figures_of_leaderboard(leaderboard.load(path)),
}
"""Format of a file → the figures that it gives by itself."""


def _by_format(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Format → the files that say they are of it, each once."""
    found: dict[str, list[Path]] = {kind: [] for kind in (NEURONS, *_MAKERS)}
    for path in paths:
        if not path.exists():
            raise LnbenchError(f"no such file or folder: {path}")
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            kind = _format(file, whole=file == path)
            if kind in found and file not in found[kind]:
                found[kind].append(file)
    return found


def _format(path: Path, *, whole: bool) -> str | None:
    """The known format that a file's first bytes name.

    Args:
        path: The file.
        whole: Whether to read all of it if they name none. In folders it is not, since runs hold many other files.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    named = next((kind for kind in (NEURONS, *_MAKERS) if f'"{kind}"'.encode() in head), None)
    return _declared(path) if whole and not named and head.lstrip().startswith(b"{") else named


def _declared(path: Path) -> str | None:
    """What a JSON file says that its format is."""
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        return None  # Not JSON, so no file of lnbench's: one of JSON lines, say, that a pattern named.
    found = document.get("format")
    return found if isinstance(found, str) else None


def _sets(paths: Sequence[Path]) -> dict[str, NeuronSet]:
    """Name → NeuronSet. Of files that hold the same set the first counts, lest it be compared with itself."""
    kept: dict[str, tuple[Path, NeuronSet]] = {}
    for path in paths:
        neurons = NeuronSet.load(path)
        kept.setdefault(neurons.fingerprint, (path, neurons))
    places = [path for path, _ in kept.values()]
    return {_set_name(path, places): neurons for path, neurons in kept.values()}


def _set_name(path: Path, paths: Sequence[Path]) -> str:
    """What a NeuronSet is called: its file's stem, or the path where another has the same."""
    alone = [one.stem for one in paths].count(path.stem) == 1
    return path.stem if alone else str(path.with_suffix(""))
