"""``lnbench figures`` and ``lnbench neurons stability``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lnbench.cli.neurons import neurons
from lnbench.cli.options import (
    Corpus,
    Format,
    Languages,
    Model,
    ModelArgs,
    Site,
    chosen_languages,
    model_arguments,
    say,
    show,
)
from lnbench.model.packaged import DEFAULT_MODEL


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(figures)


def figures(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="NeuronSets, perplexity.json, leaderboard.json, stability.json, Statistics; or folders of them."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the figures.")] = Path("figures"),
    format_: Annotated[
        str, typer.Option("--format", help="Of png, svg and pdf, joined by +. The numbers come as CSV in any case.")
    ] = "png+svg+pdf",
) -> None:
    """Draw every figure that files and folders have the numbers of, and write the numbers beside.

    Two NeuronSets of one model are also compared with each other.

    Example: lnbench figures lape.json act_prob.json -o figures
    """
    from lnbench.figures import save
    from lnbench.figures.drawable import figures_of

    formats = format_.split("+")
    for figure in figures_of(paths):
        files = save(figure, out, formats)
        typer.echo(f"{figure.title}\n  {' '.join(map(str, files))}")


@neurons.command()
def stability(
    selectors: Annotated[list[str], typer.Argument(help="name or name:key=value, e.g. lape:top_fraction=0.02")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the counts, stability.json and the figure.")],
    model: Model = DEFAULT_MODEL,
    corpus: Corpus = None,
    languages: Languages = None,
    tokens: Annotated[
        str | None,
        typer.Option(help="Tokens a language, both halves together, as 2M or en=2M+hi=500k; all of the corpus if not."),
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens of a document that are read at most, BOS included.", min=2)] = 512,
    seed: Annotated[int, typer.Option(help="Seed of the documents' order.")] = 0,
    site: Annotated[Site, typer.Option(help="Site to read.")] = Site.POST,
    model_args: ModelArgs = "",
    format_: Format = "terminal",
) -> None:
    """Select on two halves of a corpus, every other document each, and see which neurons come back.

    After an interruption the same command goes on where it was. More selectors on the same text take seconds.

    Example: lnbench neurons stability lape act_prob --corpus data/{lang}.jsonl.gz --languages en+hi --tokens 200k
    --out stability
    """
    from lnbench import demo as embedded
    from lnbench.cli.options import tell
    from lnbench.corpora import parse_tokens
    from lnbench.host import get_host

    for selector in selectors:  # before minutes are spent on loading
        get_host().resolve("selector", selector)
    chosen = chosen_languages(corpus, languages)
    budgets = parse_tokens(tokens, chosen)

    from lnbench.analysis.halves import MODE, measure_stability
    from lnbench.analysis.stability import FILE
    from lnbench.figures import save
    from lnbench.figures import stability as draw
    from lnbench.lm import LNBenchLM
    from lnbench.statistics.corpus_statistics import Reading
    from lnbench.tables.neurons import stability_table

    readings = {
        language: Reading(
            corpus=corpus or embedded.CORPUS, tokens=budgets[language], length=length, mode=MODE, seed=seed
        )
        for language in chosen
    }
    with tell():
        lm = LNBenchLM(model, **model_arguments(model_args))
        found = measure_stability(
            lm.model, lm.tokenizer, selectors, out / "halves", readings, site=site, say=lambda text: say(text, format_)
        )
    found.save(out / FILE)
    show(stability_table(found), format_=format_)
    files = save(draw(found), out)
    say(f"written to {' '.join(map(str, (out / FILE, *files)))}", format_)
