"""Files that appear whole or not at all, fingerprints of what they hold, and the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lnbench.errors import LnbenchError


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` that is renamed to it when the block ends without an error.

    Raises:
        LnbenchError: the disk is full or the folder cannot be written; ``target`` is left as it was.
    """
    target = Path(target)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # Temporary files are private; a result is as readable as any other file of the user's.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        sync(temporary)
        temporary.replace(target)
    except OSError as error:
        raise LnbenchError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Fsync a file, or every file in a folder: a power cut then leaves it whole."""
    for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text to ``target`` atomically."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def as_json(value: Any) -> str:
    """Return ``value`` as indented JSON, with a newline at its end."""
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def write_json(target: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON to ``target`` atomically."""
    write_text(target, as_json(value))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        LnbenchError: the file is missing, or is not (or no longer) whole JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LnbenchError(f"no such file: {path}") from error
    except OSError as error:
        raise LnbenchError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise LnbenchError(f"{path} is not valid JSON ({error}); it may be truncated: write it again") from error


def fingerprint(value: Any) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of ``value`` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def exclusive_lock(folder: str | os.PathLike[str], *, wait: bool = False) -> Iterator[None]:
    """Keep every other process that asks for the same out of ``folder``, for as long as the block runs.

    The lock goes with the process, also when it is killed.

    Args:
        folder: Made where there is none.
        wait: For a process that has it, in place of the error.

    Raises:
        LnbenchError: another process has the folder, which the message names; or it cannot be written.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    holder = folder / ".running.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".running.lock").acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise LnbenchError(
            f"{folder} is in use by {_named(holder)}: wait until it ends, or choose another folder with --out"
        ) from error
    except OSError as error:
        raise LnbenchError(f"cannot write {folder}: {error.strerror or error}") from error
    with lock:
        program = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        started = datetime.now(UTC).isoformat(timespec="seconds")
        about = {"pid": os.getpid(), "host": socket.gethostname(), "command": program, "started": started}
        write_json(holder, about)
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)


def _named(holder: Path) -> str:
    try:
        about = read_json(holder)
        return f"process {about['pid']} on {about['host']}, started {about['started']} ({about['command']})"
    except (LnbenchError, KeyError, TypeError):
        return "another process"


def cache_dir(*parts: str) -> Path:
    """Return a folder in lnbench's cache: ``$LNBENCH_CACHE``, ``$XDG_CACHE_HOME/lnbench`` or ``~/.cache/lnbench``."""
    root = os.environ.get("LNBENCH_CACHE")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lnbench"
    return base.joinpath(*parts)


def tasks_dir() -> Path:
    """Return the folder of lnbench's lm-eval tasks, for ``--include_path``.

    It lies inside the package in a wheel, and beside it in a source checkout.

    Raises:
        LnbenchError: it is in neither place: the installation is incomplete.
    """
    package = Path(__file__).parent
    for folder in (package / "tasks", package.parent / "tasks"):
        if (folder / "xnli").is_dir():
            return folder
    raise LnbenchError(f"lnbench's tasks are not beside {package}; install lnbench again")


@cache
def versions() -> dict[str, str]:
    """Return ``{"torch_version": …}`` of what measures."""
    return {f"{name}_version": version(name) for name in ("lnbench", "lm_eval", "transformers", "torch", "datasets")}
