"""``lnbench stats``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lnbench.cli.options import (
    Corpus,
    Format,
    Languages,
    Model,
    ModelArgs,
    Site,
    chosen_languages,
    model_arguments,
    show,
)
from lnbench.errors import LnbenchError
from lnbench.model.packaged import DEFAULT_MODEL

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
    tokens: Annotated[
        str | None,
        typer.Option(
            help="Tokens a language, as 100M or en=2M+hi=500k; all of the corpus by default. Give it for a hub dataset."
        ),
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens in a block, BOS included.", min=2)] = 512,
    mode: Annotated[
        Literal["pack", "truncate"],
        typer.Option(
            help="pack: documents are joined and cut into blocks; truncate: each is cut off at the length of one."
        ),
    ] = "pack",
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Blocks in a forward pass; by default what the memory holds, up to 1,024 tokens on a CPU and 16,384 "
            "elsewhere.",
            min=1,
        ),
    ] = None,
    skip: Annotated[
        int, typer.Option(help="Positions not counted at the start of a block; 1 leaves out BOS.", min=0)
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the documents' order.")] = 0,
    dedup: Annotated[bool, typer.Option("--dedup", help="Drop documents that repeat an earlier one.")] = False,
    drop_wrong_script: Annotated[
        bool,
        typer.Option(
            "--drop-wrong-script",
            help="Drop documents mostly in another script than the language's; they are counted in any case.",
        ),
    ] = False,
    shard: Annotated[
        str | None, typer.Option(help="Count only this part, as 3/8; lnbench stats merge puts them together.")
    ] = None,
    save_every: Annotated[
        float,
        typer.Option(
            help="Seconds after which progress is kept; later where that takes more than 2 % of the time.", min=0
        ),
    ] = 60.0,
    site: Annotated[Site, typer.Option(help="Site shown first; both are collected.")] = Site.POST,
    batch_level: Annotated[
        list[float] | None,
        typer.Option(
            help="Also keep the mean of the batches' quantiles at this level; act_prob:preset=paper needs 0.9.",
            min=0,
            max=1,
        ),
    ] = None,
    measure: Annotated[
        list[str] | None, typer.Option(help="Also keep this measure of a plugin: name or name:key=value.")
    ] = None,
    model_args: ModelArgs = "",
) -> None:
    """Read text in every language and write each neuron's Statistics to a folder.

    Both sites are collected in one pass, and the output head is not run. More languages can be added to a folder later,
    from the same model. Each ends with a line on its text: documents, empty ones, those in another script, tokens, and
    how exact the quantiles are.

    After an interruption, kill -9 included, the same command goes on where it was, and the result is bit for bit that
    of a run that was not interrupted; languages that are done stay. A second process on the same folder is refused.
    Started by torchrun or accelerate launch, the processes share every language.

    Example: lnbench stats --corpus 'data/{lang}.jsonl.gz' --languages en+hi --tokens 1M --out stats
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise LnbenchError("pass --out FOLDER for the Statistics, or see lnbench stats --help")
    from lnbench import demo as embedded
    from lnbench.cli.options import tell
    from lnbench.corpora import parse_shard, parse_tokens

    chosen = chosen_languages(corpus, languages)  # before minutes are spent on loading
    budgets = parse_tokens(tokens, chosen)
    part = parse_shard(shard) if shard is not None else (0, 1)

    from lnbench.lm import LNBenchLM
    from lnbench.statistics.corpus_statistics import Reading
    from lnbench.statistics.statistics_folder import collect_folder

    readings = {
        language: Reading(
            corpus=corpus or embedded.CORPUS,
            tokens=budgets[language],
            length=length,
            mode=mode,
            skip=skip,
            seed=seed,
            dedup=dedup,
            drop_wrong_script=drop_wrong_script,
            batch_levels=tuple(batch_level or ()),
            batch_size=batch_size,
            measures=tuple(measure or ()),
        )
        for language in chosen
    }
    with tell():
        lm = LNBenchLM(model, **model_arguments(model_args))
        collect_folder(
            lm.model,
            lm.tokenizer,
            out,
            readings,
            shard=part,
            site=site,
            say=typer.echo,
            save_every=save_every,
        )


@stats.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(help="Folders that lnbench stats --shard wrote, or copies of them.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Statistics folder to write; by default the first folder, unless that is a single shard's.",
        ),
    ] = None,
    site: Annotated[Site, typer.Option(help="Site shown first.")] = Site.POST,
    model: Annotated[
        str | None, typer.Option("--model", help="Needed only for a non-linearity that is none of transformers' own.")
    ] = None,
    model_args: ModelArgs = "",
) -> None:
    """Put the shards of every language together; the counts are those of one pass over the whole.

    No model is needed, and the order of the folders does not matter. Shards that are missing, unfinished, or of another
    model, text or budget are errors that name them.

    Example: lnbench stats merge machine1/stats machine2/stats --out stats
    """
    from lnbench.statistics.statistics_folder import merge_folders

    activations = None
    if model is not None:
        from lnbench.lm import LNBenchLM

        activations = LNBenchLM(model, **model_arguments(model_args)).sites.activations
    merge_folders(folders, out or folders[0], site=site, activations=activations, say=typer.echo)


@stats.command("show")
def show_statistics(
    folder: Annotated[Path, typer.Argument(help="Statistics folder.")], format_: Format = "terminal"
) -> None:
    """Averages over all neurons, by language and site: mean, percentiles, share positive; and how exact they are.

    Example: lnbench stats show stats
    """
    from lnbench.tables.neurons import averages_table

    show(averages_table(folder), format_=format_)
