"""The figures of a report: which there are, and their files beside the page."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

from lnbench import figures
from lnbench.figures import Figure
from lnbench.figures.figure import stem
from lnbench.figures.registry import FigureData, draw_all, uniquely_named
from lnbench.figures.style import Width
from lnbench.files import atomic_path
from lnbench.leaderboard import Row
from lnbench.report.inputs import Sources
from lnbench.tables.ceilings import ordered_tables
from lnbench.tables.findings import UNITS, comparable_unit
from lnbench.tables.plain_names import metric_title, plain_names, task_title
from lnbench.tables.table import Cell, Table, TableRow
from lnbench.tables.words import NOTHING

FOLDER = "figures"
_MOST_BYTES = 2_000_000
"""Of the images and numbers in a page; those of further figures are in their files alone."""
_NONE = "no neurons"
"""What rows of adapters alone are chosen by."""
_MOST_PAIRED = 4
"""NeuronSets of a model of which every two are drawn side by side; `lnbench figures` draws any."""
_MOST_ROWS = 300
"""Rows of numbers that are shown in the page; the CSV has all."""


@dataclass(frozen=True)
class Picture:
    """A figure in the page, and the files of it beside the page."""

    name: str
    """File stem."""
    title: str
    caption: str
    alt: str
    svg: str
    """The drawing in base64; empty where the page has no room for it."""
    files: Mapping[str, str]
    """Format → address, relative to the page."""
    numbers: Table | None = None
    """What is drawn; None where it is known from the CSV file alone."""
    narrow: str = ""
    """The drawing for a phone, in base64; empty where there is none."""

    @property
    def size(self) -> int:
        """Bytes that it takes in a page, about."""
        numbers = [] if self.numbers is None else [text for _, texts in self.numbers.lines() for text in texts]
        return len(self.svg) + len(self.narrow) + sum(len(text.encode("utf-8", "replace")) + 30 for text in numbers)


@dataclass(frozen=True)
class Explored:
    """What interventions on one selector's neurons change in one metric: a figure among which a reader switches."""

    picture: Picture
    model: str
    measured: str
    """Task and metric, in words."""
    neurons: str
    """The selector's plain name."""


@dataclass(frozen=True)
class Pictures:
    """The figures of a report, apart by where the page shows them."""

    hero: Picture | None
    """The headline's."""
    matrices: dict[Path, Picture]
    """Folder of a perplexity matrix → its figure."""
    overlaps: dict[str, Picture]
    """Fingerprint of a matrix's NeuronSet → what its languages share, which explains the matrix."""
    explored: list[Explored]
    """By model, metric and selector, those of the headline first."""
    others: list[Picture]
    copied: dict[Path, list[Picture]]
    """Folder of a reproduction → what it drew itself."""


def pictures(sources: Sources, out: Path, finding: Sequence[Row] = ()) -> Pictures:
    """Draw every figure that there are numbers of, write its files, and copy those that reproductions drew.

    Args:
        sources: What to draw.
        out: The folder of the page.
        finding: The headline's rows.
    """
    hero = [figures.own_language.data(finding)] if finding else []
    explored = _explored(sources.shown_rows, finding)
    matrices = {
        folder: figures.perplexity_matrix.data(matrix, comparable_unit(matrix))
        for folder, matrix in sources.shown_matrices.items()
    }
    explaining = {matrix.neuron_set for matrix in sources.matrices.values()}
    overlaps = {
        neurons.fingerprint: figures.language_overlap.data(neurons)
        for neurons in sources.neuron_sets.values()
        if neurons.fingerprint in explaining and len(neurons.languages) > 1
    }
    data = FigureData(
        leaderboards=[sources.shown_rows],
        neuron_sets=sources.neuron_sets,
        stabilities=list(sources.stabilities.values()),
        curves=list(sources.curves.values()),
        statistics=list(sources.statistics),
        most_paired=_MOST_PAIRED,
    )
    beside_matrices = [replace(figure, name="") for figure in overlaps.values()]
    named = (figures.interventions.__name__, figures.own_language.__name__)
    others = [
        figure
        for figure in draw_all(data)
        if not figure.name.startswith(named) and replace(figure, name="") not in beside_matrices
    ]
    room = _MOST_BYTES

    def fitting(picture: Picture) -> Picture:
        nonlocal room
        if picture.size > room:
            return replace(picture, svg="", numbers=None)
        room -= picture.size
        return picture

    of_explored = [figure for figure, *_ in explored]
    every = uniquely_named([*hero, *matrices.values(), *overlaps.values(), *of_explored, *others])
    drawn = [_drawn(figure, out) for figure in every]
    numbers = {(out / picture.files["CSV"]).read_bytes() for picture in drawn}
    # A reproduction may have drawn a matrix in another unit.
    every_unit = [
        figures.perplexity_matrix.data(matrix, unit) for matrix in sources.shown_matrices.values() for unit in UNITS
    ]
    numbers |= {figures.table(figure).encode() for figure in every_unit}
    if hero:
        drawn[0] = replace(drawn[0], svg=_untitled(hero[0], "page"), narrow=_untitled(hero[0], "column"))
    shown = map(fitting, drawn)  # Each of those below takes its own from where the one before it stopped.
    return Pictures(
        next(shown) if hero else None,
        dict(zip(matrices, shown, strict=False)),
        dict(zip(overlaps, shown, strict=False)),
        [Explored(picture, *names) for (_, *names), picture in zip(explored, shown, strict=False)],
        list(shown),
        {
            folder: list(map(fitting, _copied(folder, reproduction.figures, numbers, out)))
            for folder, reproduction in sources.reproductions.items()
        },
    )


