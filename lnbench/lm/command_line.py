"""``lnbench eval``: lm_eval's own command line with lnbench's model and tasks as the defaults."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from lnbench.paths import tasks_dir


def complete(arguments: Sequence[str]) -> list[str]:
    """lm_eval's arguments with ``--model lnbench``, where no model is given."""
    rest = list(arguments)
    if rest[:1] == ["run"]:
        rest = rest[1:]
    if rest[:1] == ["--help"] or rest[:1] == ["-h"]:
        return ["run", "--help"]
    given = {argument.partition("=")[0] for argument in rest}
    added = [] if given & {"--model", "-M", "--config", "-C"} else ["--model", "lnbench"]
    # lm_eval's parser takes a word with a brace for JSON; the corpus pattern has a spelling without.
    return ["run", *added, *(word if word.startswith("{") else word.replace("{lang}", "*") for word in rest)]


def run(arguments: Sequence[str]) -> None:
    """Run lm_eval in this process, as ``lm_eval run …`` would, with our tasks beside those of ``--include_path``."""
    from lm_eval.__main__ import cli_evaluate

    from lnbench._lm_eval_hook import register

    register()
    sys.argv = ["lm_eval", *complete(arguments)]
    with _our_tasks_included():
        cli_evaluate()


@contextmanager
def _our_tasks_included() -> Iterator[None]:
    """Let every TaskManager find our tasks: it takes several folders, but lm_eval's command line gives it only one."""
    from lm_eval.tasks import TaskManager

    construct = TaskManager.__init__

    @wraps(construct)
    def with_our_tasks(self: Any, *args: Any, include_path: Any = None, **options: Any) -> None:
        theirs = [] if include_path is None else include_path
        theirs = [theirs] if isinstance(theirs, str | Path) else [*theirs]
        # A later folder's tasks replace an earlier one's: the user's replace ours.
        construct(self, *args, include_path=[tasks_dir(), *theirs], **options)

    TaskManager.__init__ = with_our_tasks
    try:
        yield
    finally:
        TaskManager.__init__ = construct
