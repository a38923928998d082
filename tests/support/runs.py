"""Folders as sweeps leave them, written by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lnbench.leaderboard import Row, build, read_runs
from lnbench.sweeps import records
from lnbench.sweeps.records import Record
from lnbench.tables.leaderboard import leaderboard_tables
from lnbench.tables.render import terminal

RIGHT, WRONG = [1.0] * 12, [0.0] * 12


class Run:
    """A folder as a sweep leaves it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cells = 0

    def add(
        self,
        intervention: str,
        values: Mapping[str, Sequence[float | None]] | None = None,
        *,
        error: str | None = None,
        documents: Sequence[str] | None = None,
        means: Mapping[str, float] | None = None,
        **changes: Any,
    ) -> None:
        """Write a cell's records and lm-eval's files; by default of Hindi under LAPE's neurons."""
        self._cells += 1
        task = f"quiz_{changes.get('language', 'hi')}"
        given: dict[str, Any] = {
            "cell": f"{self._cells:016x}",
            "model": "m",
            "dtype": "float32",
            "weights": "w",
            "selector": "-" if intervention == "none" else "lape",
            "intervention": intervention,
            "language": "hi",
            "task": task,
            "command": f"lm_eval --model lnbench --model_args intervention={intervention} --tasks {task}",
            "lnbench_version": "0.1.0",
            **changes,
        }
        path = self.folder / records.FILE
        if error is not None:
            records.append(path, [Record(**given, status="failed", error=error)])
            return
        assert values is not None
        folder = self.folder / "cells" / given["cell"]
        folder.mkdir(parents=True)
        (folder / "samples.jsonl").write_text("".join(_samples(values, documents)), encoding="utf-8")
        told = {"versions": {task: 1.0}, "higher_is_better": {task: {"acc": True, "bits_per_byte": False}}}
        (folder / "results.json").write_text(json.dumps(told), encoding="utf-8")
        files = {name: f"cells/{given['cell']}/{name}" for name in ("samples.jsonl", "results.json")}
        lines = [
            Record(
                **given,
                lines=len(values),
                metric=metric,
                value=(means or {}).get(metric, _mean(some)),
                n=len(some),
                samples=files["samples.jsonl"],
                results=files["results.json"],
            )
            for metric, some in values.items()
        ]
        records.append(path, lines)

    def rows(self) -> list[Row]:
        return build(read_runs([self.folder]))


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [one for one in values if isinstance(one, float) and one == one]
    return sum(numbers) / len(numbers) if len(numbers) == len(values) else None


def _samples(values: Mapping[str, Sequence[Any]], documents: Sequence[str] | None) -> Iterator[str]:
    filters = {metric.partition(",")[2] or "none" for metric in values}
    for used in sorted(filters):
        chosen = {name: some for name, some in values.items() if (name.partition(",")[2] or "none") == used}
        for number in range(len(next(iter(chosen.values())))):
            sample = {"doc_id": number, "doc_hash": (documents or "abcdefghijklmnopqrstuvwxyz")[number], "filter": used}
            own = {name.partition(",")[0]: some[number] for name, some in chosen.items()}
            yield json.dumps({**sample, "metrics": list(own), **own}) + "\n"


def control(seed: int) -> dict[str, Any]:
    return {"selector": f"random:like=lape:seed={seed}", "control_of": "lape", "control_seed": seed}


def pick(rows: Sequence[Row], **wanted: Any) -> Row:
    (found,) = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
    return found


def printed(run: Run) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        for table in leaderboard_tables(run.rows()):
            console.print(terminal(table))
    return captured.get()
