"""What the selector bench found: one row per selector and size, as tables, a figure's numbers and sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from lnbench.analysis.stability import compare_halves
from lnbench.figures import selector_bench
from lnbench.figures.figure import Figure
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import FILE, PerplexityMatrix
from lnbench.reproduce import bench
from lnbench.reproduce.bench import EQUAL, FIRST, OWN, RAISE, SECOND, SILENCE, WHOLE_SITE, BenchEntry
from lnbench.reproduce.catalogue import BenchSpec
from lnbench.reproduce.plan import PlannedPart
from lnbench.specificity import MEANINGS, Estimate, matched_specificity
from lnbench.tables.findings import UNITS
from lnbench.tables.reproduction import StoredRow, StoredTable, StoredValue

_SIGNS = {SILENCE: 1.0, RAISE: -1.0}
"""Role → the sign that own − others should have: silenced, a language's own text suffers most; raised, least."""


@dataclass(frozen=True)
class BenchOutcome:
    """One selector at one size, under the intervention of one role: means over the languages that are changed."""

    entry: BenchEntry
    role: str
    matrix: PerplexityMatrix

    @property
    def selectivity(self) -> Estimate:
        """Own − others, in bits per byte, with its interval over blocks of text."""
        mean = self.matrix.diagonal
        return Estimate() if mean is None else Estimate(mean.difference, mean.low, mean.high)

    @property
    def score(self) -> float:
        """What outcomes of one role are ranked by: own − others, turned so that more is better."""
        value = self.selectivity.value
        return float("-inf") if value is None else _SIGNS[self.role] * value

    @property
    def own(self) -> float:
        """Change of the own text, in nats per token."""
        return fmean(self.matrix.cell(language, language).delta_nats for language in self.matrix.changed)

    @property
    def rho(self) -> Estimate:
        """The change of the own texts over that by the control's draws: both means over languages, draw by draw."""
        cells = [self.matrix.cell(language, language) for language in self.matrix.changed]
        draws = [fmean(changes) for changes in zip(*(cell.control_draws for cell in cells), strict=True)]
        return matched_specificity(self.own, draws)

    @property
    def draws(self) -> int:
        """Draws of the control."""
        return max(cell.n_controls for cell in self.matrix.cells)

    @property
    def beyond_draws(self) -> int | None:
        """Languages whose own text changes more than under every draw; None without draws."""
        own = [self.matrix.cell(language, language).exceeds_controls for language in self.matrix.changed]
        return None if None in own else sum(map(bool, own))

    @property
    def first(self) -> int:
        """Languages whose own text is the most harmed of their row."""
        return sum(row.dominant for row in self.matrix.selectivity)


@dataclass(frozen=True)
class BenchResults:
    """All outcomes of one model, and its sets of neurons."""

    part: PlannedPart
    spec: BenchSpec
    outcomes: tuple[BenchOutcome, ...]
    neurons: dict[str, NeuronSet]
    """Slug of an entry → its neurons."""

    @classmethod
    def of(cls, part: PlannedPart) -> BenchResults:
        """Read what the steps have written.

        Raises:
            LnbenchError: a file that a step left is missing or damaged.
        """
        assert isinstance(part.spec, BenchSpec)
        entries = bench.entries_of(part.spec, part.at.settings.bench.count)
        outcomes = [
            BenchOutcome(entry, role, PerplexityMatrix.load(bench.matrix_of(part.at, entry, role) / FILE))
            for role in part.spec.interventions
            for entry in entries
        ]
        return cls(part, part.spec, tuple(outcomes), part.neurons)

    def ranked(self, role: str, *sizes: str) -> list[BenchOutcome]:
        """Return the outcomes of a role at some sizes, best first."""
        chosen = [outcome for outcome in self.outcomes if outcome.role == role and outcome.entry.size in sizes]
        return sorted(chosen, key=lambda outcome: -outcome.score)

    def outcome(self, name: str, size: str, role: str) -> BenchOutcome:
        """Return one outcome."""
        key = (name, size, role)
        return next(each for each in self.outcomes if (each.entry.name, each.entry.size, each.role) == key)

    def stability(self, entry: BenchEntry) -> tuple[float, float] | None:
        """Return the Jaccard index of an entry's two halves, and that by chance: means over languages with neurons."""
        if entry.size == WHOLE_SITE:
            return None
        first, second = (NeuronSet.load(bench.neurons_of(self.part.at, entry, part)) for part in (FIRST, SECOND))
        rows = [row for row in compare_halves({entry.name: (first, second)}) if row.jaccard is not None]
        if not rows:
            return None
        return fmean(row.jaccard or 0.0 for row in rows), fmean(row.expected_jaccard or 0.0 for row in rows)

    def jaccard(self, one: BenchEntry, other: BenchEntry) -> float | None:
        """Return the mean over languages of two entries' Jaccard index; None where their units are of other kinds."""
        first, second = (self.neurons.get(entry.slug) for entry in (one, other))
        if first is None or second is None or first.site != second.site:
            return None
        return fmean(agreement.jaccard for agreement in first.compare(second).values())


