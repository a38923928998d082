"""What an lm_eval command asks of lnbench, looked at before anything heavy is imported.

lm-eval imports for 10 to 18 seconds, and loads a model for minutes, before it hands over the model arguments. A wrong
name is refused here at once; what needs a model or a file's content is checked later, by
:class:`lnbench.lm.experiment.Experiment`.
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from lnbench import quiet, threads
from lnbench.errors import LnbenchError
from lnbench.files import tasks_dir
from lnbench.hub_neurons import PREFIX
from lnbench.settings import ExperimentSettings, parse_model_args

_LOGGERS = {"--wandb_args": "wandb", "--wandb_config_args": "wandb", "--trackio_args": "trackio"}
"""lm_eval's option → the package that it needs, and that lm-eval does not install."""
_FILES = ("neurons", "statistics", "head")
_OWN_TASKS = "lnbench_"
_NAMED = re.compile(rf"\b{_OWN_TASKS}\w+")
_SQLITE = b"SQLite format 3\0"
_OPTION = re.compile("--?[A-Za-z][A-Za-z_]*(=.*)?")


def options_of(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Return each option of an lm_eval command with its values."""
    places = [number for number, word in enumerate(arguments) if _OPTION.fullmatch(word)]
    options: dict[str, list[str]] = {}
    for start, end in pairwise([*places, len(arguments)]):
        name, equals, value = arguments[start].partition("=")
        options.setdefault(name, []).extend([*([value] if equals else []), *arguments[start + 1 : end]])
    return options


def config_of(options: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return what the file of ``--config`` says, which the command's own options replace; lm-eval refuses a bad one."""
    for name in options.get("--config", options.get("-C", ())):
        with suppress(OSError, ValueError, yaml.YAMLError):
            content = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
            return content if isinstance(content, dict) else {}
    return {}


def is_ours(options: Mapping[str, Sequence[str]]) -> bool:
    """Return whether a command asks for the model lnbench."""
    given = options.get("--model", options.get("-M", ()))
    models: list[Any] = list(given) or [config_of(options).get("model")]
    return models == ["lnbench"]


def model_args_of(options: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return a command's model arguments; those of ``--config`` where it has none.

    Raises:
        LnbenchError: they are not ``key=value`` or JSON.
    """
    in_file = config_of(options).get("model_args") or ()
    if not {"--model_args", "-a"} & options.keys():
        if isinstance(in_file, Mapping):
            return dict(in_file)
        options = {"--model_args": [in_file] if isinstance(in_file, str) else list(in_file)}
    found: dict[str, Any] = {}
    for word in options.get("--model_args", options.get("-a", ())):
        try:
            found |= json.loads(word) if word.startswith("{") else parse_model_args(word)
        except (ValueError, TypeError) as error:
            raise LnbenchError(f"--model_args {word}: {error}") from error
    return found


def check_command(arguments: Sequence[str], *, shows_own_tasks: bool = False) -> None:
    """Refuse an lm_eval command for lnbench that cannot work; one for another model is not looked at.

    Args:
        arguments: Its words, without the program's name.
        shows_own_tasks: Whether lm-eval is shown lnbench's tasks in any case.

    Raises:
        LnbenchError: a model argument or choice that does not exist, a missing file, or an option of lm_eval whose
            package is not installed.
    """
    options = options_of(arguments)
    if not is_ours(options):
        return
    for option, package in _LOGGERS.items():
        if option in options and find_spec(package) is None:
            raise LnbenchError(f"{option} needs the package {package}, which is not installed: pip install {package}")
    for name in options.get("--use_cache", options.get("-c", ())):
        for path in Path(name).parent.glob(f"{Path(name).name}_rank*.db"):
            with path.open("rb") as file:
                if (start := file.read(len(_SQLITE))) and start != _SQLITE:
                    raise LnbenchError(
                        f"--use_cache {name}: {path} cannot be used as a file of answers (it is no SQLite database): "
                        "delete it, or name another file"
                    )
    check_model_args(model_args_of(options))
    check_tasks(options, shows_own_tasks)


def begin(command: list[str]) -> None:
    """Prepare this process for an lm_eval command for lnbench, before torch is imported; leave others alone.

    Other packages are quiet unless the command has ``--verbose``, which is taken out of it, or ``--verbosity``.

    Args:
        command: Its words, with the program's name.
    """
    options = options_of(command[1:])
    if not is_ours(options):
        return
    quiet.take_option(command)
    if not options.keys() & {"--verbosity", "-v"} and "LMEVAL_LOG_LEVEL" not in os.environ:
        quiet.begin()
    _tell_threads()


@cache
def _tell_threads() -> None:
    """Choose the number of threads, and say it; once, though lm-eval's command line may be looked for several times."""
    print(threads.choose(), file=sys.stderr, flush=True)


def check_tasks(options: Mapping[str, Sequence[str]], shows_own_tasks: bool = False) -> None:
    """Refuse names of lnbench's own tasks that do not exist, or that lm-eval is not shown.

    Raises:
        LnbenchError: such a name, with those that are close.
    """
    in_file = config_of(options)
    given = options.get("--tasks", options.get("-t", ())) or in_file.get("tasks") or ()
    names = [name for word in ([given] if isinstance(given, str) else given) for name in str(word).split(",")]
    wanted = [name for name in names if name.startswith(_OWN_TASKS) and not {"*", "/", "."} & set(name)]
    if not wanted:
        return
    folders = options.get("--include_path", ()) or in_file.get("include_path") or ()
    folders = [folders] if isinstance(folders, str) else folders
    shown = {name for folder in folders for name in task_names(Path(folder))}
    for name in wanted:
        if name in shown:
            continue
        if name in (known := task_names(tasks_dir())):
            if shows_own_tasks:
                continue
            raise LnbenchError(f'the task {name} is lnbench\'s own: pass --include_path "$(lnbench tasks)"')
        close = difflib.get_close_matches(name, sorted(known | shown), 3)
        raise LnbenchError(f"unknown task {name!r}" + (f"; did you mean {', '.join(close)}?" if close else ""))


def task_names(folder: Path) -> set[str]:
    """Return the names that may be of tasks, groups and tags in the YAML files of a folder."""
    texts = (file.read_text(encoding="utf-8", errors="replace") for file in folder.rglob("*.y*ml"))
    return {name for text in texts for name in _NAMED.findall(text)}


def check_model_args(given: Mapping[str, Any]) -> None:
    """Refuse model arguments that cannot work.

    Raises:
        LnbenchError: see :func:`check_command`.
    """
    own = ExperimentSettings.model_fields
    known = {*own, *_of_hf()} if given.keys() - own else set(own)
    for name in sorted(given.keys() - known):
        # Others are arguments of the model's class.
        if close := difflib.get_close_matches(name, sorted(known), 1, 0.8):
            raise LnbenchError(f"unknown model argument {name!r}; did you mean {close[0]!r}?")
    settings = ExperimentSettings(**{name: value for name, value in given.items() if name in own and value is not None})
    for name in _FILES:
        path = getattr(settings, name)
        if path is not None and not (path.startswith(PREFIX) or Path(path).exists()):
            raise LnbenchError(f"model argument {name}={path}: there is no such file or folder")


def _of_hf() -> Iterator[str]:
    """Yield the arguments of lm-eval's ``hf``, read from its source: to import it takes seconds."""
    spec = find_spec("lm_eval")
    source = Path(*(spec.submodule_search_locations or ())[:1], "models", "huggingface.py") if spec else None
    if source is None or not source.is_file():
        return
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == "HFLM":
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    yield from (argument.arg for argument in method.args.args[1:])
