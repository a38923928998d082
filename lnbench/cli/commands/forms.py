"""``lnbench forms``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lnbench.cli.options import Format, Given, say, show, takes
from lnbench.perplexity.forms import FormsRequest

app = typer.Typer(add_completion=False)


@app.command("forms")
@takes(FormsRequest)
def forms(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for forms.json and the NeuronSets.")],
    given: Given,
    format_: Format = "terminal",
) -> None:
    """Do a language's neurons follow its script or its word order: select them from romanised and shuffled text too.

    Per language: how much the sets have in common, beside random sets, and what changing them does to native text.

    Example: lnbench forms --languages en+hi+ur+zh --change hi+ur+zh --out forms
    """
    request = FormsRequest(**given)

    from lnbench.cli.options import tell, tell_text
    from lnbench.perplexity.forms import FILE, run
    from lnbench.tables.forms import forms_table

    tell_text(request.corpus, format_)
    with tell():
        controls = run(request, out)
    show(forms_table(controls), format_=format_)
    say(f"written to {out / FILE}", format_)
