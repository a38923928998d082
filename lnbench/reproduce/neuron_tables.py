"""Neurons of languages, layers and selectors as tables."""

from __future__ import annotations

from collections.abc import Mapping

from lnbench import analysis
from lnbench.neurons import NeuronSet
from lnbench.reproduce.catalogue import NeuronsSpec
from lnbench.reproduce.plan import Piece
from lnbench.reproduce.steps import Select
from lnbench.tables.reproduction import Table, TableRow, Value


def neuron_tables(piece: Piece) -> list[Table]:
    """The numbers of a figure of neurons."""
    spec, titles = piece.spec, piece.at.selections
    assert isinstance(spec, NeuronsSpec)
    sets = {step.name: NeuronSet.load(step.out) for step in piece.of(Select)}
    if spec.drawing == "per_language":
        return [_counts(titles[name].title, one) for name, one in sets.items()]
    if spec.drawing == "per_layer":
        return [_layers(titles[name].title, one) for name, one in sets.items()]
    if spec.drawing == "overlap":
        return [overlap_table(titles[name].title, one) for name, one in sets.items()]
    return _agreements(sets, {name: one.title for name, one in titles.items()})


def overlap_table(title: str, neurons: NeuronSet) -> Table:
    """The share of the row language's neurons that are the column's too; as ``control``, what chance would give."""
    found = analysis.language_overlap(neurons)
    shares, chances, counts = found.share.tolist(), found.expected_share.tolist(), found.counts.diagonal().tolist()
    rows = []
    for row, language in enumerate(found.languages):
        cells = [
            _share(share, None if row == column else chance, counts[row])
            for column, (share, chance) in enumerate(zip(shares[row], chances[row], strict=True))
        ]
        rows.append(TableRow(labels=[language], cells=cells))
    return Table(
        title=f"{title}: share of the row language's neurons that are the column's too, %",
        row_labels=["neurons of"],
        columns=found.languages,
        rows=rows,
    )


def _counts(title: str, neurons: NeuronSet) -> Table:
    counts = {language: neurons.count(language) for language in neurons}
    row = TableRow(labels=[title], cells=[_number(count) for count in counts.values()])
    return Table(title="Neurons of each language", row_labels=["neurons"], columns=list(counts), rows=[row])


def _layers(title: str, neurons: NeuronSet) -> Table:
    per_layer = [neurons.per_layer(language).tolist() for language in neurons]
    rows = [
        TableRow(labels=[str(layer)], cells=[_number(count) for count in counts])
        for layer, counts in enumerate(zip(*per_layer, strict=True))
    ]
    return Table(
        title=f"{title}: neurons of each layer and language", row_labels=["layer"], columns=neurons.languages, rows=rows
    )


def _agreements(sets: Mapping[str, NeuronSet], titles: Mapping[str, str]) -> list[Table]:
    *firsts, last = sets
    tables = []
    for name in firsts:
        found = sets[name].compare(sets[last])
        chance = {language: analysis.by_chance(sets[name], sets[last], language) for language in found}
        rows = [
            TableRow(
                labels=[language],
                cells=[
                    _number(one.own),
                    _number(one.other),
                    Value(
                        metric="shared",
                        unit="neurons",
                        measured=one.intersection,
                        control=chance[language][0],
                        digits=0,
                    ),
                    Value(
                        metric="jaccard",
                        unit="share",
                        measured=one.jaccard,
                        control=chance[language][1],
                        digits=3,
                    ),
                ],
            )
            for language, one in found.items()
        ]
        title = f"Neurons that {titles[name]} and {titles[last]} share"
        columns = [titles[name], titles[last], "both", "Jaccard"]
        tables.append(Table(title=title, row_labels=["language"], columns=columns, rows=rows))
    return tables


def _share(share: float, chance: float | None, count: int) -> Value | None:
    if not count:
        return None
    control = None if chance is None else 100 * chance
    return Value(metric="share", unit="%", measured=100 * share, control=control, n=count, digits=0)


def _number(count: int) -> Value:
    return Value(metric="neurons", unit="neurons", measured=count, digits=0)
