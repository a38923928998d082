"""``lnbench eval``: lm_eval's own command line with lnbench's model and tasks as the defaults."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lnbench import threads
from lnbench.data_folder import default_corpus, text_read
from lnbench.errors import LnbenchError
from lnbench.model_arguments import is_ours, model_args_of, options_of


def complete(arguments: Sequence[str]) -> list[str]:
    """Return lm_eval's arguments with ``--model lnbench``, where no model is given."""
    rest = list(arguments[1:] if arguments[:1] == ["run"] else arguments)
    if rest[:1] in (["--help"], ["-h"]):
        return ["run", "--help"]
    options = {word.partition("=")[0] for word in rest}
    added = [] if options & {"--model", "-M", "--config", "-C"} else ["--model", "lnbench"]
    # lm_eval's parser takes a word with a brace for JSON; the corpus pattern has a spelling without.
    return ["run", *added, *(word if word.startswith("{") else word.replace("{lang}", "*") for word in rest)]


def text_of(arguments: Sequence[str]) -> str | None:
    """Return what an evaluation's first line says of the text that it reads; None where the model is not ours."""
    options = options_of(complete(arguments))
    if not is_ours(options):
        return None
    try:
        given = model_args_of(options)
    except LnbenchError:  # lm_eval's parser says what is wrong
        return None
    return text_read(str(given.get("corpus") or default_corpus()), given.get("statistics"))


def run(arguments: Sequence[str]) -> None:
    """Run lm_eval in this process, as ``lm_eval run …`` would, with our tasks beside those of ``--include_path``."""
    from lm_eval.__main__ import cli_evaluate

    from lnbench._lm_eval_hook import register
    from lnbench.lm.compat import our_tasks_included

    register()
    if text := text_of(arguments):
        print(text, threads.choose(), sep="\n", file=sys.stderr, flush=True)
    sys.argv = ["lm_eval", *complete(arguments)]
    with our_tasks_included():
        cli_evaluate()
