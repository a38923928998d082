"""The figures of a report: which there are, and their files beside the page."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from shutil import copyfile
from typing import Any

from markupsafe import Markup

from lnbench import figures
from lnbench.figures import Figure
from lnbench.figures.svg import inlined
from lnbench.files import atomic_path
from lnbench.leaderboard import Row
from lnbench.report.findings import compared
from lnbench.report.inputs import Sources
from lnbench.report.text import visible
from lnbench.report.view import Picture, Table

_MOST_PAIRED = 4
"""NeuronSets of a model of which every two are drawn side by side."""

FOLDER = "figures"
_MOST_ROWS = 300
"""Rows of numbers that are shown in the page; the CSV has all."""


@dataclass(frozen=True)
class Pictures:
    """The figures of a report, apart by where they stand."""

    matrices: Sequence[Picture]
    """One for each perplexity matrix."""
    overlaps: Mapping[str, Picture]
    """By the fingerprint of the NeuronSet: what its languages share."""
    others: Sequence[Picture]

    def __iter__(self) -> Iterator[Picture]:
        return iter((*self.matrices, *self.overlaps.values(), *self.others))


def pictures(sources: Sources, out: Path) -> Pictures:
    """Draw every figure that the runs have the numbers of, and write it to ``out/figures``.

    Raises:
        LnbenchError: a file cannot be written.
    """
    names: Counter[str] = Counter()

    def drawn(figure: Figure) -> Picture:
        names[figure.name] += 1
        number = names[figure.name]
        return _picture(figure if number == 1 else replace(figure, name=f"{figure.name}-{number}"), out)

    sets = sources.neuron_sets.values()
    return Pictures(
        [drawn(figures.perplexity_matrix(matrix)) for matrix in sources.shown_matrices.values()],
        {one.fingerprint: drawn(figures.language_overlap(one)) for one in sets if len(one.languages) > 1},
        [drawn(figure) for figure in _others(sources)],
    )


def copied(folder: Path, files: Sequence[str], drawn: Pictures, out: Path) -> list[Picture]:
    """The figures that a reproduction drew, but for those that this report has drawn from the same numbers.

    Raises:
        LnbenchError: a file cannot be written.
    """
    by_name: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        path = (folder / file).resolve()
        # The list comes from a file that a stranger may have written.
        if path.is_relative_to(folder) and path.is_file():
            by_name[path.stem].append(path)
    ours = {(out / picture.files["CSV"]).read_bytes() for picture in drawn if "CSV" in picture.files}
    return [
        _copy(f"{folder.name}-{name}", paths, out)
        for name, paths in by_name.items()
        if _with(".svg", paths) and ((numbers := _with(".csv", paths)) is None or numbers.read_bytes() not in ours)
    ]


def _others(sources: Sources) -> Iterator[Figure]:
    for table in _tables(sources.shown_rows):
        yield figures.interventions(table)
    by_model: dict[tuple[Any, ...], dict[str, Any]] = defaultdict(dict)
    for name, neurons in sources.neuron_sets.items():
        by_model[neurons.model, neurons.layers, neurons.width][name] = neurons
    for sets in by_model.values():
        yield figures.neurons_per_language(sets)
        for neurons in sets.values():
            yield figures.neurons_per_layer(neurons)
        # Pairs grow with the square: `lnbench figures A B` draws any of them.
        for first, second in combinations(list(sets.values())[:_MOST_PAIRED], 2):
            if {*first.languages} & {*second.languages}:
                yield figures.selector_overlap(first, second)


def _tables(rows: Sequence[Row]) -> Iterator[list[Row]]:
    tables: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in compared(rows):
        tables[*row.measured_on, row.metric].append(row)
    yield from tables.values()


def _picture(figure: Figure, out: Path) -> Picture:
    files = figures.save(figure, out / FOLDER)
    drawn = out / FOLDER / f"{figure.name}.svg"
    shown = figure.rows[:_MOST_ROWS]
    rest = [f"The first {_MOST_ROWS} of {len(figure.rows):,} rows; the CSV file has all."]
    return Picture(
        figure.name,
        figure.title,
        figure.caption,
        # What was drawn for the file; figures.svg would draw it again.
        Markup(visible(inlined(drawn.read_bytes(), figure.name, figure.title, figure.alt))),
        _addresses(files),
        Table(
            f"Numbers: {figure.title}",
            figure.columns,
            [[_text(value) for value in row] for row in shown],
            notes=rest if len(shown) < len(figure.rows) else (),
        ),
    )


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _addresses(files: Sequence[Path]) -> dict[str, str]:
    return {file.suffix[1:].upper(): f"{FOLDER}/{file.name}" for file in files}


def _with(suffix: str, paths: Sequence[Path]) -> Path | None:
    return next((path for path in paths if path.suffix == suffix), None)


def _copy(name: str, paths: Sequence[Path], out: Path) -> Picture:
    """A figure of another folder. What a stranger drew is shown as an image, in which nothing runs."""
    files = []
    for path in paths:
        target = out / FOLDER / f"{name}{path.suffix}"
        with atomic_path(target) as whole:
            copyfile(path, whole)
        files.append(target)
    source = _with(".svg", paths)
    assert source is not None
    data = base64.b64encode(source.read_bytes()).decode()
    title = source.stem.replace("_", " ").replace("-", " ")
    image = Markup('<img alt="{}" src="data:image/svg+xml;base64,{}">').format(f"Figure: {title}", data)
    return Picture(name, title, "The numbers are in the CSV file.", image, _addresses(files))
