"""Files that appear whole or not at all, fingerprints of what they hold, and the cache folder."""

from __future__ import annotations

import errno
import glob
import gzip
import hashlib
import json
import logging
import os
import re
import socket
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lnbench.errors import LnbenchError

log = logging.getLogger(__name__)
_MACHINE = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_LEFTOVER = re.compile(r"\..+\.(?P<machine>[0-9a-f]{8})-(?P<pid>[0-9]+)-[a-z0-9_]{8}")
"""Names of temporary files."""
_OLD_LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}")
"""Those of version 0.1, which do not say whose they are."""
_DAY = 86_400
_looked_through: set[Path] = set()
"""Folders without leftovers of processes that ended before this one began."""
_LOST = {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What fsync says when content did not reach the disk."""


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` that is renamed to it when the block ends without an error.

    What a process that was killed left in the folder in this way is removed.

    Raises:
        LnbenchError: the disk is full or the folder cannot be written; ``target`` is left as it was.
    """
    target = Path(target)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.{_MACHINE}-{os.getpid()}-", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        make_readable(temporary)
        sync(temporary)
        temporary.replace(target)
    except OSError as error:
        raise LnbenchError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files of processes of this machine that have ended, and older ones of the same target."""
    import psutil

    folder = target.parent.resolve()
    parts = [(path, _LEFTOVER.fullmatch(path.name)) for path in folder.glob(f".{glob.escape(target.name)}.*")]
    if folder not in _looked_through:
        _looked_through.add(folder)
        parts += [(path, _LEFTOVER.fullmatch(path.name)) for path in folder.glob(f".*.{_MACHINE}-*-*")]
    for path, match in parts:
        with suppress(OSError):
            pid = int(match["pid"]) if match and match["machine"] == _MACHINE else None
            day_old = time.time() - path.stat().st_mtime > _DAY
            if (pid is not None and not psutil.pid_exists(pid)) or (
                day_old and (match or _OLD_LEFTOVER.fullmatch(path.name))
            ):
                path.unlink()


def make_readable(path: Path) -> None:
    """Give a file that was made private, as temporary ones are, the permissions of the user's other files.

    Where the file system refuses that, there is one warning and the file stays as it is.
    """
    umask = os.umask(0)
    os.umask(umask)
    try:
        path.chmod(0o666 & ~umask)
    except OSError as error:
        warn_once(f"{path.parent}: permissions cannot be set there ({error.strerror or error}); files keep their own")


def sync(path: Path) -> None:
    """Fsync a file, or every file in a folder: a power cut then leaves it whole.

    Where the file system refuses that, there is one warning.

    Raises:
        OSError: the content could not be stored.
    """
    for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
        try:
            handle = os.open(file, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            accept_unsynced(file, error)


def accept_unsynced(path: Path, error: OSError) -> None:
    """Warn, once, of a file system that refuses fsync.

    Raises:
        OSError: the error is not a refusal, but says that the content is lost.
    """
    if error.errno in _LOST:
        raise error
    warn_once(
        f"{path.parent}: writing through is refused there ({error.strerror or error}); a power cut may lose files"
    )


@cache
def warn_once(message: str) -> None:
    """Log a warning, once per process."""
    log.warning("%s", message)


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text to ``target`` atomically."""
    with atomic_path(target) as path:
        # Half of a character has no UTF-8; its escape is what JSON has for it.
        path.write_text(text, encoding="utf-8", errors="backslashreplace")


def as_json(value: Any) -> str:
    """Return ``value`` as indented JSON, with a newline at its end."""
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def write_json(target: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON to ``target`` atomically."""
    write_text(target, as_json(value))


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what can go wrong while a file, gzipped or not, is read in this block into one line.

    Raises:
        LnbenchError: it is missing, cannot be read, or is truncated.
    """
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LnbenchError(f"{path} is truncated or damaged ({error}); copy it again") from error
    except OSError as error:
        raise LnbenchError(f"cannot read {path}: {error.strerror or error}") from error


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
    except (ValueError, RecursionError) as error:
        raise LnbenchError(f"{path} is not valid JSON ({error}); it may be truncated: write it again") from error


def fingerprint(value: Any) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of ``value`` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
