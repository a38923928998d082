"""What a reader of a perplexity matrix should know of its numbers, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from lnbench.perplexity.matrix import PerplexityMatrix, Selectivity
from lnbench.significance import LEVEL

_LEAST_P = 1e-4
"""Of a test by random permutations."""


def notes_of(matrix: PerplexityMatrix) -> list[str]:
    """The sentences."""
    return list(_notes(matrix))


def _notes(matrix: PerplexityMatrix) -> Iterator[str]:
    for language, count in matrix.neurons.items():
        if count == 0:
            yield f"{language} has no neurons, so nothing is changed: its row is exactly 0"
    measured = len(matrix.read) * sum(count > 0 for count in matrix.neurons.values())
    for language, text in matrix.slices.items():
        if text.overlap is None:
            yield f"{language}: whether Statistics were collected from this text is not known"
        elif text.overlap > 0:
            yield (
                f"{language}: Statistics were collected from {text.overlap:.0%} of this text's documents as well; the "
                "corpus is too short for both"
            )
        # Flipping the signs of all blocks is as extreme as none.
        if max(2.0 ** (1 - text.blocks), _LEAST_P) * measured >= LEVEL:
            blocks = "1 block" if text.blocks == 1 else f"{text.blocks} blocks"
            yield (
                f"{language}: with {blocks} of text no change can be significant after correction for "
                f"{measured} cells; read more tokens, or shorter blocks"
            )
    outside = [cell.outside_range for cell in matrix.cells if cell.outside_range]
    if outside:
        yield f"up to {max(outside):.0%} of the values written lie outside the range observed in the language's text"
    if not any(cell.n_controls for cell in matrix.cells) and any(matrix.neurons.values()):
        yield "there is no control: as many random neurons might do as much"


def shared_neurons(matrix: PerplexityMatrix) -> list[str]:
    """For each row whose own text is not harmed most: whose is, and with which languages most neurons are shared."""
    return [
        f"{_harm(matrix, row)}; {_sharing(matrix, row)}"
        for row in matrix.selectivity
        if not row.dominant and matrix.neurons[row.changed]
    ]


def _harm(matrix: PerplexityMatrix, row: Selectivity) -> str:
    most = matrix.cell(row.changed, row.most_harmed).delta_nats
    if most <= 0:
        return f"The neurons of {row.changed}: changing them harms no text that was read"
    sentence = (
        f"The neurons of {row.changed}: changing them harms {row.most_harmed} ({most:+.3f} nats per token) more than "
        f"{row.changed} ({row.own:+.3f})"
    )
    if row.bits_per_byte is not None and row.bits_per_byte.dominant:
        # A token of one language can be worth twice the text of one of another.
        other = matrix.cell(row.changed, row.most_harmed).delta_bits_per_byte
        sentence += f", though less per byte of text ({other:+.3f} bits, {row.changed} {row.bits_per_byte.own:+.3f})"
    return sentence


def _sharing(matrix: PerplexityMatrix, row: Selectivity) -> str:
    shared = matrix.shared.get(row.changed, {})
    most = max(shared, key=lambda language: shared[language], default=None)
    if most is None:
        return "which of its neurons other languages have is not known"
    if shared[most] == 0:
        return f"of its {matrix.neurons[row.changed]} neurons, none is another language's"
    sentence = f"of its {matrix.neurons[row.changed]} neurons, {shared[most]} are also those of {most}, the most"
    if row.most_harmed in shared and row.most_harmed != most:
        sentence += f", and {shared[row.most_harmed]} those of {row.most_harmed}"
    return sentence
