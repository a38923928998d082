"""What the sweeps of a table have measured, found by the table's own places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lnbench import leaderboard
from lnbench.host import get_host
from lnbench.leaderboard.merged_records import Result
from lnbench.leaderboard.rows import Row
from lnbench.reproduce.catalogue import CellsSpec
from lnbench.reproduce.plan import Piece, fine_tuning
from lnbench.reproduce.steps import Measure, Train
from lnbench.reproduce.workspace import Workspace
from lnbench.sweeps.records import NOT_SPECIFIC, Record

_Key = tuple[str, str, str, str, str | None]


@dataclass(frozen=True)
class Place:
    """One row of a table: whose neurons, how the model was fine-tuned, and which language is measured."""

    at: Workspace
    selector: str
    selection: str
    train: Train
    label: str
    """The fine-tuning as the spec names it, with ``{lang}``."""
    language: str


def places(piece: Piece) -> Iterator[Place]:
    """The rows of a table on one model, in the paper's order."""
    spec, at = piece.spec, piece.at
    assert isinstance(spec, CellsSpec)
    for selector in spec.selectors:
        for language in spec.languages:
            if (selection := at.serving(selector, language)) is None:
                continue
            for label in spec.finetune:
                train = fine_tuning(at, spec, label, language, selection)
                yield Place(at, selector, selection, train, label, language)


class Measured:
    """The results of the sweeps of some pieces, each beside its baseline and controls."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.folders = list(dict.fromkeys(step.out for piece in pieces for step in piece.of(Measure)))
        results = leaderboard.read_runs(self.folders)
        self.rows = leaderboard.build(results)
        self._rows = {_key(row): row for row in self.rows if row.control_of is None}
        self._results = {_key(result.record): result for result in results if result.record.control_of is None}

    def row(self, place: Place, intervention: str, metric: str | None) -> Row | None:
        """What the leaderboard says of a cell; without a metric, of one that failed."""
        return self._rows.get(_wanted(place, intervention, metric))

    def result(self, place: Place, intervention: str, metric: str) -> Result | None:
        """A cell with its documents."""
        return self._results.get(_wanted(place, intervention, metric))


def _wanted(place: Place, intervention: str, metric: str | None) -> _Key:
    name = get_host().format("intervention", intervention)
    selector = NOT_SPECIFIC if name == "none" else str(place.at.neurons(place.selection))
    return (str(place.train.out), selector, name, place.language, metric)


def _key(found: Row | Record) -> _Key:
    return (found.adapter or "", found.selector, found.intervention, found.language, found.metric)
