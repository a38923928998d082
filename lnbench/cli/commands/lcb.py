"""Score text with the Language Confusion Benchmark's rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lnbench.cli.options import Format, show

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)


@app.callback()
def lcb() -> None:
    """Score text with the Language Confusion Benchmark's rules."""


@app.command()
def score(
    file: Annotated[
        Path,
        typer.Argument(help="Completions: JSON Lines or CSV, gzip or not, with task, source, language, completion."),
    ],
    model: Annotated[str | None, typer.Option("--model", help="Whose completions, if the file has several.")] = None,
    words: Annotated[
        Path | None,
        typer.Option(help="English words, one per line; by default those of LNBENCH_DATA, else the packaged list."),
    ] = None,
    format_: Format = "terminal",
) -> None:
    """Score completions that were made elsewhere; json is task/source/language → n, answered, lpr, line_acc, wpr.

    Example: lnbench lcb score completions.jsonl.gz --format json
    """
    from lnbench.files import as_json
    from lnbench.language_control import english_words
    from lnbench.language_control import lcb as rules
    from lnbench.language_control.completions import read_completions
    from lnbench.tables.language_control import lcb_table

    listed = words or english_words.list_of_words()
    scores = rules.score(read_completions(file, model), english_words.english_words(listed))
    if format_ == "json":
        typer.echo(as_json(rules.as_json(scores)), nl=False)
    else:
        show(lcb_table(scores, english_words.name_of_list(listed)), format_=format_)
