"""What a leaderboard says first: one finding in a sentence, how sure it is, and what was not found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lnbench.leaderboard.rows import Row, compared, tables_of
from lnbench.selection_account import is_shared
from lnbench.significance import LEAST_DRAWS
from lnbench.sweeps.records import BASELINE
from lnbench.tables.caveats import is_hopeless
from lnbench.tables.findings import worse
from lnbench.tables.plain_names import metric_of, pair_name, plain_action, plain_name, task_title
from lnbench.tables.words import brief, control_units, counted, listed, model_name, range_of, signed

_LEAST_RATIO = 2.0
"""How many times the change by a control that is too few draws for a test a change must be, to count as beyond it."""
_MOST_NAMED = 4
"""Languages that are named; more are counted."""


@dataclass(frozen=True)
class Headline:
    """What to read first.

    Attributes:
        finding: One sentence.
        how_sure: Documents, corrected p, controls: one line.
        not_found: What a reader might think was shown, and was not: one line, empty if all was found.
        rows: The comparisons of the finding, one per model and language; empty where there is nothing to show.
    """

    finding: str
    how_sure: str
    not_found: str
    rows: Sequence[Row] = ()


def headline(rows: Sequence[Row]) -> Headline:
    """Return what the rows of a leaderboard say first, by rules.

    The finding is about one selector and intervention, or adapter, in one task and metric: the one with significant
    changes in most languages, of which those beyond their control count first, and neurons that languages share last.
    """
    tested = compared(rows)
    if not tested:
        failed = sum(row.failed for row in rows)
        return Headline(
            "Nothing was compared, so nothing is said of changes.",
            f"{counted(len(rows), 'row')}, of which {failed:,} failed: none has the same documents with and without "
            "intervention.",
            "Not found: any effect; it takes a cell without intervention, and one with.",
        )
    changed = [row for row in tested if row.significant]
    return _found(tested, changed) if changed else _nothing(tested)


def experiments(rows: Sequence[Row]) -> list[list[Row]]:
    """Return compared rows by what was done and measured, over models and languages."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        done = (row.finetune, row.selector, row.intervention, row.override_setup, row.seed, row.limit)
        groups[(row.setup, row.task_pattern, row.metric, *done)].append(row)
    return list(groups.values())


# Something is significant


def _found(tested: Sequence[Row], changed: Sequence[Row]) -> Headline:
    tables = {id(row): table for table in tables_of(tested) for row in table}
    telling = max(experiments(tested), key=_rank)
    hits = [row for row in telling if row.significant]
    opposite = [row for row in changed if _known(row) and worse(row) != worse(hits[0])]
    opposite = opposite if len({worse(row) for row in hits}) == 1 and _known(hits[0]) else []
    return Headline(
        _sentence(telling, hits),
        _how_sure(hits, [len(tables[id(row)]) for row in hits]),
        _not_found(telling, hits, opposite, tested),
        telling,
    )


def _known(row: Row) -> bool:
    """Return whether the direction of a change is known to be for better or worse."""
    return row.higher_is_better is not None


def _rank(group: Sequence[Row]) -> tuple[Any, ...]:
    hits = [row for row in group if row.significant]
    moved = [abs(row.delta or 0.0) / abs(row.baseline) for row in hits if row.baseline]
    return (
        bool(hits),
        not _shared(group),
        sum(map(_beyond_control, hits)),
        len(hits),
        fmean(moved) if moved else 0.0,
    )


def _beyond_control(row: Row) -> bool:
    """Return whether a change is more than its control's, by a test or, with too few draws for one, several times."""
    if row.control_p_holm is not None:
        return bool(row.control_significant)
    return row.n_controls > 0 and (row.rho is None or row.rho < 0 or row.rho >= _LEAST_RATIO)


def _shared(group: Sequence[Row]) -> bool:
    """Return whether the neurons of any row are mostly other languages' too."""
    return any(is_shared(row.neurons_own) for row in group if not row.is_baseline)


def _largest(rows: Sequence[Row]) -> Row:
    return max(rows, key=lambda row: abs(row.delta or 0.0))


