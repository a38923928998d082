"""Tables in the paper's layout, from what was measured, with the paper's numbers in their places."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from scipy import stats

from lnbench.leaderboard.rows import Row
from lnbench.reproduce import catalogue
from lnbench.reproduce.catalogue import ActivationsSpec, CellsSpec
from lnbench.reproduce.measured import Measured, Place, places
from lnbench.reproduce.plan import Piece
from lnbench.reproduce.steps import Collect
from lnbench.reproduce.workspace import Workspace
from lnbench.significance import LEVEL
from lnbench.tables.reproduction import Table, TableRow, Value

SELECTORS = {"lape": "LAPE", "act_prob": "Act Prob 90p"}
"""As the paper calls them."""
METRICS = {"xnli": ["acc"], "xquad": ["exact_match", "f1"]}
"""Of each task; after the first, in brackets."""
_WORDS = {"none": "No Int", "mean": "Int", "zero": "Int 0"}
_PLAIN = ["english"]
"""The fine-tuning that the paper's tables do not name, as it is that of every row."""


def heading(intervention: str) -> str:
    """An intervention as the paper's tables call it."""
    return _WORDS.get(intervention) or f"Int {intervention.upper()}"


def cells_table(title: str, pieces: Sequence[Piece], measured: Measured, *, presets: bool = False) -> Table:
    """The table of lm-eval cells.

    Args:
        title: What the numbers are.
        pieces: Its models; with ``presets``, each under both.
        measured: What their sweeps have measured.
        presets: Whether a row says which preset it was measured under.
    """
    spec = pieces[0].spec
    assert isinstance(spec, CellsSpec)
    shown = {
        "model": True,
        "neurons": spec.columns != ["none"],
        "FTL": list(spec.finetune) != _PLAIN,
        "EL": True,
        "preset": presets,
    }
    rows = []
    for place in (place for piece in pieces for place in places(piece)):
        labels = {
            "model": place.at.title,
            "neurons": SELECTORS[place.selector],
            "FTL": place.train.label,
            "EL": place.language,
            "preset": place.at.preset,
        }
        cells: list[Value | None] = [_cell(place, spec, one, measured) for one in spec.columns]
        rows.append(TableRow(labels=[text for name, text in labels.items() if shown[name]], cells=cells))
    names = [name for name in shown if shown[name]]
    if presets:
        order = list(dict.fromkeys(tuple(row.labels[:-1]) for row in rows))
        rows.sort(key=lambda row: order.index(tuple(row.labels[:-1])))
    return Table(title=title, row_labels=names, columns=[heading(one) for one in spec.columns], rows=rows)


def _cell(place: Place, spec: CellsSpec, intervention: str, measured: Measured) -> Value:
    first, *others = [_value(place, spec, intervention, metric, measured) for metric in METRICS[spec.task]]
    return first.model_copy(update={"bracketed": others[0]}) if others else first


def _value(place: Place, spec: CellsSpec, intervention: str, metric: str, measured: Measured) -> Value:
    row = measured.row(place, intervention, metric)
    failed = measured.row(place, intervention, None)
    printed = _published(spec.published, place, intervention, metric)
    if row is None or row.value is None:
        note = f"failed: {failed.error}" if failed else "not measured"
        return Value(metric=metric, unit="%", published=printed, note=note)
    value, (low, high) = 100 * row.value, interval(row)
    return Value(
        metric=metric,
        unit="%",
        measured=value,
        published=printed,
        difference=None if printed is None else value - printed,
        ci_low=low,
        ci_high=high,
        n=row.n,
        significant=row.significant if intervention != "none" else None,
        control=None if row.control is None else 100 * row.control,
        note=row.note if intervention != "none" else None,
    )


def _published(table: str, place: Place, intervention: str, metric: str) -> float | None:
    numbers = catalogue.published(table)
    rest = (place.train.label, place.language, intervention, metric)
    of_any = numbers.get((place.at.beside, "", *rest))
    return numbers.get((place.at.beside, place.selector, *rest), of_any)


def interval(row: Row) -> tuple[float | None, float | None]:
    """A 95 % interval in per cent: Wilson's score interval of a share; of another mean, by its standard error."""
    if row.value is None or not row.n:
        return None, None
    count = row.value * row.n
    if math.isclose(count, round(count), abs_tol=1e-6) and row.metric != "f1":
        found = stats.binomtest(round(count), row.n).proportion_ci(1 - LEVEL, method="wilson")
        return 100 * float(found.low), 100 * float(found.high)
    if row.stderr is None or row.n < 2:
        return None, None
    reach = float(stats.t.ppf(1 - LEVEL / 2, row.n - 1)) * row.stderr
    return 100 * max(0.0, row.value - reach), 100 * min(1.0, row.value + reach)


_SITES = {"pre": "before the non-linearity, as in the paper", "post": "after the non-linearity, where lnbench writes"}


def activation_tables(title: str, pieces: Sequence[Piece]) -> list[Table]:
    """Averages over all neurons, at both sites; the paper's are of ``pre``."""
    spec = pieces[0].spec
    assert isinstance(spec, ActivationsSpec)
    headings = ["Act" if one == "mean" else f"Act {one.upper()}" for one in spec.columns]
    return [
        Table(
            title=f"{title}, {where}",
            row_labels=["model", "Lang"],
            columns=headings,
            rows=[row for piece in pieces for row in _averages(piece.at, spec, piece.of(Collect)[0].languages, site)],
        )
        for site, where in _SITES.items()
    ]


def _averages(at: Workspace, spec: ActivationsSpec, languages: Sequence[str], site: str) -> Iterator[TableRow]:
    from lnbench.analysis.activation_averages import activation_averages
    from lnbench.statistics import Statistics

    printed = catalogue.published(spec.published) if site == "pre" else {}
    for language in languages:
        loaded = Statistics.load(at.statistics, language)
        averages = {
            name.lower(): value for name, value in activation_averages({language: loaded}, site)[language].items()
        }
        cells: list[Value | None] = []
        for one in spec.columns:
            number = printed.get((at.beside, "", "", language, one, "activation"))
            value = averages[one]
            cells.append(
                Value(
                    metric=one,
                    unit="activation",
                    measured=value,
                    published=number,
                    difference=None if number is None else value - number,
                    n=loaded.tokens,
                    digits=4,
                )
            )
        yield TableRow(labels=[at.title, language], cells=cells)
