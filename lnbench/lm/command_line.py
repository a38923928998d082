"""``lnbench eval``: lm_eval's own command line with lnbench's model and tasks as the defaults."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def complete(arguments: Sequence[str]) -> list[str]:
    """Return lm_eval's arguments with ``--model lnbench``, where no model is given."""
    rest = list(arguments[1:] if arguments[:1] == ["run"] else arguments)
    if rest[:1] in (["--help"], ["-h"]):
        return ["run", "--help"]
    options = {word.partition("=")[0] for word in rest}
    added = [] if options & {"--model", "-M", "--config", "-C"} else ["--model", "lnbench"]
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
