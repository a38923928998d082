"""What files hold now, as short fingerprints: cells are keyed by contents, so that a rewritten file is noticed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from lnbench.errors import LnbenchError
from lnbench.files import cache_dir, file_sha256, fingerprint, write_text
from lnbench.models import PACKAGED
from lnbench.statistics import store
from lnbench.sweeps.records import FILE

_LARGE_BYTES = 1 << 26
"""From here on, a file's checksum is kept in the cache."""
_NO_TASKS = "__pycache__"
_OF_A_RUN = {FILE, ".running.lock"}
_DATA = {"xnli": "xnli", "xquad": "xquad", "ppl": "corpus"}
"""Beginnings of our tasks → the folder in ``$LNBENCH_DATA`` that they read."""


_outlining: ContextVar[bool] = ContextVar("outlining", default=False)


def forget() -> None:
    """Look at every file anew: what they held when a sweep was planned is not what they hold for the next."""
    for function in (of_file, of_model, of_statistics, of_tasks, of_data, tasks_in):
        function.cache_clear()


@contextmanager
def outlining() -> Iterator[None]:
    """Inside, files that are not there yet count by their names: for work whose first steps will make them."""
    forget()
    token = _outlining.set(True)
    try:
        yield
    finally:
        _outlining.reset(token)
        forget()


@cache
def of_file(path: str) -> str:
    """A file's content.

    Raises:
        LnbenchError: it cannot be read.
    """
    if _outlining.get() and not Path(path).exists():
        return path
    try:
        status = Path(path).stat()
        if status.st_size < _LARGE_BYTES:
            return file_sha256(path)[:16]
        # Weights take a minute to read.
        place = fingerprint([str(Path(path).resolve()), status.st_size, status.st_mtime_ns])
        known = cache_dir("checksums", place)
        if not known.is_file():
            write_text(known, file_sha256(path)[:16])
        return known.read_text(encoding="utf-8")
    except OSError as error:
        raise LnbenchError(f"cannot read {path}: {error.strerror or error}") from error


@cache
def of_model(name: str) -> str:
    """A packaged model's checksum, the files of a local folder, or a hub name itself."""
    if name in PACKAGED:
        return PACKAGED[name].sha256[:16]
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    return fingerprint([(path.name, of_file(str(path))) for path in sorted(files)])


@cache
def of_statistics(folder: str) -> str:
    """A Statistics folder's manifest.

    Raises:
        LnbenchError: there is none.
    """
    return of_file(str(Path(folder) / store.MANIFEST))


def languages_of(folder: str) -> list[str] | None:
    """The languages of a Statistics folder; None where it is not there yet, in :func:`outlining`.

    Raises:
        LnbenchError: there is none.
    """
    if _outlining.get() and not Path(folder).exists():
        return None
    return store.languages(Path(folder))


@cache
def of_tasks(folder: str) -> str:
    """All files in a folder of tasks, but for those of sweeps that were run inside it.

    Raises:
        LnbenchError: it is no folder.
    """
    root = _folder(folder)
    return fingerprint(sorted((str(path.relative_to(root)), of_file(str(path))) for path in _files_in(root)))


def _folder(name: str) -> Path:
    if not Path(name).is_dir():
        raise LnbenchError(f"include_path: {name} is no folder")
    return Path(name)


def _files_in(root: Path) -> Iterator[Path]:
    for folder, inside, files in os.walk(root):
        here = Path(folder)
        if here != root and _OF_A_RUN & set(files):
            inside.clear()
            continue
        inside[:] = [name for name in inside if not name.startswith(".") and name != _NO_TASKS]
        yield from (here / name for name in files if not name.startswith(".") and (here / name).is_file())


@cache
def tasks_in(folder: str) -> frozenset[str]:
    """The names of the tasks, groups and tags of a folder.

    Raises:
        LnbenchError: it is no folder.
    """
    from lm_eval.tasks import TaskManager

    return frozenset(TaskManager(include_path=_folder(folder), include_defaults=False).all_tasks)


@cache
def of_data(task: str, folder: str | None) -> str | None:
    """The data on this machine that one of our tasks reads; None where it is a part of lnbench, or on the hub.

    Args:
        task: The task's name, without ``lnbench_``.
        folder: As the metadata key ``lnbench_data``.

    Raises:
        LnbenchError: it is no folder.
    """
    from lnbench.task_data import data_folder

    name = _DATA.get(task.partition("_")[0])
    if name is None or (root := data_folder(folder)) is None or not (root / name).is_dir():
        return None
    return of_tasks(str(root / name))