def _explored(rows: Sequence[Row], finding: Sequence[Row]) -> list[tuple[Figure, str, str, str]]:
    """Return a figure for each model, metric and selector, with what a reader chooses it by; the headline's first."""
    found = {(row.task_pattern, row.metric) for row in finding}, {row.selector for row in finding}
    explored = []
    for table in ordered_tables(row for row in rows if row.delta is not None and row.control_of is None):
        first = table[0]
        model = " ".join(filter(None, (first.model, first.revision, first.dtype, first.quantization)))
        measured = f"{task_title(first.task_pattern, first.task_title)}: {metric_title(first.metric)}"
        names = plain_names("selector", dict.fromkeys(row.selector for row in table))
        for selector, plain in names.items():
            figure = figures.interventions.data([row for row in table if row.selector == selector])
            rank = ((first.task_pattern, first.metric) not in found[0], selector not in found[1])
            name = f"{figure.name}-{stem(selector)}"
            explored.append((rank, (replace(figure, name=name), model, measured, plain if selector != "-" else _NONE)))
    return [chosen for _, chosen in sorted(explored, key=lambda ranked: ranked[0])]


def _untitled(figure: Figure, width: Width) -> str:
    """Return the drawing of a figure in base64, without its title, which the page says; a column's fits a phone."""
    with TemporaryDirectory() as folder:
        figures.save(replace(figure, title=""), Path(folder), ["svg"], width)
        return _base64(Path(folder) / f"{figure.name}.svg")


def _drawn(figure: Figure, out: Path) -> Picture:
    files = figures.save(figure, out / FOLDER)
    shown = figure.rows[:_MOST_ROWS]
    rows = [TableRow([_text(row[0])], [Cell(_text(value)) for value in row[1:]]) for row in shown]
    rest = f"The first {_MOST_ROWS} of {len(figure.rows):,} rows; the CSV file has all."
    notes = [rest] if len(shown) < len(figure.rows) else []
    first, *others = figure.columns
    numbers = Table(f"Numbers: {figure.title}", [first], others, rows, notes=notes)
    image = _base64(out / FOLDER / f"{figure.name}.svg")
    return Picture(figure.name, figure.title, figure.caption, figure.alt, image, _addresses(files), numbers)


def _text(value: object) -> str:
    return NOTHING if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _base64(svg: Path) -> str:
    # As an image, nothing runs in it, whoever drew it.
    return base64.b64encode(svg.read_bytes()).decode()


def _addresses(files: Iterable[Path]) -> dict[str, str]:
    return {file.suffix[1:].upper(): f"{FOLDER}/{file.name}" for file in files}


def _copied(folder: Path, files: Sequence[str], known: set[bytes], out: Path) -> Iterable[Picture]:
    """Yield the figures that a reproduction drew, but not those with the numbers of one that the page has already."""
    by_name: dict[str, dict[str, Path]] = defaultdict(dict)
    for file in files:
        path = (folder / file).resolve()
        # The list comes from a file that a stranger may have written.
        if path.is_relative_to(folder) and path.is_file():
            by_name[path.stem][path.suffix] = path
    for file_stem, paths in by_name.items():
        if ".svg" not in paths or (".csv" in paths and paths[".csv"].read_bytes() in known):
            continue
        name, title = f"{folder.name}-{file_stem}", file_stem.replace("_", " ").replace("-", " ")
        targets = [out / FOLDER / f"{name}{suffix}" for suffix in paths]
        for path, target in zip(paths.values(), targets, strict=True):
            with atomic_path(target) as whole:
                copyfile(path, whole)
        caption = "The numbers are in the CSV file." if ".csv" in paths else ""
        yield Picture(name, title, caption, f"Figure: {title}", _base64(paths[".svg"]), _addresses(targets))
