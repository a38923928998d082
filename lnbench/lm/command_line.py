"""``lnbench eval``: lm_eval's own command line with lnbench's model and tasks as the defaults."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from lnbench.data_folder import default_corpus, text_read
from lnbench.settings import parse_model_args


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
    values = {name: list(words) for name, words in _options(complete(arguments))}
    if values.get("--model", values.get("-M")) != ["lnbench"]:
        return None
    words = values.get("--model_args", values.get("-a", []))
    try:
        given = {key: value for word in words for key, value in _model_args(word).items()}
    except ValueError:  # lm_eval's parser says what is wrong
        return None
    return text_read(str(given.get("corpus") or default_corpus()), given.get("statistics"))


def _model_args(word: str) -> Mapping[str, Any]:
    return dict(json.loads(word) if word.startswith("{") else parse_model_args(word))


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield each option with its values."""
    places = [number for number, word in enumerate(arguments) if re.fullmatch("--?[A-Za-z][A-Za-z_]*(=.*)?", word)]
    for start, end in pairwise([*places, len(arguments)]):
        name, equals, value = arguments[start].partition("=")
        yield name, [*([value] if equals else []), *arguments[start + 1 : end]]


def run(arguments: Sequence[str]) -> None:
    """Run lm_eval in this process, as ``lm_eval run …`` would, with our tasks beside those of ``--include_path``."""
    from lm_eval.__main__ import cli_evaluate

    from lnbench._lm_eval_hook import register
    from lnbench.lm.compat import our_tasks_included

    register()
    if text := text_of(arguments):
        print(text, file=sys.stderr, flush=True)
    sys.argv = ["lm_eval", *complete(arguments)]
    with our_tasks_included():
        cli_evaluate()
