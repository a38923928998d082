"""``lnbench eval``: lm_eval's own command line with lnbench's model and tasks as the defaults."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def complete(arguments: Sequence[str]) -> list[str]:
    """Return lm_eval's arguments with ``--model lnbench``, where no model is given."""
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
    from lnbench.lm.compat import our_tasks_included

    register()
    sys.argv = ["lm_eval", *complete(arguments)]
    with our_tasks_included():
        cli_evaluate()