def _sentence(group: Sequence[Row], hits: Sequence[Row]) -> str:
    models = list(dict.fromkeys(model_name(row.model) for row in group))
    places = list(dict.fromkeys(row.pair for row in group))
    subject = what_was_done(hits[0], several=len(places) > 1)
    by_word: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(hits, key=lambda row: not worse(row)):
        by_word[_direction(row)].append(row)
    parts = [f"{word} {_where(own, places)}{_example(own)}" for word, own in by_word.items()]
    return f"{subject} makes {_of(models, hits)} {', and '.join(parts)}."


def _direction(row: Row) -> str:
    return "different" if not _known(row) else "worse" if worse(row) else "better"


def what_was_done(row: Row, *, several: bool) -> str:
    """Name an experiment, to begin a sentence with: ``Setting Hindi's neurons (LAPE, top 1 %) to zero``.

    Args:
        row: One of its comparisons.
        several: Whether it is of several languages, each with its own neurons.
    """
    adapter = "" if row.finetune == BASELINE else f"adapter {row.finetune}"
    if row.is_baseline:
        return f"The {adapter}"
    own = "a language's own" if several else f"{pair_name(row.language, row.source)}'s"
    done = plain_action(row.intervention, f"{own} neurons ({plain_name('selector', row.selector)})")
    return ", with the ".join(filter(None, (f"{done[0].upper()}{done[1:]}", adapter)))


def _of(models: Sequence[str], hits: Sequence[Row]) -> str:
    changed = len({row.model for row in hits})
    if len(models) == 1:
        return models[0]
    return f"all {len(models)} models" if changed == len(models) else f"{changed} of {len(models)} models"


def _where(own: Sequence[Row], places: Sequence[str]) -> str:
    names = list(dict.fromkeys(pair_name(row.language, row.source) for row in own))
    if len(places) == 1:
        return f"in {names[0]}"
    if len(names) == len(places):
        return f"in that language, in all {len(places)} languages"
    which = f" ({listed(names)})" if 1 < len(names) <= _MOST_NAMED else ""
    one = f": {names[0]}" if len(names) == 1 else ""
    return f"in that language, in {len(names)} of {len(places)} languages{which}{one}"


def _example(own: Sequence[Row]) -> str:
    """Say how large the change is where it is largest, and what as many random neurons do."""
    row = _largest(own)
    name = pair_name(row.language, row.source)
    whose = f", most in {name}" if len({other.pair for other in own}) > 1 else ""
    model = f" of {model_name(row.model)}" if len({other.model for other in own}) > 1 else ""
    control = ""
    if row.control is not None and row.baseline is not None:
        control = f", against {_short(row.control - row.baseline)} with {control_units(row.drawn_by)}"
    return f"{whose}{model}: {amount(row)}{control}"


def amount(row: Row) -> str:
    """Write a row's change with its unit, or with its metric's title where that has none: ``+1.55 bits per byte``."""
    metric = metric_of(row.metric)
    return f"{_short(row.delta)} {metric.unit}" if metric.unit else f"{metric.title} {_short(row.delta)}"


def _short(value: float | None) -> str:
    """Write a change with two decimals, a small one with three."""
    return signed(value, 2 if value is None or abs(value) >= 0.01 or value == 0 else 3)


def _how_sure(hits: Sequence[Row], families: Sequence[int]) -> str:
    documents = range_of(row.n for row in hits if row.n is not None)
    worst = max(row.p_holm or 0.0 for row in hits)
    p = "p < 0.001" if worst < 0.001 else f"p {'=' if len(hits) == 1 else '≤'} {worst:.3f}"
    return f"n = {documents} documents per language; {p}, corrected for {_tests(families)}; {_draws(hits)}."


def _tests(families: Sequence[int]) -> str:
    return f"{range_of(families)} comparison{'' if set(families) == {1} else 's'}"


def _draws(hits: Sequence[Row]) -> str:
    """Say what the control of significant changes was, and whether they differ from it."""
    drawn = [row for row in hits if row.n_controls]
    if not drawn:
        return "no control was run, so that as many random neurons might do as much"
    units = control_units(drawn[0].drawn_by)
    draws = f"{range_of(row.n_controls for row in drawn)} {'draw' if drawn[0].n_controls == 1 else 'draws'} of {units}"
    tested = [row for row in drawn if row.control_p_holm is not None]
    if not tested:
        return f"{draws}, too few for a test ({LEAST_DRAWS})"
    beyond = sum(bool(row.control_significant) for row in tested)
    return f"beyond {draws} in {beyond} of {len(tested)}, by a test over draws and documents"


