"""What limits the numbers of a report, worked out from the runs themselves."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from lnbench.leaderboard import Row
from lnbench.report.findings import compared
from lnbench.report.inputs import Sources
from lnbench.report.text import counted, listed, percent
from lnbench.report.view import Caveat


def caveats(sources: Sources) -> list[Caveat]:
    """Those that apply, the gravest first."""
    return [Caveat(title, texts) for title, find in _CHECKS.items() if (texts := list(find(sources)))]


def _failed(sources: Sources) -> Iterator[str]:
    errors = Counter(row.error or "no error was recorded" for row in sources.shown_rows if row.failed)
    for error, count in errors.items():
        yield f"{counted(count, 'cell')} failed and {'is' if count == 1 else 'are'} not in the numbers: {error}"


def _outside(sources: Sources) -> Iterator[str]:
    """Values that no neuron showed on text: what a model does with them says little about what the neurons do."""
    by_intervention: dict[str, list[float]] = defaultdict(list)
    overridden: Counter[str] = Counter()
    for row in _once(sources.shown_rows):
        if row.intervention != "none" and row.control_of is None and row.cell in sources.told:
            overridden[row.intervention] += 1
            share = sources.told[row.cell].outside
            if share:
                by_intervention[row.intervention].append(share)
    for intervention, shares in by_intervention.items():
        yield (
            f"{intervention} wrote values that its neurons never took on the text of the Statistics, in {len(shares)} "
            f"of {counted(overridden[intervention], 'cell')}: up to {percent(max(shares))} of the values. Damage "
            "there may come from the values, not from what the neurons do."
        )
    for folder, matrix in sources.shown_matrices.items():
        shares = [cell.outside_range for cell in matrix.cells if cell.outside_range]
        if shares:
            yield (
                f"In the perplexity matrix of {folder.name}, {matrix.intervention} wrote values that the neurons never "
                f"took on text, in {len(shares)} of {counted(len(matrix.cells), 'cell')}: up to {percent(max(shares))}."
            )


def _sites(sources: Sources) -> Iterator[str]:
    apart = {
        (told.read_site, told.write_site)
        for told in sources.told.values()
        if told.read_site and told.read_site != told.write_site
    }
    for read, write in sorted(apart, key=str):
        yield (
            f"Values were read at the site {read} and written at the site {write}, as in the paper. A value of the one "
            "need not be possible at the other."
        )
    for matrix in sources.shown_matrices.values():
        if matrix.site == "paper":
            yield f"The perplexity matrix of {matrix.selector} reads values before the non-linearity and writes after."


def _uncontrolled(sources: Sources) -> Iterator[str]:
    overridden = [row for row in compared(sources.shown_rows) if row.intervention != "none"]
    without = [row for row in overridden if not row.n_controls]
    if without:
        yield (
            f"{len(without):,} of {counted(len(overridden), 'comparison')} of an override {_has(len(without))} no "
            "control of random neurons: whether as many other neurons would do the same is not known."
        )
    if single := [row for row in overridden if row.n_controls == 1]:
        yield (
            f"{counted(len(single), 'comparison')} {_has(len(single))} one draw of random neurons only. Draws differ, "
            "so a difference from one may be that draw's."
        )
    for folder, matrix in sources.shown_matrices.items():
        if any(not cell.n_controls for cell in matrix.cells):
            yield f"The perplexity matrix of {folder.name} has cells without a control of random neurons."


def _few(sources: Sources) -> Iterator[str]:
    tested = compared(sources.shown_rows)
    unseen = [row for row in tested if not row.significant and (row.mde is None or abs(row.delta or 0.0) < row.mde)]
    if unseen:
        documents = sorted({row.n for row in unseen if row.n is not None})
        few = listed(map(str, documents)) if len(documents) < 4 else f"{documents[0]} to {documents[-1]}"
        yield (
            f"{len(unseen):,} of {counted(len(tested), 'comparison')} found less than what {few or 'so few'} documents "
            "can show. No mark there means that it is not known, and not that there is no effect."
        )


def _limited(sources: Sources) -> Iterator[str]:
    limits = sorted({row.limit for row in sources.shown_rows if row.limit is not None})
    if limits:
        sizes = listed(f"{limit:g}" for limit in limits)
        yield f"Only the first documents of each task were measured (limit {sizes}); others may give other numbers."


def _no_neurons(sources: Sources) -> Iterator[str]:
    empty: dict[str, list[str]] = defaultdict(list)
    for told in sources.told.values():
        name = sources.named(told.selector) or "a file"
        empty[name] += [language for language, count in told.neurons.items() if not count]
    for name, neurons in sources.neuron_sets.items():
        empty[name] += [language for language in neurons if not neurons.count(language)]
    for name, languages in empty.items():
        if languages:
            yield f"{name} found no neurons for {listed(sorted(set(languages)))}: nothing can be overridden there."


def _mixed(sources: Sources) -> Iterator[str]:
    models = {
        (row.model, row.revision, row.dtype, row.quantization, row.weights)
        for row in sources.shown_rows
        if not row.failed
    }
    if len(models) > 1:
        named = listed(sorted({" ".join(filter(None, model[:4])) for model in models}))
        yield (
            f"{len(models)} models are shown together ({named}). Each is compared with itself only; their numbers may "
            "differ for many reasons."
        )


def _uncorrected(sources: Sources) -> Iterator[str]:
    tables = {(*row.measured_on, row.metric) for row in compared(sources.shown_rows)}
    if len(tables) > 1:
        yield (
            f"p-values are corrected within a table. This page has {len(tables)} of them: about one in twenty tables "
            "in which nothing changes has a mark all the same. Intervals are not corrected at all."
        )


def _notes(sources: Sources) -> Iterator[str]:
    for note, count in Counter(row.note for row in sources.shown_rows if row.note).items():
        yield f"{counted(count, 'row')}: {note}."


def _unfinished(sources: Sources) -> Iterator[str]:
    for folder, training in sources.trainings.items():
        if not training.get("finished"):
            yield f"The training of {folder.name} has not finished."


def _once(rows: Sequence[Row]) -> list[Row]:
    """One row a cell."""
    return list({row.cell: row for row in rows if not row.failed}.values())


def _has(count: int) -> str:
    return "has" if count == 1 else "have"


_CHECKS: dict[str, Callable[[Sources], Iterator[str]]] = {
    "Failed cells": _failed,
    "Values outside the observed range": _outside,
    "Read and written at different sites": _sites,
    "No control, or a single one": _uncontrolled,
    "Too few documents": _few,
    "Limited documents": _limited,
    "Languages without neurons": _no_neurons,
    "Different models": _mixed,
    "Several tables": _uncorrected,
    "Not compared, or not the same": _notes,
    "Unfinished training": _unfinished,
}
