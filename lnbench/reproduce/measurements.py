"""What the sweeps of a table have measured, found by the table's own rows, and the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lnbench import leaderboard
from lnbench.analysis.activation_averages import activation_averages
from lnbench.host import changes_nothing, get_host
from lnbench.leaderboard.merged_records import Result
from lnbench.leaderboard.rows import Row
from lnbench.lm.arguments import without_home
from lnbench.model.architectures import POST, PRE, SITE_DESCRIPTIONS
from lnbench.reproduce import catalogue
from lnbench.reproduce.catalogue import ActivationsSpec, CellsSpec, PublishedKey
from lnbench.reproduce.plan import CellsRow, PlannedPart
from lnbench.statistics import Statistics
from lnbench.sweeps.records import NOT_SPECIFIC, Record
from lnbench.tables.paper import METRICS, SELECTORS, activation, heading, score
from lnbench.tables.reproduction import StoredRow, StoredTable, StoredValue

_NOT_NAMED = ["english"]
"""The fine-tuning that the paper's tables do not name, as it is that of every row."""
_SITES = {
    PRE: f"{SITE_DESCRIPTIONS[PRE]}, as in the paper",
    POST: f"{SITE_DESCRIPTIONS[POST]}, where lnbench writes",
}


class Measurements:
    """The results of the sweeps of some parts, each beside its baseline and controls."""

    def __init__(self, parts: Sequence[PlannedPart]) -> None:
        results = leaderboard.read_runs(dict.fromkeys(step.out for part in parts for step in part.of("sweep")))
        self.rows = leaderboard.build(results)
        self._rows = {_key(row): row for row in self.rows if row.control_of is None}
        self._results = {_key(result.record): result for result in results if result.record.control_of is None}

    def row(self, place: CellsRow, intervention: str, metric: str | None) -> Row | None:
        """Return what the leaderboard says of a cell; without a metric, of one that failed."""
        return self._rows.get(_key_of(place, intervention, metric))

    def result(self, place: CellsRow, intervention: str, metric: str) -> Result | None:
        """Return a cell with its documents."""
        return self._results.get(_key_of(place, intervention, metric))


def _key_of(place: CellsRow, intervention: str, metric: str | None) -> tuple[str | None, ...]:
    name = get_host().format("intervention", intervention)
    selector = NOT_SPECIFIC if changes_nothing(name) else without_home(str(place.at.neurons(place.selection)))
    return (without_home(str(place.adapter.out)), selector, name, place.language, metric)


def _key(record: Row | Record) -> tuple[str | None, ...]:
    return (record.adapter or "", record.selector, record.intervention, record.language, record.metric)


def cells_table(
    spec: CellsSpec, parts: Sequence[PlannedPart], measured: Measurements, *, presets: bool = False
) -> StoredTable:
    """Return the table of lm-eval cells; with ``presets``, each row says under which of them it was measured."""
    places = [place for part in parts for place in part.rows]
    labels = {"model": [place.at.title for place in places]}
    if not all(map(changes_nothing, spec.columns)):
        labels["neurons"] = [SELECTORS[place.selector] for place in places]
    if list(spec.finetune) != _NOT_NAMED:
        labels["FTL"] = [place.adapter.label for place in places]
    labels["EL"] = [place.language for place in places]
    order = list(zip(*labels.values(), strict=True))
    if presets:
        labels["preset"] = [place.at.preset for place in places]
    rows = [
        StoredRow(labels=list(names), cells=[_cell(place, name, measured) for name in spec.columns])
        for names, place in zip(zip(*labels.values(), strict=True), places, strict=True)
    ]
    # Both presets of a row are shown together.
    rows.sort(key=lambda row: order.index(tuple(row.labels[: len(labels) - presets])))
    columns = [heading(intervention) for intervention in spec.columns]
    notes = [spec.note] if spec.note else []
    return StoredTable(title=spec.title, row_labels=list(labels), columns=columns, rows=rows, notes=notes)


def _cell(place: CellsRow, intervention: str, measured: Measurements) -> StoredValue:
    failed = measured.row(place, intervention, None)
    error = None if failed is None else failed.error
    numbers, at = catalogue.published(place.spec.published), place.at.beside
    values = []
    for metric in METRICS[place.spec.task]:
        key = PublishedKey(at, place.selector, place.adapter.label, place.language, intervention, metric)
        printed = numbers.get(key, numbers.get(key._replace(selector="")))
        values.append(score(metric, measured.row(place, intervention, metric), printed, error))
    first, *others = values
    return first.model_copy(update={"bracketed": others[0]}) if others else first


def activations_tables(spec: ActivationsSpec, parts: Sequence[PlannedPart]) -> list[StoredTable]:
    """Return averages over all neurons, at both sites; the paper's are of ``pre``."""
    columns = ["Act" if name == "mean" else f"Act {name.upper()}" for name in spec.columns]
    tables = []
    for site, where in _SITES.items():
        rows = [row for part in parts for row in _activations(part, spec, site)]
        title = f"{spec.title}, {where}"
        tables.append(StoredTable(title=title, row_labels=["model", "Lang"], columns=columns, rows=rows))
    return tables


def _activations(part: PlannedPart, spec: ActivationsSpec, site: str) -> Iterator[StoredRow]:
    printed = catalogue.published(spec.published) if site == PRE else {}
    for language in part.of("statistics")[0].languages:
        statistics = Statistics.load(part.at.statistics, language)
        averages = activation_averages({language: statistics}, site)[language]
        values = {name.lower(): value for name, value in averages.items()}
        keys = {name: PublishedKey(part.at.beside, "", "", language, name, "activation") for name in spec.columns}
        cells = [activation(name, values[name], printed.get(key), statistics.tokens) for name, key in keys.items()]
        yield StoredRow(labels=[part.at.title, language], cells=list(cells))
