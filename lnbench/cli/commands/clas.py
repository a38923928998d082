"""Score answers to open questions that should be in another language: CLaS-Bench's steering score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lnbench.cli.options import Format, say, show

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)


@app.callback()
def clas() -> None:
    """Score answers to open questions that should be in another language: CLaS-Bench's steering score."""


@app.command()
def score(
    runs: Annotated[list[Path], typer.Argument(help="Folders of sweeps over lnbench_clas_… or lnbench_demo_open_….")],
    judge: Annotated[
        str | None,
        typer.Option(
            help="Who rates relevance: a model of lm-eval, as local-chat-completions, or a model by its name."
        ),
    ] = None,
    judge_args: Annotated[str, typer.Option(help="The judge's model arguments, as pretrained=…,dtype=….")] = "",
    ratings: Annotated[
        Path | None, typer.Option(help="File that keeps what the judge says, so that nothing is rated twice.")
    ] = None,
    split: Annotated[
        Literal["test", "tune", "all"] | None,
        typer.Option(help="Questions that are counted; by default all but those for tuning."),
    ] = None,
    diagonal: Annotated[bool, typer.Option("--diagonal", help="Count pairs whose source is their target.")] = False,
    format_: Format = "terminal",
) -> None:
    """Print success, relevance and steering score per pair of languages, per target, per source and over all.

    Example: lnbench clas score runs/pairs
    """
    from lnbench.language_control.steering import RatedAnswer
    from lnbench.leaderboard.pairs import read_answers
    from lnbench.tables.language_control import steering_matrix, steering_table

    conditions = read_answers(runs, split)
    rate = None
    if judge is not None:
        from lm_eval.utils import simple_parse_args_string

        from lnbench.lm.judge import Judge

        rate = Judge(judge, simple_parse_args_string(judge_args), ratings).rate
    for condition, answers in conditions.items():
        given = rate([(one.prompt, one.answer, one.source) for one in answers]) if rate else [None] * len(answers)
        rated = [
            RatedAnswer(one.question, one.source, one.target, one.success, rating, judged=rate is not None)
            for one, rating in zip(answers, given, strict=True)
        ]
        title = ", ".join(part for part in condition if part != "-")
        show(steering_table(rated, title, diagonal=diagonal), steering_matrix(rated, title), format_=format_)
    if rate is None:
        say("not rated: name a judge with --judge for relevance and S", format_)
