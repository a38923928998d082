"""Statistics made ahead of the cells: which, in how many shards, and that they are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lnbench.sweeps.run_sweep import planned
from lnbench.sweeps.statistics_jobs import countings
from lnbench.sweeps.worker import Worker
from tests.support.sweeps import spec_of

pytestmark = pytest.mark.slow


def test_what_is_counted(given: dict[str, Any]) -> None:
    cells = planned(spec_of(given), Path("out"))
    wanted = countings(cells, workers=2)
    assert [(one.language, one.shard) for one in wanted] == [
        (language, (0, 1)) for language in ("en", "hi", "ur", "vi", "zh")
    ]
    assert [one.shard for one in countings(cells, workers=12)[:4]] == [(0, 3), (1, 3), (2, 3), (0, 3)]
    assert countings([cell for cell in cells if cell.intervention == "none"], workers=2) == []
    paper = planned(spec_of(given, selectors=["act_prob:preset=paper"]), Path("out"))
    assert {one.shard for one in countings(paper, workers=12)} == {(0, 1)}


def test_shards_make_the_same_statistics(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = planned(spec_of(given, compare=["en", "hi"]), Path("out"))
    found: list[str] = []
    for workers in (1, 6):
        monkeypatch.setenv("LNBENCH_CACHE", str(tmp_path / str(workers)))
        worker, wanted = Worker(tmp_path), countings(cells, workers)
        if workers > 1:
            other = worker.load(wanted[0].loading, wanted[0].cell.invocation)
            stray, _ = other.artifacts.cached(wanted[0].experiment, wanted[0].language)
            (stray / "shards" / "1-of-2").mkdir(parents=True)
            (stray / "shards" / "1-of-2" / f"{wanted[0].language}.safetensors").touch()
        for one in wanted:
            worker.count(one)
        for one in wanted:
            if one.shard[1] > 1 and one.shard[0] == 0:
                worker.merge_shards(one)
        assert not list((tmp_path / str(workers)).rglob("shards"))
        statistics = (
            Worker(tmp_path)
            .load(wanted[0].loading, wanted[0].cell.invocation)
            .artifacts.statistics(wanted[0].experiment, "hi")
        )
        found.append(statistics.fingerprint)
    assert found[0] == found[1]
