"""``lnbench stats``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lnbench.cli.options import Corpus, Languages, Model, ModelArgs, Site, chosen_languages, model_arguments, show
from lnbench.errors import LnbenchError
from lnbench.models import DEFAULT_MODEL

stats = typer.Typer(invoke_without_command=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(stats, name="stats")


@stats.callback()
def collect(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Statistics folder to write.")] = None,
    model: Model = DEFAULT_MODEL,
    corpus: Corpus = None,
    languages: Languages = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens a language; all of the corpus by default.", min=1)] = None,
    length: Annotated[int, typer.Option(help="Tokens in a block, BOS included.", min=2)] = 512,
    batch_size: Annotated[int | None, typer.Option(help="Blocks in a forward pass.", min=1)] = None,
    skip: Annotated[int, typer.Option(help="Positions not counted at the start of a block.", min=0)] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the documents' order.")] = 0,
    site: Annotated[Site, typer.Option(help="Site shown first; both are collected.")] = Site.POST,
    batch_level: Annotated[
        list[float] | None,
        typer.Option(help="Also keep the mean of the batches' quantiles at this level.", min=0, max=1),
    ] = None,
    model_args: ModelArgs = "",
) -> None:
    """Read text in every language and write each neuron's statistics to a folder.

    Example: lnbench stats --model gemma-3-270m --corpus data/{lang}.jsonl.gz --languages en+hi --out stats
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise LnbenchError("pass --out FOLDER for the Statistics, or see lnbench stats --help")
    from lnbench import demo as embedded
    from lnbench.lm import LNBenchLM
    from lnbench.statistics.corpus import collect_corpus

    chosen = chosen_languages(corpus, languages)  # before minutes are spent on loading
    lm = LNBenchLM(model, **model_arguments(model_args))
    for language in chosen:
        collected = collect_corpus(
            lm.model,
            lm.tokenizer,
            corpus or embedded.CORPUS,
            language,
            tokens=tokens,
            length=length,
            batch_size=batch_size,
            skip=skip,
            seed=seed,
            site=site,
            batch_levels=tuple(batch_level or ()),
        )
        typer.echo(f"{language}: {collected.tokens:,} tokens → {collected.save(out)}")


@stats.command("show")
def show_statistics(folder: Annotated[Path, typer.Argument(help="Statistics folder.")]) -> None:
    """Averages over all neurons, by language and site: mean, percentiles, share positive.

    Example: lnbench stats show stats
    """
    from lnbench.tables import averages_table

    show(averages_table(folder))
