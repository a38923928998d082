"""What a reader of a perplexity matrix should know of its numbers, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.significance import LEAST_DRAWS, LEVEL, least_p


def notes_of(matrix: PerplexityMatrix, neurons: NeuronSet) -> Iterator[str]:
    """Yield the sentences that are kept with the numbers; :func:`lnbench.tables.caveats.matrix_caveats` shows them."""
    if matrix.labels == "paper":
        yield (
            "each position is scored on the token after the next one, as in the paper's code, whose labels are shifted "
            "twice: these are not perplexities of the text"
        )
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
        if least_p(text.blocks, measured) * measured >= LEVEL:
            blocks = "1 block" if text.blocks == 1 else f"{text.blocks} blocks"
            yield (
                f"{language}: with {blocks} of text no change can be significant after correction for "
                f"{measured} cells; read more tokens, or shorter blocks"
            )
    outside = [cell.outside_range for cell in matrix.cells if cell.outside_range]
    if outside:
        yield f"up to {max(outside):.0%} of the values written lie outside the range observed in the language's text"
    has_controls = any(cell.n_controls for cell in matrix.cells)
    if not has_controls and any(matrix.neurons.values()):
        yield "there is no control: as many random neurons might do as much"
    if has_controls and matrix.controls_read == "own":
        yield "draws of the control read each language's own text alone, so other cells have no control"
    if few := [cell.n_controls for cell in matrix.cells if 0 < cell.n_controls < LEAST_DRAWS]:
        yield (
            f"{max(few)} drawn as a control: its draws are shown and not tested against, which takes "
            f"{LEAST_DRAWS} draws or more"
        )
    for language, count in matrix.neurons.items() if has_controls and matrix.control == "random" else ():
        # A draw takes a language's own neurons where the others of a layer are too few.
        per_layer = zip(neurons.per_layer(language).tolist(), neurons.widths, strict=True)
        if own := sum(max(0, 2 * chosen - width) for chosen, width in per_layer):
            yield (
                f"{language} has more than half of a layer: {own} of its {count} neurons are in every draw of random "
                "ones as well"
            )
