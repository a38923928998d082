"""``lnbench reproduce``: a table or figure of the paper by name, or ``list``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lnbench.cli.executors import Chosen, Cpus, Gpus, RayAddress, Where, Workers, check_executor, chosen_executor
from lnbench.cli.options import ModelArgs, model_arguments, show

_NAME = "NAME"


class _Names(typer.core.TyperGroup):
    """Takes a word that is none of its commands for the name of a table or figure."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        return name, self.commands.get(name, self.commands[_NAME]), args[1:]


reproduce = typer.Typer(
    cls=_Names, no_args_is_help=True, help="Measure a table or figure of the paper again, beside its own numbers."
)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(reproduce, name="reproduce")


@reproduce.command(_NAME)
def measure(
    context: typer.Context,
    others: Annotated[list[str] | None, typer.Argument(help="More tables and figures.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="In place of the paper's: packaged model, hub name or folder.")
    ] = None,
    model_args: ModelArgs = "",
    scale: Annotated[
        Literal["paper", "small"], typer.Option(help="As much text and training as in the paper, or for two CPU cores.")
    ] = "paper",
    preset: Annotated[
        Literal["corrected", "paper"], typer.Option(help="lnbench's choices, or those of the paper's code.")
    ] = "corrected",
    corpus: Annotated[
        str | None,
        typer.Option("--corpus", help="Corpus pattern; small: that in LNBENCH_DATA, else the embedded text."),
    ] = None,
    languages: Annotated[
        str | None,
        typer.Option("--languages", help="Compared by every selector in place of the paper's sets, as en+hi+zh."),
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens of text a language, for Statistics.", min=1)] = None,
    limit: Annotated[int | None, typer.Option(help="Documents a cell.", min=1)] = None,
    controls: Annotated[
        int | None,
        typer.Option(
            help="Draws of random neurons beside every cell; by default none in tables, one in perplexity matrices.",
            min=0,
        ),
    ] = None,
    tables: Annotated[
        str | None, typer.Option(help="Of paper-vs-corrected: the tables to compare, as table1+table3+table8.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting of scale or preset, KEY=VALUE; can be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for all results; in runs/reproduce by default.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every step as a command; run none.")] = False,
    executor: Chosen = Where.LOCAL,
    ray_address: RayAddress = None,
    workers: Workers = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Do every step from text to table, and show the published value beside each measured one. Goes on where it ended.

    NAME is a table or figure that lnbench reproduce list names, or all. Exit code 1 if a cell failed.

    Example: lnbench reproduce figure1 --model gemma-3-270m --scale small
    """
    check_executor(executor, ray_address, workers, cpus, gpus)
    from lnbench.reproduce.plan import Request, plan
    from lnbench.reproduce.scale_settings import parse_pair

    given: dict[str, Any] = {f"model_args.{name}": value for name, value in model_arguments(model_args).items()}
    given |= {"tokens": tokens} if tokens else {}
    given |= {"controls": controls, "ppl.controls": controls} if controls is not None else {}
    given |= {f"{task}.limit": limit for task in ("xnli", "xquad")} if limit else {}
    given |= dict(map(parse_pair, setting or ()))
    wanted = plan(
        Request(
            names=(str(context.info_name), *(others or ())),
            out=out or Path("runs") / "reproduce" / f"{Path(model).name if model else 'paper'}-{scale}",
            model=model,
            scale=scale,
            preset=preset,
            corpus=corpus,
            languages=tuple(languages.split("+")) if languages else (),
            given=given,
            tables=tuple(tables.split("+")) if tables else (),
        )
    )
    if dry_run:
        from lnbench.reproduce.estimate import estimate

        for step in wanted.steps:
            typer.echo(f"# {step.doing}")
            typer.echo("\n".join(step.commands))
        typer.echo(f"# {estimate(wanted)}")
        return
    from lnbench.console import console
    from lnbench.reproduce.outcome import folder_of
    from lnbench.reproduce.run_plan import run
    from lnbench.reproduce.writing import shown, verdicts

    failed: list[str] = []
    with chosen_executor(executor, ray_address, workers, cpus, gpus) as chosen:
        for job, found in zip(wanted.jobs, run(wanted, chosen, console(stderr=True)), strict=True):
            for table in found.tables:
                show(shown(table))
            if (verdict := verdicts(found)) is not None:
                show(verdict)
            for sentence in (*found.findings, *(f"Note: {caveat}" for caveat in found.caveats)):
                typer.echo(sentence)
            typer.echo(f"{found.name}: written to {folder_of(wanted, job)}")
            failed += found.failures
    for failure in dict.fromkeys(failed):
        typer.echo(failure, err=True)
    typer.echo(f"as a page: lnbench report {wanted.request.out} --out {wanted.request.out / 'report'}")
    if failed:
        raise typer.Exit(1)


@reproduce.command("list")
def list_() -> None:
    """The tables and figures that can be measured again, and what each shows.

    Example: lnbench reproduce list
    """
    from rich import box
    from rich.table import Table

    from lnbench.reproduce import catalogue
    from lnbench.reproduce.catalogue import NeuronsSpec, PerplexitySpec

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("name", "what it shows", "of"):
        table.add_column(heading)
    titles = {key: one.title for key, one in catalogue.models().items()}
    orders: dict[str, None] = {}
    for name in catalogue.names():
        spec = catalogue.spec(name)
        table.add_row(name, catalogue.told(spec), ", ".join(titles[key] for key in spec.named_models))
        orders |= {spec.order: None} if isinstance(spec, NeuronsSpec | PerplexitySpec) and spec.order else {}
    show(table)
    for order in orders:
        typer.echo(f"In the paper {order}; the numbering within them is ours.")
