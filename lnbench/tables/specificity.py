"""How specific changes are to a language's own neurons, with intervals and what each number means."""

from __future__ import annotations

from collections.abc import Iterator

from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.specificity import MEANINGS
from lnbench.tables.findings import UNITS
from lnbench.tables.table import Cell, Table, TableRow
from lnbench.tables.words import NOTHING, control_units, counted, ratio


def specificity_table(matrix: PerplexityMatrix) -> Table | None:
    """Return ρ, LangSpec-F1, KL and selectivity of each language's neurons on its own text; None without any."""
    rows = []
    for row in matrix.selectivity:
        if not matrix.neurons[row.changed]:
            continue
        own = matrix.cell(row.changed, row.changed)
        contrast = row.bits_per_byte or row
        rows.append(
            TableRow(
                [row.changed],
                [
                    Cell(own.rho, shown=ratio(own.rho, own.rho_low, own.rho_high)),
                    Cell(row.f1, low=row.f1_low, high=row.f1_high, with_interval=True),
                    Cell(own.kl, low=own.kl_low, high=own.kl_high, with_interval=True),
                    Cell(contrast.difference, "+.3f", low=contrast.low, high=contrast.high, with_interval=True),
                ],
            )
        )
    if not rows:
        return None
    if (mean := matrix.diagonal) is not None:
        f1 = Cell(mean.f1, low=mean.f1_low, high=mean.f1_high, with_interval=True)
        difference = Cell(mean.difference, "+.3f", low=mean.low, high=mean.high, with_interval=True)
        rows.append(TableRow(["mean"], [Cell(), f1, Cell(), difference], quiet=True))
    unit = UNITS["nats" if any(row.bits_per_byte is None for row in matrix.selectivity) else "bits_per_byte"]
    return Table(
        f"How specific {matrix.intervention} of {matrix.selector} is, on each language's own text [95 % interval]",
        ["neurons of"],
        ["ρ", "LangSpec-F1", "KL", f"own − others, {unit}"],
        rows,
        notes=list(_notes(matrix)),
    ).in_units(matrix.site)


def _notes(matrix: PerplexityMatrix) -> Iterator[str]:
    draws = max(cell.n_controls for cell in matrix.cells)
    if draws:
        yield (
            f"{MEANINGS['rho']}. Here of {counted(draws, 'draw')} of {control_units(matrix.control)}, with an interval "
            f"over draws; {NOTHING} where it has no bound, as the draws' mean cannot be told from no change."
        )
    yield f"{MEANINGS['f1']}. Performance is the likelihood of a byte."
    if matrix.kl_tokens:
        yield f"{MEANINGS['kl']}. Of the first {matrix.kl_tokens:,} tokens of a text, or a block more."
    yield f"{MEANINGS['selectivity']}."
