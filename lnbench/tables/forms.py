"""Script and order controls as a table."""

from __future__ import annotations

from collections.abc import Sequence

from lnbench.perplexity.forms import FormCompared, Harm
from lnbench.tables.table import Cell, Table, TableRow


def forms_table(controls: Sequence[FormCompared]) -> Table:
    """Return the overlap of native and other neurons, and the harm to native text, per language and form."""
    rows = [
        TableRow(
            [own.language, own.form],
            [
                Cell(own.native, ","),
                Cell(own.other, ","),
                Cell(own.jaccard, ".2f", published=own.published),
                Cell(own.expected, ".3f", shown=f"{own.expected:.3f} (≤ {own.expected_high:.3f})"),
                _harm(own.harm_native),
                _harm(own.harm_other),
                Cell(own.harm_other.control, "+.3f"),
            ],
        )
        for own in controls
    ]
    columns = ["native", "other", "Jaccard", "random", "harm, native", "harm, other", "harm, control"]
    notes = [
        "native, other: neurons selected from native text, and with this language's text alone in the other form.",
        "Jaccard: neurons in both / in either, beside the published value where there is one (shuffled: above 0.6); "
        "random: that of random sets with as many per layer, and what 97.5 % of them do not exceed.",
        "harm: change of native text's nats per token when the set is changed [95 % interval over blocks]; control: "
        "mean over draws of a control of the other set.",
    ]
    return Table("Script and order controls", ["language", "form"], columns, rows, notes=notes)


def _harm(harm: Harm) -> Cell:
    interval = "" if harm.low is None or harm.high is None else f" [{harm.low:+.3f}, {harm.high:+.3f}]"
    return Cell(harm.delta_nats, "+.3f", shown=f"{harm.delta_nats:+.3f}{interval}", low=harm.low, high=harm.high)
