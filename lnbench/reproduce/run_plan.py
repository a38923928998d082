"""Do what a plan says, and write what came of it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

from lnbench.hookspecs import Executor
from lnbench.locks import exclusive_lock
from lnbench.reproduce.plan import Plan
from lnbench.reproduce.results import write_results
from lnbench.reproduce.steps import PlannedStep, train_adapters
from lnbench.tables.reproduction import Reproduction


def run(plan: Plan, executor: Executor, console: Console) -> Iterator[Reproduction]:
    """Do all that is not done yet, and yield the results of each table and figure as soon as they are written.

    Cells and fine-tunings are run by the executor; Statistics and perplexity are measured in this process.

    Raises:
        LnbenchError: a step failed, or another process uses the folder. What is finished is kept, and the same call
            continues from there.
    """
    done: list[PlannedStep] = []
    with exclusive_lock(plan.request.folder):
        for item in plan.items:
            todo = [step for step in item.steps if not _is_done(step, done)]
            _do(todo, executor, console)
            done += todo
            yield write_results(plan, item)


def _is_done(step: PlannedStep, done: list[PlannedStep]) -> bool:
    """Return whether it was done for another table or figure: it, or the same text in more languages."""
    return any(before.out == step.out and {*step.languages} <= {*before.languages} for before in done)


def _do(todo: list[PlannedStep], executor: Executor, console: Console) -> None:
    # Together, so that a cluster trains them at the same time.
    adapters = [step.adapter for step in todo if step.adapter]
    for number, step in enumerate(todo, start=1):
        console.print(f"[bold]{number}/{len(todo)}[/] {escape(step.doing)}", highlight=False)
        if step.adapter is None:
            step.run(executor, console)
        elif step.adapter is adapters[-1]:
            train_adapters(adapters, executor, console)
