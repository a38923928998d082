"""``lnbench ppl``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lnbench.cli.options import Format, Given, say, show, takes
from lnbench.perplexity.request import PerplexityRequest

if TYPE_CHECKING:
    from lnbench.tables.table import Table

app = typer.Typer(add_completion=False)


@app.command()
@takes(PerplexityRequest)
def ppl(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for perplexity.json and what it is made from.")],
    given: Given,
    format_: Format = "terminal",
) -> None:
    """Measure how changing each language's neurons changes the perplexity of each language's text.

    Every pass over a text is kept as it ends; after an interruption the same command continues where it stopped.

    Example: lnbench ppl --languages en+es+vi+zh+hi --corpus data/{lang}.jsonl.gz --intervention zero --out ppl
    """
    interventions = given.pop("intervention", [PerplexityRequest.model_fields["intervention"].default])
    requests = [PerplexityRequest(**given, intervention=intervention) for intervention in interventions]

    from lnbench.cli.options import tell, tell_text
    from lnbench.perplexity.matrix import FILE
    from lnbench.perplexity.run_matrix import load, run
    from lnbench.tables.perplexity import matrix_tables

    tell_text(requests[0].text_corpus, format_)
    tables: list[Table] = []
    with tell():
        lm = load(requests[0])
        for request in requests:
            folder = out / request.slug if len(requests) > 1 else out
            matrix = run(request, folder, lm=lm)
            tables += matrix_tables(matrix)
            if format_ == "terminal":
                show(*matrix_tables(matrix))
            say(f"written to {folder / FILE}", format_)
    if format_ != "terminal":
        show(*tables, format_=format_)
