"""Measure a table or figure of the paper again, beside its own numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lnbench.cli.listing import NamesGroup
from lnbench.cli.options import Executor, Format, Given, say, show, takes
from lnbench.reproduce.reproduction_request import ReproductionRequest

if TYPE_CHECKING:
    from lnbench.tables.table import Table

app = typer.Typer(add_completion=False, cls=NamesGroup, no_args_is_help=True, help=__doc__)


@app.command("NAME")
@takes(ReproductionRequest, leave_out=["names"])
def measure(
    context: typer.Context,
    given: Given,
    others: Annotated[list[str] | None, typer.Argument(help="More tables and figures.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every step as a command; run none.")] = False,
    speeds: Annotated[
        Path | None,
        typer.Option(
            help="Figures of a GPU, for --dry-run's hours: what make gpu wrote, in the cache by default.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    executor: Executor = "local",
    format_: Format = "terminal",
) -> None:
    """Do every step from text to table that is not done yet, and show the published value beside each measured one.

    NAME is a table or figure that lnbench reproduce list names, or all. Exit code 1 if a cell failed.

    Example: lnbench reproduce figure1 --model gemma-3-270m --scale small
    """
    request = ReproductionRequest(names=(str(context.info_name), *(others or ())), **given)
    from lnbench.reproduce.hours import Rates, estimate, on_this_machine
    from lnbench.reproduce.plan import plan
    from lnbench.sweeps.jobs import executor_of

    wanted, runs_on = plan(request), executor_of(executor)
    if dry_run:
        for step in wanted.steps:
            typer.echo("\n".join([f"# {step.doing}", *step.commands()]))
        typer.echo(f"# {wanted.amount()}")
        rates = Rates.load(speeds)
        estimated = estimate(wanted.steps, rates) if rates else on_this_machine(wanted)
        typer.echo("\n".join(f"# {line}" for line in estimated))
        return
    from lnbench.cli.options import tell_text
    from lnbench.console import console
    from lnbench.reproduce.results import folder_of
    from lnbench.reproduce.run_plan import run

    for line in on_this_machine(wanted, dry_run=False):
        typer.echo(line, err=True)
    tell_text(wanted.corpus, format_)
    failed: list[str] = []
    shown: list[Table] = []
    with runs_on as chosen:
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
    say(f"as a page: lnbench report {request.folder} --out {request.folder / 'report'}", format_)
    if failed:
        raise typer.Exit(1)


@app.command("list")
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
    notes = dict.fromkeys(spec.numbering for spec in specs.values() if isinstance(spec, catalogue.FigureSpec))
    table = Table("The paper's tables and figures", ["name", "what it shows", "of"], [], rows, notes=list(notes))
    show(table, format_=format_)
