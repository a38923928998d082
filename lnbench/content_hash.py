"""What files hold now, as short fingerprints: cells are keyed by contents, so that a rewritten file is noticed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from lnbench.errors import LnbenchError
from lnbench.files import cache_dir, file_sha256, fingerprint, write_text

_LARGE_BYTES = 1 << 26
"""From here on, a file's checksum is kept in the cache."""
_OF_A_RUN = {"records.jsonl", ".running.lock"}
"""Files that only the folder of a run holds."""
_caches: list[Any] = []

F = TypeVar("F", bound=Callable[..., Any])
_planning: ContextVar[bool] = ContextVar("planning", default=False)


def forget() -> None:
    """Forget what files held: when a sweep was planned they may have held something else."""
    for function in _caches:
        function.cache_clear()


def remembered(function: F) -> F:
    """Cache what ``function`` returns of files until :func:`forget`."""
    cached = cache(function)
    _caches.append(cached)
    return cast(F, cached)


def is_planning() -> bool:
    """Return whether files that are missing still count by their names, as inside :func:`planning`."""
    return _planning.get()


@contextmanager
def planning() -> Iterator[None]:
    """Enter planning mode: a missing file is hashed by its path, because an earlier step will create it."""
    forget()
    token = _planning.set(True)
    try:
        yield
    finally:
        _planning.reset(token)
        forget()


@remembered
def of_file(path: str) -> str:
    """Return a fingerprint of a file's content.

    Raises:
        LnbenchError: it cannot be read.
    """
    if is_planning() and not Path(path).exists():
        return path
    try:
        status = Path(path).stat()
        if status.st_size < _LARGE_BYTES:
            return file_sha256(path)[:16]
        # Weights take a minute to read.
        version = fingerprint([str(Path(path).resolve()), status.st_size, status.st_mtime_ns])
        cached = cache_dir("checksums", version)
        if cached.is_file() and (kept := cached.read_text(encoding="utf-8")):
            return kept
        checksum = file_sha256(path)[:16]
        with suppress(LnbenchError):  # A cache that cannot be written costs time, not the result.
            write_text(cached, checksum)
        return checksum
    except OSError as error:
        raise LnbenchError(f"cannot read {path}: {error.strerror or error}") from error


@remembered
def of_folder(folder: str) -> str:
    """Return a fingerprint of all files in a folder, except those of runs inside it.

    Raises:
        LnbenchError: it is no folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise LnbenchError(f"{folder} is not a folder")
    return fingerprint(sorted((str(path.relative_to(root)), of_file(str(path))) for path in _files_in(root)))


def of_path(value: object, beside: str = "") -> str | None:
    """Return a fingerprint of the file or folder that a setting names; None where it names none on this machine.

    Args:
        value: What was given.
        beside: A folder that a relative path may be in.

    Raises:
        LnbenchError: it cannot be read.
    """
    if not isinstance(value, str) or not value.strip("./~"):
        return None
    for path in (Path(value).expanduser(), Path(beside).expanduser() / value):
        try:
            if path.is_file():
                return of_file(str(path))
            if path.is_dir():
                return of_folder(str(path))
        except (OSError, ValueError):  # It is too long for a path, or has a NUL.
            return None
    return None


def of_settings(settings: Mapping[str, Any], beside: str = "") -> dict[str, str]:
    """Return name → fingerprint of the settings that name files or folders on this machine, inside lists too.

    Raises:
        LnbenchError: one cannot be read.
    """
    values = [
        (name, value)
        for name, setting in settings.items()
        for value in (setting if isinstance(setting, list | tuple) else (setting,))
    ]
    return {f"{name}={value}": held for name, value in values if (held := of_path(value, beside)) is not None}


def _files_in(root: Path) -> Iterator[Path]:
    for folder, inside, files in os.walk(root):
        here = Path(folder)
        if here != root and _OF_A_RUN & set(files):
            inside.clear()
            continue
        inside[:] = [name for name in inside if not name.startswith(".") and name != "__pycache__"]
        yield from (here / name for name in files if not name.startswith(".") and (here / name).is_file())
