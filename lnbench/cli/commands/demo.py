"""``lnbench demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from lnbench.cli.options import Given, takes
from lnbench.data_folder import default_corpus
from lnbench.settings import Corpus, ModelArgs, Names, Option

app = typer.Typer(add_completion=False)


_WHOLE = ("runs/demo", 10_000, 12)
_QUICK = ("runs/demo-quick", 4_000, 8)
"""Folder, tokens and documents where none are given."""


class DemoSettings(ModelArgs):
    """What ``lnbench demo`` takes."""

    corpus: Corpus = Field(default_factory=default_corpus)
    languages: Names = Field(
        default=(), description="languages as en+hi+zh; by default, those that the corpus and the task both have"
    )
    out: Annotated[Path | None, Option("out", short="o", is_path=True)] = Field(
        default=None, description="folder for all results; by default runs/demo, or runs/demo-quick with --quick"
    )
    limit: int | None = Field(default=None, ge=0, description="documents per cell; 0 for all, by default 12, or 8")
    tokens: int | None = Field(
        default=None, ge=1, description="tokens of text per language; by default 10000, or 4000 with --quick"
    )
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
    p90, zero and p10; and what the model writes with lape's neurons at zero. What tells most is measured first.
    After an interruption the same command continues.

    Example: lnbench demo --model Qwen/Qwen3-0.6B-Base --corpus 'data/{lang}.jsonl.gz' --languages en+hi --out runs/qwen
    """
    settings = DemoSettings(**given)
    folder, tokens, limit = _QUICK if settings.quick else _WHOLE
    limit = limit if settings.limit is None else settings.limit
    from lnbench.cli.options import chosen_languages, tell_text
    from lnbench.quickstart import run

    tell_text(settings.corpus)
    run(
        settings.model,
        settings.out or Path(folder),
        corpus=settings.corpus,
        languages=chosen_languages(settings.corpus, settings.languages) if settings.languages else None,
        task=settings.task,
        limit=limit or None,
        corpus_tokens=settings.tokens or tokens,
        model_args=settings.model_args,
        quick=settings.quick,
    )
