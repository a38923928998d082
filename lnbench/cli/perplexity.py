"""``lnbench ppl``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lnbench.cli.options import Corpus, Format, Model, ModelArgs, model_arguments, say, show
from lnbench.errors import LnbenchError
from lnbench.model.architectures import POST, SiteOption
from lnbench.model.packaged import DEFAULT_MODEL


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(ppl)


def ppl(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for perplexity.json and what it is made from.")],
    model: Model = DEFAULT_MODEL,
    intervention: Annotated[
        list[str] | None,
        typer.Option(help="name or name:key=value, zero by default; several make a folder each inside --out."),
    ] = None,
    neurons: Annotated[Path | None, typer.Option("--neurons", help="NeuronSet file; else the selector is run.")] = None,
    selector: Annotated[str, typer.Option(help="name or name:key=value.")] = "lape",
    statistics: Annotated[
        Path | None, typer.Option(help="Statistics folder; else collected from the corpus, and cached.")
    ] = None,
    corpus: Corpus = None,
    text: Annotated[
        str | None, typer.Option("--text", help="Another corpus for the text that is read; the same by default.")
    ] = None,
    languages: Annotated[
        str | None,
        typer.Option(
            "--languages",
            help="Languages compared by the selector, changed and read, as en+hi+zh; those of neurons, statistics or "
            "corpus by default.",
        ),
    ] = None,
    change: Annotated[str | None, typer.Option("--change", help="Change the neurons of these languages only.")] = None,
    read: Annotated[str | None, typer.Option("--read", help="Read the text of these languages in their place.")] = None,
    site: Annotated[SiteOption, typer.Option(help="Where values are read and written; paper: pre, then post.")] = POST,
    tokens: Annotated[int, typer.Option(help="Tokens of text read in each language.", min=1)] = 10_000,
    length: Annotated[int, typer.Option(help="Tokens in a block of it, BOS included.", min=2)] = 256,
    mode: Annotated[
        Literal["pack", "truncate"],
        typer.Option(help="Documents joined and cut into blocks, or each a block, cut off at its length."),
    ] = "pack",
    controls: Annotated[int, typer.Option(help="Draws of as many random neurons, as a control.", min=0)] = 3,
    corpus_tokens: Annotated[
        int, typer.Option(help="Tokens a language, where statistics are collected on the fly.", min=1)
    ] = 10_000,
    corpus_length: Annotated[
        int, typer.Option(help="Tokens in a block, where statistics are collected on the fly.", min=2)
    ] = 128,
    batch_size: Annotated[str, typer.Option(help="Blocks in a forward pass; auto: what fits the memory.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …; CUDA where there is one by default.")] = None,
    model_args: ModelArgs = "",
    format_: Format = "terminal",
) -> None:
    """Measure how changing each language's neurons changes the perplexity of each language's text.

    Every pass over a text is kept as it ends; after an interruption the same command goes on where it was.

    Example: lnbench ppl --languages en+es+vi+zh+hi --corpus data/{lang}.jsonl.gz --intervention zero --out ppl
    """
    from lnbench import demo as embedded
    from lnbench.cli.options import tell
    from lnbench.perplexity.request import Request

    if batch_size != "auto" and not batch_size.isdecimal():
        raise LnbenchError(f"--batch-size is auto or a number, not {batch_size!r}")
    given = {
        "model": model,
        "model_args": model_arguments(model_args),
        "neurons": str(neurons) if neurons else None,
        "selector": selector,
        "statistics": str(statistics) if statistics else None,
        "corpus": corpus or embedded.CORPUS,
        "text": text,
        "languages": languages,
        "changed": change,
        "read": read,
        "site": site,
        "tokens": tokens,
        "length": length,
        "mode": mode,
        "controls": controls,
        "corpus_tokens": corpus_tokens,
        "corpus_length": corpus_length,
        "batch_size": batch_size if batch_size == "auto" else int(batch_size),
        "device": device,
    }
    requests = [Request(**given, intervention=one) for one in intervention or ["zero"]]

    from lnbench.perplexity.matrix import FILE
    from lnbench.perplexity.run_matrix import load, run
    from lnbench.tables.perplexity import matrix_tables

    with tell():
        lm = load(requests[0])
        for request in requests:
            folder = out / request.slug if len(requests) > 1 else out
            matrix = run(request, folder, lm=lm)
            show(*matrix_tables(matrix), format_=format_)
            say(f"written to {folder / FILE}", format_)
