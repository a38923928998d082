"""Registers the model ``lnbench`` in lm-eval: lm-eval 0.4.13 knows only the models in its own source.

At every start of Python, ``lnbench_lm_eval.pth`` puts a finder on ``sys.meta_path``. It waits for the first import of
``lm_eval.models`` and then hands over to :func:`find_spec`. When lm-eval's own command line is imported before that, it
calls :func:`check_command`. Until then nothing of lnbench is imported. Later versions
of lm-eval read the entry point ``lm_eval.models`` and skip a name that is taken, so whoever comes first wins.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec as find_spec_elsewhere
from pathlib import PurePath
from types import ModuleType
from typing import Any

NAME = "lnbench"
TARGET = "lnbench.lm:LNBenchLM"
MODELS = "lm_eval.models"
PROGRAMS = ("lm_eval", "lm-eval", "-m")
"""Names that lm-eval's own command goes by in ``sys.argv``; ``-m`` while Python looks for the module."""


def register() -> None:
    """Register :data:`TARGET` as lm-eval's model :data:`NAME`, without importing it. Does nothing if it is there.

    Never raises: with a version of lm-eval that has no such registry the name stays unknown.
    """
    with suppress(Exception):
        registry = import_module("lm_eval.api.registry").model_registry
        if NAME not in registry:
            registry.register(NAME, target=TARGET)


def find_spec(finder: Any) -> ModuleSpec | None:
    """Return the spec of ``lm_eval.models`` as every other finder sees it, made to end with :func:`register`.

    None where the module has been imported already; the model is then registered at once.

    Args:
        finder: The waiting finder; it is taken off ``sys.meta_path``.
    """
    with suppress(ValueError):
        sys.meta_path.remove(finder)
    if MODELS in sys.modules:
        register()
        return None
    # Asking them all here, and not leaving it to the caller's loop over sys.meta_path: that loop skips a finder when
    # one before it is removed.
    spec = find_spec_elsewhere(MODELS)
    if spec is not None:
        _register_after(spec.loader)
    return spec


def _register_after(loader: Any) -> None:
    with suppress(Exception):
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            execute(module)
            register()

        # On the instance, not in a wrapper: the module's loader stays the real one for inspect and resources.
        vars(loader)["exec_module"] = exec_module


def check_command() -> None:
    """Look at the command that lm-eval was started with, before it imports for seconds what the command needs.

    An error of lnbench, now or later, is then one line on stderr and exit code 2; with ``LNBENCH_TRACEBACK=1`` in the
    environment, the traceback. A command for another model is left alone.

    Raises:
        SystemExit: the command cannot work.
    """
    program, arguments = PurePath(sys.argv[0]), sys.argv[1:]
    if program.stem not in PROGRAMS and program.parts[-2:] != ("lm_eval", "__main__.py"):
        return
    sys.excepthook = _one_line(sys.excepthook)
    if NAME not in " ".join(arguments) and not any(word.startswith("--config") for word in arguments):
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            # lm-eval's table, printed when all is done, has arrows that an ASCII locale lacks.
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        ours = import_module("lnbench.model_arguments")
        ours.check_command([word for word in arguments if word != "--verbose"])
        ours.begin(sys.argv)
    except Exception as error:
        if not _is_ours(error):
            return
        sys.excepthook(type(error), error, error.__traceback__)
        raise SystemExit(2) from error


def _is_ours(error: BaseException) -> bool:
    return any((kind.__module__, kind.__name__) == ("lnbench.errors", "LnbenchError") for kind in type(error).__mro__)


def _one_line(otherwise: Any) -> Any:
    def show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not _is_ours(error):
            otherwise(kind, error, trace)
            return
        if os.environ.get("LNBENCH_TRACEBACK"):
            otherwise(kind, error, trace)
        else:
            print(f"lnbench: {' '.join(str(error).split())}", file=sys.stderr)
        # Python's own exit code would be 1.
        raise SystemExit(2)

    return show
