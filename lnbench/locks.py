"""Folders and files that one process at a time works on, on file systems of any kind.

A lock of the operating system goes with its process, also when that is killed. Some file systems refuse such locks, and
others grant them to everyone who asks. So whoever has a lock also says so in a file beside it, and whoever asks for one
reads there whether that process is alive: by its number and start on the same machine, by the file's time of change,
which the holder renews, on another one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

from lnbench.errors import LnbenchError
from lnbench.files import warn_once

_BEAT = 5.0
"""Seconds after which a holder renews its file."""
_WATCHED = 4 * _BEAT
"""Seconds without renewal after which a holder on another machine counts as ended."""
_POLL = 0.25
_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK}


class LockError(LnbenchError):
    """A lock that cannot be had: its folder cannot be written, or another process holds it."""


@contextmanager
def exclusive_lock(folder: str | os.PathLike[str], *, wait: bool = False) -> Iterator[None]:
    """Keep every other process that asks for the same out of ``folder``, for as long as the block runs.

    Args:
        folder: Made where there is none.
        wait: For a process that has it, in place of the error.

    Raises:
        LockError: another process has the folder, which the message names; or it cannot be written.
    """
    folder = Path(folder)
    with process_lock(folder / ".running.lock", wait=wait, remedy="choose another folder with --out"):
        yield


@contextmanager
def process_lock(
    path: Path,
    *,
    wait: bool = True,
    remedy: str = "run the same command again",
    on_wait: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Hold the lock file ``path`` for as long as the block runs; who has it is in ``path`` with the suffix ``.json``.

    Args:
        path: The file; its folder is made where there is none.
        wait: For a process that has it, in place of the error.
        remedy: What to do in place of waiting, for the error.
        on_wait: Called once, before waiting.

    Raises:
        LockError: another process has it, which the message names; or the folder cannot be written.
    """
    holder = path.with_suffix(".json")
    told = False
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            hard = _system_lock(path)
            busy = hard is None or not _claimed(holder)
        except OSError as error:
            raise LockError(f"cannot write {path.parent}: {error.strerror or error}") from error
        if not busy:
            break
        if hard is not None:
            hard()
        if not wait:
            raise LockError(f"{path.parent} is in use by {_named(holder)}: wait until it ends, or {remedy}")
        if on_wait is not None and not told:
            on_wait()
        told = True
        time.sleep(_POLL)
    ended = Event()
    Thread(target=_renew, args=(holder, ended), name="lnbench-lock", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        if hard is not None:
            hard()


def _system_lock(path: Path) -> Callable[[], None] | None:
    """Take the operating system's lock; None where another process has it.

    Returns:
        What releases it: nothing where the file system knows no locks.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno in _TAKEN:
            return None
        warn_once(
            f"{path.parent}: this file system refuses locks ({error.strerror or error}), so a second run is noticed "
            "only by the file that the first one keeps there"
        )
        return lambda: None
    return lambda: os.close(handle)


def _claimed(holder: Path) -> bool:
    """Write this process into the holder's file, unless a living one is in it; return whether it was."""
    about = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "process_started": _start_of(os.getpid()),
        "key": uuid.uuid4().hex,
    }
    if holder.exists() and _is_alive(holder):
        return False
    with suppress(FileNotFoundError):  # Where two find the same ended one, one of the two renames it.
        aside = holder.with_name(f"{holder.name}.{about['key']}")
        holder.rename(aside)
        aside.unlink()
    try:
        with holder.open("x", encoding="utf-8") as file:
            file.write(json.dumps(about, ensure_ascii=False, indent=2) + "\n")
    except FileExistsError:
        return False
    return bool(_read(holder).get("key") == about["key"])


def _read(holder: Path) -> dict[str, Any]:
    try:
        about = json.loads(holder.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _is_alive(holder: Path) -> bool:
    """Return whether the process that wrote the file is still running."""
    about = _read(holder)
    if about.get("host") == socket.gethostname() and isinstance(pid := about.get("pid"), int):
        started = _start_of(pid)
        # Numbers of processes are given again; files of earlier versions do not say when theirs started.
        return started is not None and abs(started - about.get("process_started", started)) < 2
    with suppress(FileNotFoundError):
        before, until = holder.stat().st_mtime_ns, time.monotonic() + _WATCHED
        while time.monotonic() < until:
            time.sleep(_POLL)
            if holder.stat().st_mtime_ns != before:
                return True
    return False


def _start_of(pid: int) -> float | None:
    """Return when a process of this machine started, in seconds; None where there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return 0.0


def _renew(holder: Path, ended: Event) -> None:
    while not ended.wait(_BEAT):
        with suppress(OSError):
            os.utime(holder)


def _named(holder: Path) -> str:
    about = _read(holder)
    try:
        return f"process {about['pid']} on {about['host']}, started {about['started']} ({about['command']})"
    except KeyError:
        return "another process"
