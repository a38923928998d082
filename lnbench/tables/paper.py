"""Tables in the paper's layout, from what was measured, with the paper's numbers in their places."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from scipy import stats

from lnbench import analysis
from lnbench.leaderboard.rows import Row
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import MatrixCell, PerplexityMatrix
from lnbench.significance import LEVEL, wilson_interval
from lnbench.tables.findings import UNITS
from lnbench.tables.reproduction import StoredRow, StoredTable, StoredValue

METRICS = {"xnli": ["acc"], "xquad": ["exact_match", "f1"]}
"""Of each task; after the first, in brackets."""
SELECTORS = {"lape": "LAPE", "act_prob": "Act Prob 90p"}
"""As the paper calls them."""
_INTERVENTIONS = {"none": "No Int", "mean": "Int", "zero": "Int 0"}


def heading(intervention: str) -> str:
    """Return an intervention as the paper's tables call it."""
    return _INTERVENTIONS.get(intervention) or f"Int {intervention.upper()}"


def score(metric: str, row: Row | None, published: float | None, error: str | None) -> StoredValue:
    """Return a cell's value in per cent.

    Args:
        metric: Its name.
        row: What the leaderboard says of the cell; None where it is not measured.
        published: The paper's number in its place.
        error: Why the cell failed, if it did.
    """
    if row is None or row.value is None:
        note = "not measured" if error is None else f"failed: {error}"
        return StoredValue(metric=metric, unit="%", published=published, note=note)
    low, high = score_interval(row)
    changed = not row.is_baseline
    return StoredValue(
        metric=metric,
        unit="%",
        measured=100 * row.value,
        published=published,
        difference=None if published is None else 100 * row.value - published,
        ci_low=low,
        ci_high=high,
        n=row.n,
        significant=row.significant if changed else None,
        control=None if row.control is None else 100 * row.control,
        note=row.note if changed else None,
    )


def score_interval(row: Row) -> tuple[float | None, float | None]:
    """Return a 95 % interval in per cent: Wilson's of a share; of another mean, by its standard error.

    None where the documents have no spread: equal values say nothing of other documents.
    """
    if row.value is None or not row.n:
        return None, None
    count = row.value * row.n
    if math.isclose(count, round(count), abs_tol=1e-6) and row.metric != "f1":
        low, high = wilson_interval(round(count), row.n)
        return 100 * low, 100 * high
    if not row.stderr or row.n < 2:
        return None, None
    reach = float(stats.t.ppf(1 - LEVEL / 2, row.n - 1)) * row.stderr
    return 100 * max(0.0, row.value - reach), 100 * min(1.0, row.value + reach)


def activation(statistic: str, value: float, published: float | None, tokens: int) -> StoredValue:
    """Return an activation statistic, averaged over all neurons, of so many tokens."""
    difference = None if published is None else value - published
    return StoredValue(
        metric=statistic,
        unit="activation",
        measured=value,
        published=published,
        difference=difference,
        n=tokens,
        digits=4,
    )


def matrix_tables(title: str, matrix: PerplexityMatrix) -> Iterator[StoredTable]:
    """Yield the change in each unit: rows, whose neurons are changed; columns, whose text is read."""

    def value(cell: MatrixCell, unit: str) -> StoredValue:
        return StoredValue(
            metric=f"delta_{unit}",
            unit=UNITS[unit],
            measured=getattr(cell, f"delta_{unit}"),
            ci_low=getattr(cell, f"delta_{unit}_low"),
            ci_high=getattr(cell, f"delta_{unit}_high"),
            n=matrix.slices[cell.read].tokens,
            significant=cell.p_holm < LEVEL,
            control=cell.control_delta_nats if unit == "nats" else None,
            digits=1 if unit == "perplexity" else 3,
        )

    for unit, what in UNITS.items():
        rows = {changed: [value(cell, unit) for cell in matrix.row(changed)] for changed in matrix.changed}
        yield _table(f"{title}, in {what} (rows: whose neurons; columns: whose text)", "changed", matrix.read, rows)


def neuron_tables(drawing: str, sets: Mapping[str, NeuronSet]) -> list[StoredTable]:
    """Return the numbers of a figure of neurons.

    Args:
        drawing: ``per_language``, ``overlap`` or ``per_layer``, of each set; ``selectors``, of each against the last.
        sets: Title → NeuronSet.
    """
    if drawing == "selectors":
        *firsts, last = sets
        return [_agreement_table(first, sets[first], last, sets[last]) for first in firsts]
    table_of = {"per_language": _counts_table, "per_layer": _layers_table, "overlap": _overlap_table}[drawing]
    return [table_of(title, neurons) for title, neurons in sets.items()]


def _overlap_table(title: str, neurons: NeuronSet) -> StoredTable:
    """Return the share of the row language's neurons that are the column's too; as ``control``, what chance gives."""
    overlap = analysis.language_overlap(neurons)
    shares, expected = (100 * overlap.share).tolist(), (100 * overlap.expected_share).tolist()
    rows: dict[str, list[StoredValue | None]] = {}
    for row, (language, own) in enumerate(zip(overlap.languages, overlap.counts.diagonal().tolist(), strict=True)):
        rows[language] = [None] * len(overlap.languages)
        for column, share in enumerate(shares[row] if own else ()):
            control = None if row == column else expected[row][column]
            value = StoredValue(metric="share", unit="%", measured=share, control=control, n=own, digits=0)
            rows[language][column] = value
    what = f"{title}: share of the row language's neurons that are the column's too, %"
    return _table(what, "neurons of", overlap.languages, rows)


def _counts_table(title: str, neurons: NeuronSet) -> StoredTable:
    counts = [_count(neurons.count(language)) for language in neurons]
    return _table("Neurons of each language", "neurons", neurons.languages, {title: counts})


def _layers_table(title: str, neurons: NeuronSet) -> StoredTable:
    layers = zip(*(neurons.per_layer(language).tolist() for language in neurons), strict=True)
    rows = {str(layer): [_count(count) for count in counts] for layer, counts in enumerate(layers)}
    return _table(f"{title}: neurons of each layer and language", "layer", neurons.languages, rows)


def _agreement_table(first: str, neurons: NeuronSet, second: str, others: NeuronSet) -> StoredTable:
    rows = {}
    for language, agreement in neurons.compare(others).items():
        expected, jaccard = analysis.by_chance(neurons, others, language)
        rows[language] = [
            _count(agreement.own),
            _count(agreement.other),
            _count(agreement.intersection, "shared", expected),
            StoredValue(metric="jaccard", unit="share", measured=agreement.jaccard, control=jaccard, digits=3),
        ]
    return _table(f"Neurons that {first} and {second} share", "language", [first, second, "both", "Jaccard"], rows)


def _count(count: int, metric: str = "neurons", control: float | None = None) -> StoredValue:
    return StoredValue(metric=metric, unit="neurons", measured=count, control=control, digits=0)


def _table(
    title: str, label: str, columns: Sequence[str], rows: Mapping[str, Sequence[StoredValue | None]]
) -> StoredTable:
    stored = [StoredRow(labels=[name], cells=list(values)) for name, values in rows.items()]
    return StoredTable(title=title, row_labels=[label], columns=list(columns), rows=stored)
