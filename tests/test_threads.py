"""Threads are chosen by the cores that are free, within what control groups allow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lnbench import threads
from lnbench.threads import Cores


@given(st.floats(0.1, 128), st.floats(0, 1))
def test_no_more_threads_than_free_cores_and_at_least_one(allowed: float, share: float) -> None:
    free = share * allowed
    chosen = Cores(allowed, free).threads
    assert 1 <= chosen <= max(1, allowed)
    assert chosen <= max(1, free + 0.5)
    assert chosen == 1 or free - chosen < 0.5 or chosen == int(allowed)


@pytest.mark.parametrize(
    ("names", "files", "expected"),
    [
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "150000 100000"}, 0.5),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {}, None),
        ("0::/", {"cpu.max": "nonsense"}, None),
        (
            "3:cpuset:/\n1:cpu,cpuacct:/x",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "400000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            4.0,
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("2:cpuacct,cpu:/", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3.0),
    ],
)
def test_the_least_limit_of_all_control_groups_counts(
    tmp_path: Path, names: str, files: dict[str, str], expected: float | None
) -> None:
    own = tmp_path / "own"
    own.write_text(names + "\n")
    for name, content in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(content + "\n")
    assert threads.cpu_quota(tmp_path / "root", own) == expected
    assert threads.cpu_quota(tmp_path / "root", tmp_path / "nowhere") is None


def test_a_users_number_and_policy_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("KMP_BLOCKTIME", raising=False)
    assert "7" in threads.choose()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"], os.environ["KMP_BLOCKTIME"]) == (
        *("7", "ACTIVE"),
        "0",
    )


@pytest.mark.parametrize(("cores", "chosen"), [(Cores(4, 0.1), 1), (Cores(4, 3.8), 4), (Cores(1.5, 1.5), 1)])
def test_the_choice_reaches_torch_and_is_said(monkeypatch: pytest.MonkeyPatch, cores: Cores, chosen: int) -> None:
    import torch

    set_to = []
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(threads, "watch_cores", lambda: cores)
    said = threads.choose()
    assert (set_to, os.environ["OMP_NUM_THREADS"]) == ([chosen], str(chosen))
    assert said.startswith(f"threads: {chosen}, ")
    assert f"{cores.free:.1f} of {cores.allowed:g}" in said


def test_watching_finds_the_cores_of_this_process() -> None:
    seen = threads.watch_cores(0.05)
    assert 0 <= seen.free <= seen.allowed <= (os.cpu_count() or 1)
