"""Perplexity matrices in words: whose text suffers, and which shared neurons explain it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lnbench.analysis.overlap import language_overlap
from lnbench.neurons import NeuronSet
from lnbench.report.text import counted, listed, number, percent, signed, span
from lnbench.report.view import Finding, Table
from lnbench.tables.findings import shared_neurons
from lnbench.tables.perplexity import marks

if TYPE_CHECKING:
    from lnbench.perplexity.matrix import Cell, Contrast, PerplexityMatrix

_MOST_HARMED = 3
"""Other languages that are shown for each."""


@dataclass(frozen=True)
class Harm:
    """One matrix in tables and sentences."""

    title: str
    finding: Finding
    matrix: Table
    selectivity: Table
    shared: Table | None
    """Why a language suffers from another's neurons."""
    notes: tuple[str, ...]
    command: str | None


def harm(name: str, matrix: PerplexityMatrix, neurons: NeuronSet | None) -> Harm:
    """The tables of one matrix.

    Args:
        name: Of the run.
        matrix: What was measured.
        neurons: The set whose neurons were changed, if it is at hand: it tells what chance would share.
    """
    change = f"{matrix.intervention} on the neurons of {matrix.selector}"
    title = f"Perplexity under {change}, {matrix.model} ({name})"
    text = ", ".join(f"{language} {one.tokens:,}" for language, one in matrix.slices.items())
    return Harm(
        title,
        Finding(title, _verdict(matrix), tuple(_details(matrix))),
        _matrix(matrix),
        _selectivity(matrix),
        _shared(matrix, neurons),
        (f"Tokens read in each language: {text}; block length {matrix.length}, site {matrix.site}.", *matrix.notes),
        matrix.command,
    )


def _contrasts(matrix: PerplexityMatrix) -> tuple[str, dict[str, Contrast]]:
    """Each row's own text against the others, and its unit: bits per byte, which compare texts of all languages."""
    if all(one.bits_per_byte is not None for one in matrix.selectivity):
        return "bits per byte", {one.changed: one.bits_per_byte or one for one in matrix.selectivity}
    return "nats per token", {one.changed: one for one in matrix.selectivity}


def _verdict(matrix: PerplexityMatrix) -> str:
    unit, contrasts = _contrasts(matrix)
    judged = {changed: one for changed, one in contrasts.items() if one.others is not None}
    if not judged:
        return "No language has both its neurons changed and another language's text read beside its own."
    own = [changed for changed, one in judged.items() if one.dominant]
    of = counted(len(judged), "language")
    if not own:
        return f"In {unit}, for none of {of} does its own text suffer most from its neurons' change."
    rest = "" if len(own) == len(judged) else f" (not {listed(one for one in judged if one not in own)})"
    return (
        f"In {unit}, for {len(own)} of {of} the text of the language itself suffers most when its neurons are changed: "
        f"{listed(own)}{rest}."
    )


def _details(matrix: PerplexityMatrix) -> Iterator[str]:
    for language, count in matrix.neurons.items():
        if not count:
            yield f"{language} has no neurons of its own here, so its row is 0."
    yield from shared_neurons(matrix)
    yield from _controlled(matrix)


def _controlled(matrix: PerplexityMatrix) -> Iterator[str]:
    own = [matrix.cell(one.changed, one.changed) for one in matrix.selectivity]
    if tested := [cell for cell in own if cell.exceeds_controls is not None]:
        beyond = [cell.changed for cell in tested if cell.exceeds_controls]
        yield (
            f"On the diagonal, the change is beyond that of every draw of as many random neurons for {listed(beyond)} "
            f"({len(beyond)} of {len(tested)})."
        )


def _share(matrix: PerplexityMatrix, changed: str, other: str) -> str:
    both, own = matrix.shared.get(changed, {}).get(other), matrix.neurons.get(changed)
    return f"{both:,} of {own:,} ({percent(both / own)})" if both is not None and own else ""


def _matrix(matrix: PerplexityMatrix) -> Table:
    return Table(
        "Change in nats per token. Rows: whose neurons are changed. Columns: whose text is read. Above 0, the text "
        "became less likely to the model.",
        ["neurons of", *(f"text of {read}" for read in matrix.read)],
        [[changed, *map(_told, matrix.row(changed))] for changed in matrix.changed],
        notes=[
            "In brackets the 95 % interval over blocks of text. * differs from the unchanged model: p < 0.05 after "
            "Holm's correction. † also beyond every draw of as many random neurons.",
            "Text read by the unchanged model, in nats per token: "
            + ", ".join(f"{read} {number(one.nats_per_token)}" for read, one in matrix.baseline.items())
            + ".",
        ],
    )


def _told(cell: Cell) -> str:
    interval = "" if cell.delta_nats_low is None else f" ({span(cell.delta_nats_low, cell.delta_nats_high, 2)})"
    return f"{signed(cell.delta_nats)}{interval}{marks(cell)}"


def _selectivity(matrix: PerplexityMatrix) -> Table:
    unit, contrasts = _contrasts(matrix)
    return Table(
        f"Selectivity in {unit}: how much more a language's own text changes than that of the others.",
        ["neurons of", "own text", "others, mean", "difference", "95 % interval", "suffers most"],
        [
            [
                changed,
                signed(one.own),
                signed(one.others),
                signed(one.difference),
                span(one.low, one.high),
                one.most_harmed,
            ]
            for changed, one in contrasts.items()
        ],
    )


def _shared(matrix: PerplexityMatrix, neurons: NeuronSet | None) -> Table | None:
    """For each language: which others' text suffers most, and how many neurons they share."""
    chances = {} if neurons is None else _chances(neurons)
    rows = []
    for changed in matrix.changed:
        own = matrix.cell(changed, changed).delta_nats if changed in matrix.read else None
        others = [cell for cell in matrix.row(changed) if cell.read in matrix.shared.get(changed, {})]
        for cell in sorted(others, key=lambda cell: -cell.delta_nats)[:_MOST_HARMED]:
            share = _share(matrix, changed, cell.read) or "–"
            chance = percent(chances.get((changed, cell.read)))
            rows.append([changed, cell.read, signed(cell.delta_nats), signed(own), share, chance])
    if not rows:
        return None
    return Table(
        "Shared neurons, and harm to other languages: changing a neuron that both have changes both. For each language "
        f"the {_MOST_HARMED} others whose text suffers most, in nats per token.",
        ["neurons of", "text of", "its change", "change of own text", "neurons shared", "by chance"],
        rows,
        labels=2,
        notes=["By chance: the share if each language's neurons were drawn at random, as many in each layer."],
    )


def _chances(neurons: NeuronSet) -> dict[tuple[str, str], float]:
    """For two languages, the share of the first one's neurons that would be the second's by chance."""
    found = language_overlap(neurons)
    shares = found.expected_share.tolist()
    return {
        (one, other): share
        for one, row in zip(found.languages, shares, strict=True)
        for other, share in zip(found.languages, row, strict=True)
        if not math.isnan(share)
    }
