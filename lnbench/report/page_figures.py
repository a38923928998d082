"""The figures of a report: which there are, and their files beside the page."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile

from lnbench import figures
from lnbench.figures import Figure
from lnbench.figures.registry import FigureData, draw_all, uniquely_named
from lnbench.files import atomic_path
from lnbench.report.inputs import Sources
from lnbench.tables.table import Cell, Table, TableRow
from lnbench.tables.words import NOTHING

FOLDER = "figures"
_MOST_BYTES = 2_000_000
"""Of the images and numbers in a page; those of further figures are in their files alone."""
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

    @property
    def size(self) -> int:
        """Bytes that it takes in a page, about."""
        numbers = [] if self.numbers is None else [text for _, texts in self.numbers.lines() for text in texts]
        return len(self.svg) + sum(len(text.encode("utf-8", "replace")) + 30 for text in numbers)


@dataclass(frozen=True)
class Pictures:
    """The figures of a report, apart by where the page shows them."""

    matrices: dict[Path, Picture]
    """Folder of a perplexity matrix → its figure."""
    overlaps: dict[str, Picture]
    """Fingerprint of a matrix's NeuronSet → what its languages share, which explains the matrix."""
    others: list[Picture]
    copied: dict[Path, list[Picture]]
    """Folder of a reproduction → what it drew itself."""


def pictures(sources: Sources, out: Path) -> Pictures:
    """Draw every figure that there are numbers of, write its files, and copy those that reproductions drew."""
    matrices = {folder: figures.perplexity_matrix(matrix) for folder, matrix in sources.shown_matrices.items()}
    explaining = {matrix.neuron_set for matrix in sources.matrices.values()}
    overlaps = {
        neurons.fingerprint: figures.language_overlap(neurons)
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
    others = [figure for figure in draw_all(data) if replace(figure, name="") not in beside_matrices]
    # What interventions did comes before what neurons and text are like.
    others.sort(key=lambda figure: not figure.name.startswith(figures.interventions.__name__))
    room = _MOST_BYTES

    def fitting(picture: Picture) -> Picture:
        nonlocal room
        if picture.size > room:
            return replace(picture, svg="", numbers=None)
        room -= picture.size
        return picture

    drawn = [_drawn(figure, out) for figure in uniquely_named([*matrices.values(), *overlaps.values(), *others])]
    numbers = {(out / picture.files["CSV"]).read_bytes() for picture in drawn}
    shown = map(fitting, drawn)  # Each of the three below takes its own from where the one before it stopped.
    return Pictures(
        dict(zip(matrices, shown, strict=False)),
        dict(zip(overlaps, shown, strict=False)),
        list(shown),
        {
            folder: list(map(fitting, _copied(folder, reproduction.figures, numbers, out)))
            for folder, reproduction in sources.reproductions.items()
        },
    )


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
    for stem, paths in by_name.items():
        if ".svg" not in paths or (".csv" in paths and paths[".csv"].read_bytes() in known):
            continue
        name, title = f"{folder.name}-{stem}", stem.replace("_", " ").replace("-", " ")
        targets = [out / FOLDER / f"{name}{suffix}" for suffix in paths]
        for path, target in zip(paths.values(), targets, strict=True):
            with atomic_path(target) as whole:
                copyfile(path, whole)
        caption = "The numbers are in the CSV file." if ".csv" in paths else ""
        yield Picture(name, title, caption, f"Figure: {title}", _base64(paths[".svg"]), _addresses(targets))
