"""What several commands take, and how they read and print it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any, Literal

import typer

from lnbench.errors import LnbenchError
from lnbench.model import architectures


class Site(StrEnum):
    """Where a neuron is read."""

    POST = architectures.POST
    PRE = architectures.PRE


Model = Annotated[str, typer.Option("--model", help="Packaged model, hub name or folder.")]
ModelArgs = Annotated[
    str, typer.Option("--model-args", help="Further arguments of lm-eval's hf: dtype=bfloat16,load_in_4bit=True,peft=…")
]
Languages = Annotated[
    str | None,
    typer.Option("--languages", help="Languages, as en+hi+zh; all by default, but a hub dataset needs them."),
]
Corpus = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        help="Corpus pattern: path with {lang}, folder, or hub dataset repo:config; the embedded text by default.",
    ),
]
Format = Annotated[
    Literal["terminal", "markdown", "csv", "json", "html", "latex"],
    typer.Option("--format", help="How tables are printed; beside other formats than terminal nothing else is."),
]


def chosen_languages(corpus: str | None, languages: str | None) -> list[str]:
    """The languages asked for, or all that the corpus has."""
    from lnbench import demo as embedded
    from lnbench.corpora import choose_languages

    if corpus is None and languages is None:
        return list(embedded.LANGUAGES)
    return choose_languages(corpus or embedded.CORPUS, languages.split("+") if languages else None)


def model_arguments(text: str) -> dict[str, Any]:
    """``key=value,key=value`` as lm-eval reads it."""
    if wrong := [part for part in text.split(",") if part.strip() and not part.partition("=")[1]]:
        raise LnbenchError(f"--model-args takes key=value,key=value …, not {wrong[0].strip()!r}")
    from lm_eval.utils import simple_parse_args_string

    return dict(simple_parse_args_string(text))


@contextmanager
def tell() -> Iterator[None]:
    """Print what lnbench logs, beside the progress bars and not through them."""
    import logging

    from tqdm.contrib.logging import logging_redirect_tqdm

    logger = logging.getLogger("lnbench")
    handler, level = logging.StreamHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with logging_redirect_tqdm([logger]):
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = True


def show(*tables: Any, format_: str = "terminal") -> None:
    """Print tables, in full width where there is no terminal to fit."""
    from lnbench.console import print_whole
    from lnbench.tables.render import FORMATS, terminal
    from lnbench.tables.table import Table

    if format_ == "terminal":
        for table in tables:
            print_whole(terminal(table) if isinstance(table, Table) else table)
    else:
        typer.echo(FORMATS[format_](*tables), nl=False)


def say(text: str, format_: str) -> None:
    """Print what is no table: on stderr where stdout is a program's to read."""
    typer.echo(text, err=format_ != "terminal")
