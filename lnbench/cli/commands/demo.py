"""``lnbench demo``."""

from __future__ import annotations

from pathlib import Path

import typer
from pydantic import Field

from lnbench.cli.options import Given, takes
from lnbench.data_folder import default_corpus
from lnbench.settings import Corpus, ModelArgs, Names, OutFolder, Tokens

app = typer.Typer(add_completion=False)


_QUICK = {"out": Path("runs/demo-quick"), "tokens": 4_000, "limit": 8}


class DemoSettings(ModelArgs):
    """What ``lnbench demo`` takes."""

    corpus: Corpus = Field(default_factory=default_corpus)
    languages: Names = Field(
        default=(), description="languages as en+hi+zh; by default, those that the corpus and the task both have"
    )
    out: OutFolder = Field(default=Path("runs/demo"), description="folder for all results")
    limit: int = Field(default=12, ge=0, description="documents per cell; 0 for all")
    tokens: Tokens = 10_000
    quick: bool = Field(
        default=False,
        description="a first look in under two minutes: three languages, 4000 tokens of each, 8 documents, into "
        "runs/demo-quick, unless other values are given; with lape and zero alone",
    )
    task: str = Field(
        default="lnbench_demo_continuation_{lang}",
        description="task to measure, with {lang}; without --languages, those that lack it are left out",
    )


@app.command()
@takes(DemoSettings)
def demo(given: Given) -> None:
    """Do the whole job on the embedded text: statistics, selection, overrides, lm-eval, report.

    It is a small sweep: the selectors lape and act_prob with their random controls, under the interventions none, mean,
    p90, zero and p10; and what the model writes with lape's neurons at zero. What tells most is measured first. After an
    interruption the same command continues.

    Example: lnbench demo --model Qwen/Qwen3-0.6B-Base --corpus 'data/{lang}.jsonl.gz' --languages en+hi --out runs/qwen
    """
    settings = DemoSettings(**{**(_QUICK if given.get("quick") else {}), **given})
    from lnbench.cli.options import chosen_languages, tell_text
    from lnbench.quickstart import run

    tell_text(settings.corpus)
    run(
        settings.model,
        settings.out,
        corpus=settings.corpus,
        languages=chosen_languages(settings.corpus, settings.languages) if settings.languages else None,
        task=settings.task,
        limit=settings.limit or None,
        corpus_tokens=settings.tokens,
        model_args=settings.model_args,
        quick=settings.quick,
    )
