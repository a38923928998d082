"""What a command shows: its results, lnbench's own messages, and errors.

Other packages' messages, warnings and progress bars go to a log file in the cache, or are shown with ``--verbose``
(``LNBENCH_VERBOSE=1``). Only commands are quiet: to import lnbench changes nothing.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from lnbench.files import cache_dir

VARIABLE = "LNBENCH_VERBOSE"
OPTION = "--verbose"
_OURS = "lnbench"
_WARNINGS = "py.warnings"
_KEPT = 20
"""Log files that are kept."""
_DOWNLOADS = "huggingface_hub"
"""Whose bars are shown on a terminal all the same: without them, an hour's download would look like a hang."""


def is_verbose() -> bool:
    """Return whether other packages' messages are to be shown."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


class LogFile:
    """The log of one process, made when there is something to write; without a writable cache there is none."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.warnings = 0
        self._file: TextIO | None = None
        self._tried = False
        self._format = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def write(self, record: logging.LogRecord) -> None:
        """Add a record."""
        if not self._tried:
            self._tried = True
            with suppress(OSError):
                self._open()
        if self._file is not None:
            self.warnings += record.levelno >= logging.WARNING and not is_ours(record.name)
            with suppress(OSError, ValueError):
                self._file.write(self._format.format(record) + "\n")
                self._file.flush()

    def _open(self) -> None:
        folder = cache_dir("logs")
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.glob("*.log"))[: 1 - _KEPT]:
            old.unlink(missing_ok=True)
        path = folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.log"
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace")
        self.path = path

    def account(self) -> str | None:
        """Return where warnings of other packages are, in one line; None if there were none."""
        if self.path is None or not self.warnings:
            return None
        count = "1 warning" if self.warnings == 1 else f"{self.warnings:,} warnings"
        return f"lnbench: {count} of other packages: {self.path} ({OPTION} shows them)"


def is_ours(name: str) -> bool:
    """Return whether a logger or module is lnbench's."""
    return name.partition(".")[0] == _OURS


class _Gate:
    """What is put between other packages and stderr."""

    def __init__(self) -> None:
        self.log = LogFile()
        self.lifted = False
        self._handle = logging.Logger.callHandlers
        self._show = warnings.showwarning
        self._undo: list[Callable[[], None]] = []

    def close(self) -> None:
        gate = self

        def handle(logger: logging.Logger, record: logging.LogRecord) -> None:
            if gate.lifted or is_ours(record.name) or record.levelno >= logging.ERROR:
                gate._handle(logger, record)
            if not gate.lifted:
                gate.log.write(record)

        def show(message: Any, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
            if gate.lifted:
                gate._show(message, category, filename, lineno, *rest)
            elif is_ours(_warning_module()):
                print(f"{_OURS}: {message}", file=sys.stderr)
            else:
                text = f"{filename}:{lineno}: {category.__name__}: {message}"
                gate.log.write(logging.LogRecord(_WARNINGS, logging.WARNING, filename, lineno, text, (), None))

        logging.Logger.callHandlers = handle  # type: ignore[method-assign, assignment]
        warnings.showwarning = show  # type: ignore[assignment]
        if "tqdm" in sys.modules:
            self.silence_bars()

    def silence_bars(self) -> None:
        if not self._undo:
            self._undo.append(_silence_bars())

    def open(self) -> None:
        logging.Logger.callHandlers = self._handle  # type: ignore[method-assign]
        warnings.showwarning = self._show
        for undo in self._undo:
            undo()
        if said := self.log.account():
            print(said, file=sys.stderr)


_closed: list[_Gate] = []
"""The gate of this process, while there is one."""


def begin() -> None:
    """Be quiet until the process ends."""
    if not is_verbose() and not _closed:
        _closed.append(_Gate())
        _closed[0].close()
        atexit.register(end)


def end() -> None:
    """Show everything again, and say where the warnings are that were not shown."""
    while _closed:
        _closed.pop().open()


@contextmanager
def lifted() -> Iterator[None]:
    """Show in this block what other packages say: where it goes to a file in any case."""
    before = [gate.lifted for gate in _closed]
    for gate in _closed:
        gate.lifted = True
    try:
        yield
    finally:
        for gate, state in zip(_closed, before, strict=False):
            gate.lifted = state


def silence_bars() -> None:
    """Turn off other packages' progress bars, if this process is quiet; apart, because tqdm's import is slow."""
    for gate in _closed:
        gate.silence_bars()


def take_option(arguments: list[str]) -> None:
    """Take ``--verbose`` out of a command's words, wherever it is, and remember it for this process and its own."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if OPTION in options:
        os.environ[VARIABLE] = "1"
        arguments[: len(options)] = [word for word in options if word != OPTION]


def _warning_module() -> str:
    """Return the module that calls ``warnings.warn``, whichever it blames."""
    frame = sys._getframe(2)  # noqa: SLF001 - the only way to the caller
    while frame.f_back is not None and frame.f_globals.get("__name__") == "warnings":
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


def _silence_bars() -> Callable[[], None]:
    """Turn off other packages' bars of tqdm; return what turns them on again."""
    from tqdm.std import tqdm

    construct = tqdm.__init__

    def silent(self: Any, *args: Any, **options: Any) -> None:
        module = type(self).__module__
        if not is_ours(module):
            options["disable"] = None if module.partition(".")[0] == _DOWNLOADS else True
        construct(self, *args, **options)

    tqdm.__init__ = silent  # type: ignore[method-assign]

    def undo() -> None:
        tqdm.__init__ = construct  # type: ignore[method-assign]

    return undo
