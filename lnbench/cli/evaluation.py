"""``lnbench demo``, ``eval`` and ``tasks``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lnbench.cli.options import Corpus, Languages, Model, ModelArgs, chosen_languages, model_arguments
from lnbench.model.packaged import DEFAULT_MODEL

_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(demo)
    app.command(context_settings=_PASSED_ON, add_help_option=False)(eval)
    app.command()(tasks)


def demo(
    model: Model = DEFAULT_MODEL,
    corpus: Corpus = None,
    languages: Languages = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for all results.")] = Path("runs/demo"),
    limit: Annotated[int, typer.Option(help="Documents in each cell; 0 for all.", min=0)] = 12,
    tokens: Annotated[int, typer.Option(help="Tokens of text read in each language, at most.", min=1)] = 10_000,
    task: Annotated[
        str, typer.Option(help="Task to measure, with {lang}; without --languages, those that lack it are left out.")
    ] = "lnbench_demo_continuation_{lang}",
    model_args: ModelArgs = "",
) -> None:
    """Do the whole job on the embedded text: statistics, selection, overrides, lm-eval, report.

    It is a small sweep: the selectors lape and act_prob with their random controls, under the interventions none, mean,
    p90, zero and p10. After an interruption the same command goes on.

    Example: lnbench demo --model Qwen/Qwen3-0.6B-Base --corpus 'data/{lang}.jsonl.gz' --languages en+hi --out runs/qwen
    """
    from lnbench import demo as embedded
    from lnbench.quickstart import run

    run(
        model,
        out,
        corpus=corpus or embedded.CORPUS,
        languages=chosen_languages(corpus, languages) if languages else None,
        task=task,
        limit=limit or None,
        corpus_tokens=tokens,
        model_args=model_arguments(model_args),
    )


def eval(context: typer.Context) -> None:  # noqa: A001
    """Run lm_eval with lnbench's tasks included and --model lnbench; everything is passed on to it.

    The tasks stand beside those of your own --include_path. A {lang} in a word becomes *, because lm-eval takes a brace
    for JSON. lnbench eval --help is lm-eval's help.

    Example: lnbench eval --model_args 'intervention=p10,corpus=data/{lang}.jsonl.gz' --tasks lnbench_xnli_hi --limit 50
    """
    from lnbench.lm.command_line import run

    run(context.args)


def tasks() -> None:
    """Print the folder of lnbench's tasks, for lm_eval --include_path.

    Example: lm_eval --model lnbench --include_path "$(lnbench tasks)" --tasks lnbench_demo
    """
    from lnbench.files import tasks_dir

    typer.echo(tasks_dir())
