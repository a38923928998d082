"""Do what a plan says, and say what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from lnbench.files import exclusive_lock
from lnbench.reproduce.plan import Plan
from lnbench.reproduce.steps import Collect, Measure, Step, Train, train
from lnbench.tables.reproduction import Reproduction

if TYPE_CHECKING:
    from lnbench.sweeps.run_sweep import Executor


def run(plan: Plan, executor: Executor, console: Console) -> Iterator[Reproduction]:
    """Do all that is not done yet, and write each table and figure as soon as its steps are done.

    Args:
        plan: What to do.
        executor: Where cells and fine-tunings are run; Statistics and perplexity are measured in this process.
        console: Where to talk.

    Yields:
        What each table or figure has come to.

    Raises:
        LnbenchError: a step failed, or another process uses the folder. What is finished stays, and the same call goes
            on from there.
    """
    from lnbench.reproduce.outcome import outcome

    done: list[Step] = []
    with exclusive_lock(plan.request.out):
        for job in plan.jobs:
            todo = [step for step in job.steps if not _is_done(step, done)]
            _do(todo, executor, console)
            done += todo
            yield outcome(plan, job)


def _is_done(step: Step, done: list[Step]) -> bool:
    """Whether it was done for another table or figure: it, or a reading of the same text in more languages."""
    if not isinstance(step, Collect):
        return step in done
    read = [one for one in done if isinstance(one, Collect) and one.at == step.at]
    return any({*step.languages} <= {*one.languages} for one in read)


def _do(todo: list[Step], executor: Executor, console: Console) -> None:
    # Together, so that a cluster trains them at a time.
    trainings = [step for step in todo if isinstance(step, Train)]
    for number, step in enumerate(todo, start=1):
        console.print(f"[bold]{number}/{len(todo)}[/] {step.doing}", highlight=False)
        if isinstance(step, Measure):
            step.run(executor, console)
        elif not isinstance(step, Train):
            step.run(console)
        elif step == trainings[-1]:
            train(trainings, executor, console)
