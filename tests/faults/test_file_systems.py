"""File systems that refuse what a local one grants: results are kept, and two runs never share a folder."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lnbench import files, locks
from lnbench.errors import LnbenchError
from lnbench.files import atomic_path, write_json, write_text
from lnbench.locks import exclusive_lock, process_lock
from lnbench.sweeps import records
from tests.support.messages import refused


@pytest.fixture(autouse=True)
def _forget():
    files.warn_once.cache_clear()
    files._looked_through.clear()


def refusing(code: int, kind: type[OSError] = OSError):
    def call(*args, **options):
        raise kind(code, os.strerror(code))

    return call


# What the file system refuses, as (module, function, errno) → what is done: the result is kept, with one warning.
REFUSED = {
    "chmod on CIFS": (Path, "chmod", errno.EPERM),
    "chmod on a FUSE mount": (Path, "chmod", errno.ENOSYS),
    "chmod of a file of another user": (Path, "chmod", errno.EACCES),
    "fsync on a FUSE mount": (os, "fsync", errno.EINVAL),
    "fsync on an object store": (os, "fsync", errno.ENOTSUP),
    "fsync in a sandbox": (os, "fsync", errno.EPERM),
    "fsync of a handle for reading": (os, "fsync", errno.EBADF),
    "fsync on a stub": (os, "fsync", errno.ENOSYS),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_system_call_costs_no_result(case, tmp_path, monkeypatch, caplog):
    module, name, code = REFUSED[case]
    monkeypatch.setattr(module, name, refusing(code))
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            write_json(tmp_path / "result.json", {"n": number})
    assert json.loads((tmp_path / "result.json").read_text()) == {"n": 2}
    assert len(caplog.records) == 1 and str(tmp_path) in caplog.text and os.strerror(code) in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_refused_fsync_costs_no_record(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", refusing(errno.EINVAL))
    described = {"model": "m", "intervention": "none", "language": "hi", "task": "t", "command": "c"}
    made = records.Record(cell="0" * 16, **described)
    records.append(tmp_path / records.FILE, [made])
    assert records.load(tmp_path) == [made]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_lost_the_content_is_an_error(code, tmp_path, monkeypatch):
    write_text(tmp_path / "result.txt", "before")
    monkeypatch.setattr(os, "fsync", refusing(code))
    with refused(tmp_path / "result.txt", os.strerror(code)):
        write_text(tmp_path / "result.txt", "after")
    assert (tmp_path / "result.txt").read_text() == "before"


# flock as other file systems answer it.
LOCKS = {
    "ENOLCK: NFS without lockd": refusing(errno.ENOLCK),
    "ENOSYS: a FUSE stub": refusing(errno.ENOSYS),
    "ENOTSUP: an object store": refusing(errno.ENOTSUP),
    "EINVAL: an old Lustre mount": refusing(errno.EINVAL),
    "granted to everyone": lambda *args: None,
}


@pytest.mark.parametrize("case", LOCKS)
def test_without_real_locks_a_second_run_is_refused_and_a_dead_one_is_not_in_the_way(case, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", LOCKS[case])
    with exclusive_lock(tmp_path):
        about = json.loads((tmp_path / ".running.json").read_text())
        with refused(tmp_path, os.getpid(), socket.gethostname()), exclusive_lock(tmp_path):
            pass
    assert not (tmp_path / ".running.json").exists()
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    for dead in (
        about | {"pid": int(ended.stdout)},
        about | {"process_started": about["process_started"] - 1000},  # the number was given to another process
        {},
    ):
        write_json(tmp_path / ".running.json", dead)
        monkeypatch.setattr(locks, "_WATCHED", 0.3)
        with exclusive_lock(tmp_path):
            assert json.loads((tmp_path / ".running.json").read_text())["pid"] == os.getpid()
    (tmp_path / ".running.json").write_text('{"pid": 1, "ho')  # cut off
    with exclusive_lock(tmp_path):
        pass


def test_a_run_on_another_machine_is_seen_by_its_beat(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *args: None)
    monkeypatch.setattr(locks, "_BEAT", 0.1)
    monkeypatch.setattr(locks, "_WATCHED", 1.0)
    monkeypatch.setattr(socket, "gethostname", lambda: "node-1")
    with exclusive_lock(tmp_path):
        monkeypatch.setattr(socket, "gethostname", lambda: "node-2")
        with refused("node-1", os.getpid()), exclusive_lock(tmp_path):
            pass
    write_json(tmp_path / ".running.json", {"pid": 1, "host": "node-1", "started": "yesterday", "command": "x"})
    with exclusive_lock(tmp_path):
        pass


def test_waiting_for_a_lock_ends_with_its_holder(tmp_path):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom lnbench.locks import process_lock\n"
        "with process_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(1)"
    )
    lock = tmp_path / "some.lock"
    with subprocess.Popen([sys.executable, "-c", script, lock], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        waited: list[bool] = []
        started = time.monotonic()
        with process_lock(lock, on_wait=lambda: waited.append(True)):
            assert waited == [True] and time.monotonic() - started < 30
            assert holder.wait(timeout=5) == 0


def test_a_folder_that_cannot_be_written_is_not_taken_for_one_without_locks(tmp_path):
    (tmp_path / "file").touch()
    with refused(tmp_path / "file"), exclusive_lock(tmp_path / "file" / "inside"):
        pass


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    script = (
        "import os, signal, sys\nfrom lnbench.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path: path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    for name in ("figure.png", "figure.svg"):
        subprocess.run([sys.executable, "-c", script, tmp_path / name], check=False)
    (tmp_path / ".figure.png.abcd1234").touch()  # as version 0.1 left them
    old = time.time() - 2 * 86_400
    os.utime(tmp_path / ".figure.png.abcd1234", (old, old))
    (tmp_path / ".hidden.mine").touch()
    assert len(list(tmp_path.iterdir())) == 3
    with atomic_path(tmp_path / "figure.png") as beside:
        write_text(tmp_path / "figure.png", "whole")
        assert beside.exists()  # one that is being written stays
        beside.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden.mine", "figure.png"]


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(LnbenchError), atomic_path(tmp_path / "x") as path:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "full")
    assert list(tmp_path.iterdir()) == []
