"""What neurons fire on, as a table, as CSV with one line per context, and as a page with highlighted contexts."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lnbench.analysis.top_examples import NeuronExamples
from lnbench.tables.render import template
from lnbench.tables.table import Cell, Table, TableRow

if TYPE_CHECKING:
    from lnbench.neurons import NeuronSet

_SHOWN = 5
"""Tokens in a cell of the table."""
_GATED = (
    "promoted, suppressed: output tokens by the logit lens, in the direction that the neuron has in its top contexts; "
    "control tokens are left out"
)


def share_of_contexts(explained: Sequence[NeuronExamples], language: str) -> float:
    """Return the share of all neurons' top contexts that are of a language's text; NaN if there are none."""
    languages = [example.language for neuron in explained for example in neuron.examples]
    return languages.count(language) / len(languages) if languages else math.nan


def summary(explained: Sequence[NeuronExamples], language: str) -> list[str]:
    """Return sentences on how many of the top contexts are in the neurons' own language."""
    if not explained:
        return [f"no neurons of {language}"]
    most = sum(neuron.share(language) > 0.5 for neuron in explained)
    silent = sum(not neuron.examples for neuron in explained)
    contexts = sum(len(neuron.examples) for neuron in explained)
    share = share_of_contexts(explained, language)
    said = "no context" if math.isnan(share) else f"{share:.1%} of {contexts:,} top contexts"
    sentences = [
        f"{said} in text of {language}; {most:,} of {len(explained):,} neurons have more than half of theirs there"
    ]
    if silent:
        sentences.append(f"{silent:,} of {len(explained):,} neurons were never active on this text")
    return sentences


def explanations_table(explained: Sequence[NeuronExamples], language: str) -> Table:
    """Return a row per neuron: rates and means per language, its top tokens, and what it promotes and suppresses.

    Args:
        explained: What :func:`lnbench.top_examples` returned.
        language: Whose neurons they are.
    """
    languages = list(explained[0].rates) if explained else []
    rows = []
    for neuron in explained:
        tokens = dict.fromkeys(example.token.strip() for example in neuron.examples)
        share = neuron.share(language)
        cells = [
            *(Cell(neuron.rates[code], ".1%", bracketed=Cell(neuron.means[code], ".3f")) for code in languages),
            Cell() if math.isnan(share) else Cell(share, ".0%"),
            Cell(_words(tokens)),
            Cell(_words(word for word, _ in neuron.promoted)),
            Cell(_words(word for word, _ in neuron.suppressed)),
        ]
        rows.append(TableRow([neuron.name], cells))
    columns = [*languages, f"contexts in {language}", "top tokens", "promoted", "suppressed"]
    title = f"What the neurons of {language} fire on: share of tokens active (mean activation) by language"
    return Table(title, ["layer.neuron"], columns, rows, notes=[*summary(explained, language), _GATED])


def _words(tokens: object) -> str:
    shown = [repr(token)[1:-1] for token in tokens if token and str(token).strip()][:_SHOWN]  # type: ignore[attr-defined]
    return " ".join(shown)


def explanations_csv(explained: Sequence[NeuronExamples]) -> str:
    """Return a line per context, with its neuron's numbers; one line for a neuron that was never active."""
    languages = list(explained[0].rates) if explained else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = [f"{what}_{code}" for what in ("rate", "mean") for code in languages]
    place = ["rank", "value", "language", "document", "position", "before", "token", "after"]
    writer.writerow(["layer", "neuron", *numbers, "promoted", "suppressed", *place])
    for neuron in explained:
        words = [" ".join(word for word, _ in pairs) for pairs in (neuron.promoted, neuron.suppressed)]
        own = [neuron.layer, neuron.index, *neuron.rates.values(), *neuron.means.values(), *words]
        for rank, example in enumerate(neuron.examples, start=1):
            context = [example.before, example.token, example.after]
            where = [example.language, example.document, example.position]
            writer.writerow([*own, rank, example.value, *where, *context])
        if not neuron.examples:
            writer.writerow([*own, *[""] * len(place)])
    return text.getvalue()


def explanations_html(explained: Sequence[NeuronExamples], language: str, neurons: NeuronSet | None = None) -> str:
    """Return a page of its own, escaped: each neuron's numbers, and its contexts with the active token highlighted.

    Args:
        explained: What :func:`lnbench.top_examples` returned.
        language: Whose neurons they are.
        neurons: The set that they are from, which the page then names.
    """
    highest = [max((example.value for example in neuron.examples), default=1.0) for neuron in explained]
    pairs = list(zip(explained, highest, strict=True))
    said = summary(explained, language)
    return template("explanations.html").render(pairs=pairs, language=language, summary=said, neurons=neurons)
