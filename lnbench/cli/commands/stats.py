"""``lnbench stats``: collect Statistics, merge shards, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field

from lnbench.cli.options import Format, Given, chosen_languages, show, takes
from lnbench.errors import LnbenchError
from lnbench.model.architectures import POST
from lnbench.settings import (
    AllLanguages,
    ModelArgs,
    ModelArgsMapping,
    OutFolder,
    ReadSite,
    Settings,
    TextSource,
    UntilStable,
)

app = typer.Typer(add_completion=False, invoke_without_command=True)


class StatsSettings(ModelArgs, TextSource, UntilStable):
    """What ``lnbench stats`` takes."""

    out: OutFolder | None = Field(default=None, description="Statistics folder to write")
    languages: AllLanguages = ()
    tokens: str | None = Field(  # type: ignore[assignment]
        default=None,
        description="tokens per language, as 100M or en=2M+hi=500k; auto, or auto:20M for a limit: until two halves of "
        "the text choose the same neurons; all of the corpus by default; give it for a hub dataset",
    )
    shard: str | None = Field(
        default=None, description="count only this part, as 3/8; lnbench stats merge puts them together"
    )
    save_every: float = Field(
        default=60.0,
        ge=0,
        description="seconds after which progress is kept; later where that takes more than 2 % of the time",
    )
    site: ReadSite = POST


@app.callback()
@takes(StatsSettings)
def collect(context: typer.Context, given: Given) -> None:
    """Read text in every language and write each neuron's Statistics to a folder.

    The sites post and pre are collected in one pass, with those of --site and --also-site (product, attention: heads,
    residual), and the output head is not run. What a folder has of further sites it keeps. More languages can be added
    to a folder later, from the same model. Each ends with a line on its text: documents, empty ones, those in another
    script, tokens, and how exact the quantiles are.

    After an interruption, kill -9 included, the same command continues, and the result is bit for bit that
    of a run that was not interrupted; languages that are done stay. A second process on the same folder is refused.
    Started by torchrun or accelerate launch, the processes share every language.

    With --tokens auto, each language is read in two halves, every other document each, until every selector chooses the
    same neurons on both (--stable, --selectors); stability-curve.json has the curve, and stats show prints it.

    Example: lnbench stats --corpus 'data/{lang}.jsonl.gz' --languages en+hi --tokens 1M --out stats
    """
    if context.invoked_subcommand is not None:
        return
    settings = StatsSettings(**given)
    if settings.out is None:
        raise LnbenchError("pass --out FOLDER for the Statistics, or see lnbench stats --help")
    from lnbench.cli.options import tell, tell_text
    from lnbench.corpora.budgets import parse_auto, parse_shard, parse_tokens

    tell_text(settings.corpus)
    # Before minutes are spent on loading.
    chosen = chosen_languages(settings.corpus, settings.languages, **settings.reading_options)
    until_stable, most = parse_auto(settings.tokens)
    budgets = parse_tokens(most, chosen)
    if until_stable and settings.shard is not None:
        raise LnbenchError("--tokens auto compares two halves of the whole text, so it cannot be split with --shard")
    part = parse_shard(settings.shard) if settings.shard is not None else (0, 1)

    from lnbench import estimates
    from lnbench.lm import LNBenchLM
    from lnbench.statistics.corpus_statistics import Reading
    from lnbench.statistics.statistics_folder import collect_folder

    how = {name: getattr(settings, name) for name in TextSource.model_fields}
    how["sites"] = (settings.site, *settings.sites)
    if until_stable:
        how["until_stable"] = UntilStable(**{name: getattr(settings, name) for name in UntilStable.model_fields})
    readings = {language: Reading(**how | {"tokens": budgets[language]}) for language in chosen}
    said: dict[str, Any] = {"site": settings.site, "say": typer.echo, "save_every": settings.save_every}
    work = estimates.of_readings("collecting Statistics", readings, parts=part[1])
    estimates.check(settings.model, settings.model_args, work, settings.out)
    with tell():
        lm = LNBenchLM(settings.model, **settings.model_args)
        estimates.announce(
            lm.model, estimates.read_of(work, readings, lm.tokenizer, parts=part[1]), settings.model_args
        )
        if until_stable:
            from lnbench.analysis.until_stable import collect_until_stable

            collect_until_stable(lm.model, lm.tokenizer, settings.out, readings, **said)
        else:
            collect_folder(lm.model, lm.tokenizer, settings.out, readings, shard=part, **said)


class MergeSettings(Settings):
    """What ``lnbench stats merge`` takes."""

    folders: list[Path] = Field(description="folders that lnbench stats --shard wrote, or copies of them")
    out: OutFolder | None = Field(
        default=None,
        description="Statistics folder to write; by default the first folder, unless that is a single shard's",
    )
    site: ReadSite = POST
    model: str | None = Field(
        default=None, description="needed only for a non-linearity that is none of transformers' own"
    )
    model_args: ModelArgsMapping = Field(default={})


@app.command()
@takes(MergeSettings, arguments=["folders"])
def merge(given: Given) -> None:
    """Put the shards of every language together; the counts are those of one pass over the whole.

    No model is needed, and the order of the folders does not matter. Shards that are missing, unfinished, or of another
    model, text or budget are errors that name them.

    Example: lnbench stats merge machine1/stats machine2/stats --out stats
    """
    settings = MergeSettings(**given)
    from lnbench.statistics.statistics_folder import merge_folders

    activations = None
    if settings.model is not None:
        from lnbench.lm import LNBenchLM

        activations = LNBenchLM(settings.model, **settings.model_args).sites.activations
    out = settings.out or settings.folders[0]
    merge_folders(settings.folders, out, site=settings.site, activations=activations, say=typer.echo)


@app.command("show")
def show_statistics(
    folder: Annotated[Path, typer.Argument(help="Statistics folder.")], format_: Format = "terminal"
) -> None:
    """Averages over all neurons, by language and site: mean, percentiles, share positive; and how exact they are.

    Example: lnbench stats show stats
    """
    from lnbench.analysis.until_stable import StabilityCurve
    from lnbench.tables.neurons import averages_table, curve_table

    tables = [averages_table(folder)]
    if (folder / StabilityCurve.usual_name).exists():
        tables.append(curve_table(StabilityCurve.load(folder)))
    show(*tables, format_=format_)