def tables(results: BenchResults) -> list[StoredTable]:
    """Return the bench at equal sizes, at own sizes, and the overlap of all selectors at equal sizes."""
    count, draws = results.part.at.settings.bench.count, max(outcome.draws for outcome in results.outcomes)
    silence, lift = (results.spec.interventions[role] for role in (SILENCE, RAISE))
    notes = [
        f"Rows are in the order of own − others under {silence}. {MEANINGS['selectivity']}. Under {silence} more is "
        f"more selective; under {lift} from {results.spec.source}, less is: the text of the language that is raised "
        "should suffer least.",
        f"{MEANINGS['rho']}. Here over {draws} draws of {results.spec.control}, of means over languages, and with an "
        "interval over draws; a set that does no more than its control has 1.",
        "Beyond draws: languages whose own text changes more than under every draw. Halves: Jaccard index of the sets "
        "from two halves of the text, and in brackets that of random sets.",
    ]
    sized = {
        f"Selectors at equal sizes: {count} neurons per language": (EQUAL,),
        "Selectors at their own sizes, and directions in their place": (OWN, WHOLE_SITE),
    }
    found = [_table(title, results, sizes, notes) for title, sizes in sized.items()]
    return [*found, _overlaps(results)]


def _table(title: str, results: BenchResults, sizes: Sequence[str], notes: list[str]) -> StoredTable:
    columns = ["units"]
    for role, choice in results.spec.interventions.items():
        columns += [f"{choice}: own − others", f"{choice}: own", f"{choice}: ρ", f"{choice}: beyond draws"]
        columns += [f"{choice}: own harmed most"] if role == SILENCE else []
    columns += ["halves", "nearest other"]
    rows = []
    for silenced in results.ranked(SILENCE, *sizes):
        entry = silenced.entry
        cells: list[StoredValue | None] = [_units(silenced)]
        for role in results.spec.interventions:
            cells += _cells(results.outcome(entry.name, entry.size, role))
        stable = results.stability(entry)
        cells.append(None if stable is None else _jaccard(stable[0], _jaccard(stable[1])))
        nearest = _nearest(results, entry)
        cells.append(None if nearest is None else _jaccard(nearest[1]).model_copy(update={"note": nearest[0]}))
        rows.append(StoredRow(labels=[entry.name], cells=cells))
    return StoredTable(title=title, row_labels=["selector"], columns=columns, rows=rows, notes=notes)


def _units(outcome: BenchOutcome) -> StoredValue:
    counts = [outcome.matrix.neurons[language] for language in outcome.matrix.changed]
    return StoredValue(metric="units", unit="per language", measured=fmean(counts), digits=0)


def _cells(outcome: BenchOutcome) -> list[StoredValue | None]:
    difference, rho, languages = outcome.selectivity, outcome.rho, len(outcome.matrix.changed)
    unit = UNITS["bits_per_byte" if outcome.matrix.diagonal and outcome.matrix.diagonal.unit != "nats" else "nats"]
    tokens = sum(account.tokens for account in outcome.matrix.slices.values())
    cells: list[StoredValue | None] = [
        _estimated("own_less_others", unit, difference, digits=2, n=tokens),
        StoredValue(metric="own", unit=UNITS["nats"], measured=outcome.own, digits=2, n=tokens),
        _estimated("rho", "ratio", rho, digits=1) if outcome.draws else None,
        None
        if outcome.beyond_draws is None
        else StoredValue(metric="beyond_draws", unit=f"of {languages}", measured=outcome.beyond_draws, digits=0),
    ]
    if outcome.role == SILENCE:
        cells.append(StoredValue(metric="harmed_most", unit=f"of {languages}", measured=outcome.first, digits=0))
    return cells