def _not_found(group: Sequence[Row], hits: Sequence[Row], opposite: Sequence[Row], tested: Sequence[Row]) -> str:
    missing = list(_missing(group, hits, opposite, tested))
    parts = [f"Not found: {'; '.join(missing)}."] if missing else []
    if opposite:
        word = "better" if worse(hits[0]) else "worse"
        parts.append(f"Elsewhere {len(opposite):,} of {counted(len(tested), 'comparison')} {_is(opposite)} {word}.")
    return " ".join(parts)


def _missing(
    group: Sequence[Row], hits: Sequence[Row], opposite: Sequence[Row], tested: Sequence[Row]
) -> Iterator[str]:
    if silent := list(dict.fromkeys(pair_name(row.language, row.source) for row in group if not row.significant)):
        named = listed(silent) if len(silent) <= _MOST_NAMED else f"{len(silent)} languages"
        yield f"a significant change in {named}"
    if len({worse(row) for row in hits}) == 1 and hits[0].higher_is_better is not None and not opposite:
        yield f"anything {'better' if worse(hits[0]) else 'worse'} (0 of {counted(len(tested), 'comparison')})"
    if _shared(group):
        yield "neurons of one language alone, as most of these are other languages' too"
    if not any(row.n_controls for row in hits) and not hits[0].is_baseline:
        yield "that these neurons do more than any others"


def _is(rows: Sequence[Row]) -> str:
    return "is" if len(rows) == 1 else "are"


# Nothing is significant


def _nothing(tested: Sequence[Row]) -> Headline:
    languages = list(dict.fromkeys(pair_name(row.language, row.source) for row in tested))
    models = list(dict.fromkeys(model_name(row.model) for row in tested))
    largest = _largest(tested)
    named = listed(languages) if len(languages) <= _MOST_NAMED else f"{len(languages)} languages"
    title = task_title(largest.task_pattern, largest.task_title)
    return Headline(
        f"{_all_that_was_done(tested)} changes what {listed(models)} can do in {named}, as far as can be seen: none of "
        f"{counted(len(tested), 'comparison')} is significant.",
        _visible(max(experiments(tested), key=len), tables_of(tested)),
        f"Not found: that there is no effect. The largest change is {amount(largest)} "
        f"({pair_name(largest.language, largest.source)}, {title}): {_change_name(largest)}.",
        next(group for group in experiments(tested) if largest in group),
    )


def _all_that_was_done(tested: Sequence[Row]) -> str:
    kinds = {"no override of neurons": not all(row.is_baseline for row in tested)}
    kinds["no adapter"] = any(row.finetune != BASELINE for row in tested)
    done = listed(kind for kind, applies in kinds.items() if applies)
    return f"{done[0].upper()}{done[1:]}"


def _visible(group: Sequence[Row], tables: Sequence[Sequence[Row]]) -> str:
    """Say what size of change would have been seen."""
    documents = range_of(row.n for table in tables for row in table if row.n is not None)
    tests = f"n = {documents} documents per language, corrected for {_tests(list(map(len, tables)))}"
    if all(map(is_hopeless, tables)):
        return f"{tests}: with so few documents no change, however large, can be significant."
    effects = [row.mde for row in group if row.mde is not None]
    if not effects:
        return f"{tests}; how large a change would have been seen is not known."
    metric, size = metric_of(group[0].metric), brief(max(effects))
    shown = f"{size} {metric.unit}" if metric.unit else f"{size} in {metric.title}"
    return f"{tests}: a change of {shown} would have been seen four times in five, before the correction."


def _change_name(row: Row) -> str:
    """Name a change: the intervention and the selector, or the adapter."""
    adapter = "" if row.finetune == BASELINE else f"adapter {row.finetune}"
    names = [plain_name("intervention", row.intervention), plain_name("selector", row.selector)]
    return ", ".join(filter(None, (adapter, *([] if row.is_baseline else names))))
