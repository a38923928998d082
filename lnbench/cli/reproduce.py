"""``lnbench reproduce``: a table or figure of the paper by name, or ``list``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lnbench.cli.executors import Chosen, Cpus, Gpus, RayAddress, Where, Workers, check_executor, chosen_executor
from lnbench.cli.options import Format, ModelArgs, model_arguments, say, show

if TYPE_CHECKING:
    from lnbench.tables.table import Table

_NAME = "NAME"


class _Names(typer.core.TyperGroup):
    """Takes a word that is none of its commands for the name of a table or figure."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ARG002
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
    tokens: Annotated[int | None, typer.Option(help="Tokens of text per language, for Statistics.", min=1)] = None,
    limit: Annotated[int | None, typer.Option(help="Documents per cell.", min=1)] = None,
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
    format_: Format = "terminal",
) -> None:
    """Do every step from text to table that is not done yet, and show the published value beside each measured one.

    NAME is a table or figure that lnbench reproduce list names, or all. Exit code 1 if a cell failed.

    Example: lnbench reproduce figure1 --model gemma-3-270m --scale small
    """
    check_executor(executor, ray_address, workers, cpus, gpus)
    from lnbench.reproduce.plan import ReproductionRequest, plan
    from lnbench.reproduce.scale_settings import parse_pair

    given: dict[str, Any] = {f"model_args.{name}": value for name, value in model_arguments(model_args).items()}
    given |= {"tokens": tokens} if tokens else {}
    given |= {"controls": controls, "ppl.controls": controls} if controls is not None else {}
    given |= {f"{task}.limit": limit for task in ("xnli", "xquad")} if limit else {}
    given |= dict(map(parse_pair, setting or ()))
    wanted = plan(
        ReproductionRequest(
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
        for step in wanted.steps:
            typer.echo("\n".join([f"# {step.doing}", *step.commands()]))
        typer.echo(f"# {wanted.amount()}")
        return
    from lnbench.console import console
    from lnbench.reproduce.results import folder_of
    from lnbench.reproduce.run_plan import run

    failed: list[str] = []
    shown: list[Table] = []
    with chosen_executor(executor, ray_address, workers, cpus, gpus) as chosen:
        for item, reproduction in zip(wanted.items, run(wanted, chosen, console(stderr=True)), strict=True):
            if format_ == "terminal":
                show(*reproduction.shown)
            shown += reproduction.shown
            for sentence in (*reproduction.findings, *(f"Note: {caveat}" for caveat in reproduction.caveats)):
                say(sentence, format_)
            say(f"{item.name}: written to {folder_of(wanted, item)}", format_)
            failed += reproduction.failures
    if format_ != "terminal":
        show(*shown, format_=format_)
    for failure in dict.fromkeys(failed):
        typer.echo(failure, err=True)
    say(f"as a page: lnbench report {wanted.request.out} --out {wanted.request.out / 'report'}", format_)
    if failed:
        raise typer.Exit(1)


@reproduce.command("list")
def list_(format_: Format = "terminal") -> None:
    """List the tables and figures that can be measured again, and what each shows.

    Example: lnbench reproduce list
    """
    from lnbench.reproduce import catalogue
    from lnbench.tables.table import Table, TableRow

    models = {key: model.title for key, model in catalogue.models().items()}
    specs = catalogue.specs()
    rows = [
        TableRow([name, catalogue.describe(spec), ", ".join(models[key] for key in spec.models)], [])
        for name, spec in specs.items()
    ]
    orders = dict.fromkeys(spec.order for spec in specs.values() if isinstance(spec, catalogue.FigureSpec))
    notes = [f"In the paper {order}; the numbering within them is ours." for order in orders]
    table = Table("The paper's tables and figures", ["name", "what it shows", "of"], [], rows, notes=notes)
    show(table, format_=format_)