def _estimated(metric: str, unit: str, found: Estimate, digits: int, n: int | None = None) -> StoredValue:
    value, low, high = found
    return StoredValue(metric=metric, unit=unit, measured=value, ci_low=low, ci_high=high, digits=digits, n=n)


def _jaccard(value: float, bracketed: StoredValue | None = None) -> StoredValue:
    return StoredValue(metric="jaccard", unit="index", measured=value, digits=2, bracketed=bracketed)


def _nearest(results: BenchResults, entry: BenchEntry) -> tuple[str, float] | None:
    """Return the other selector at the same size whose sets are most alike, and the Jaccard index."""
    others = {outcome.entry.name: outcome.entry for outcome in results.ranked(SILENCE, entry.size)}
    indices = {name: results.jaccard(entry, other) for name, other in others.items() if name != entry.name}
    known = {name: index for name, index in indices.items() if index is not None}
    return max(known.items(), key=lambda pair: pair[1]) if known else None


def _overlaps(results: BenchResults) -> StoredTable:
    entries = [outcome.entry for outcome in results.ranked(SILENCE, EQUAL)]
    rows = [
        StoredRow(
            labels=[one.name],
            cells=[
                None if other is one or (index := results.jaccard(one, other)) is None else _jaccard(index)
                for other in entries
            ],
        )
        for one in entries
    ]
    return StoredTable(
        title="Jaccard index of selectors at equal sizes, a mean over languages",
        row_labels=["selector"],
        columns=[entry.name for entry in entries],
        rows=rows,
    )


def figure(results: BenchResults) -> Figure:
    """Return the figure of all outcomes."""
    return selector_bench.selector_bench(
        results.part.at.title,
        results.spec.interventions,
        [
            (outcome.entry.name, outcome.entry.size, outcome.role, *outcome.selectivity, *outcome.rho)
            for role in results.spec.interventions
            for outcome in results.ranked(role, EQUAL, OWN, WHOLE_SITE)
        ],
    )


def findings(results: BenchResults) -> Iterator[str]:
    """Yield what the numbers say of LAPE beside the others, and of all beside their control."""
    for role, choice in results.spec.interventions.items():
        ranked = results.ranked(role, EQUAL)
        names = [outcome.entry.name for outcome in ranked]
        best, lape = ranked[0], next((each for each in ranked if each.entry.name == "lape"), None)
        yield (
            f"Under {choice}, at equal sizes, {best.entry.name} is the most selective "
            f"({_written(best.selectivity)}), then {', '.join(names[1:])}."
        )
        if lape is not None:
            yield from (_compared(choice, lape, outcome) for outcome in ranked if outcome is not lape)
        drawn = [outcome for outcome in results.ranked(role, EQUAL, OWN, WHOLE_SITE) if outcome.draws]
        more = [outcome.entry.name for outcome in drawn if (outcome.rho.low or 0.0) > 1]
        rest = [outcome.entry.name for outcome in drawn if outcome.entry.name not in more]
        if drawn:
            yield (
                f"Under {choice}, the own text changes more than under the control, ρ's whole interval above 1, with "
                f"{', '.join(more) or 'no set'}; it is not shown of {', '.join(rest) or 'none'}."
            )


def _compared(choice: str, lape: BenchOutcome, other: BenchOutcome) -> str:
    """Return whether LAPE or another selector is the more selective, or that the intervals do not tell."""
    one, two = lape.selectivity, other.selectivity
    # An interval that is not known reaches everywhere.
    (least, most), (other_least, other_most) = (
        (-math.inf if each.low is None else each.low, math.inf if each.high is None else each.high)
        for each in (one, two)
    )
    apart = least > other_most or other_least > most
    verdict = ("more" if lape.score > other.score else "less") if apart else "not shown to be more or less"
    return (
        f"Under {choice}, at equal sizes, lape ({_written(one)}) is {verdict} selective than {other.entry.name} "
        f"({_written(two)})."
    )


def _written(found: Estimate) -> str:
    if found.value is None:
        return "not known"
    interval = "" if found.low is None or found.high is None else f" [{found.low:+.2f}, {found.high:+.2f}]"
    return f"{found.value:+.2f}{interval}"
