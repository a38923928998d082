"""Answers of the tasks of pairs, as a run kept them, and the tables that ``lnbench clas score`` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lnbench.cli import app
from lnbench.leaderboard.pairs import read_answers
from lnbench.lm.judge import Judge
from lnbench.sweeps import records
from lnbench.sweeps.records import Record
from tests.support.messages import lacks, refused


def write_run(run: Path, pairs: dict[tuple[str, str], list[float]], intervention: str = "zero", **doc: Any) -> Path:
    """A run in which the answers of each pair are in the target language, or not, one per question."""
    run.mkdir(parents=True, exist_ok=True)
    kept = []
    for (source, target), successes in pairs.items():
        samples = f"samples_{source}_{target}.jsonl"
        lines = [
            {
                "doc_id": number,
                "doc_hash": f"{number}",
                "metrics": ["lfs"],
                "doc": {
                    "id": f"q{number}",
                    "source": source,
                    "target": target,
                    "prompt": f"Question {number}?",
                    "split": "test",
                    **doc,
                },
                "filtered_resps": [f"answer {number}"],
                "lfs": success,
            }
            for number, success in enumerate(successes)
        ]
        (run / samples).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        kept.append(
            Record(
                cell=f"{source}{target}",
                model="tiny",
                selector="lape",
                intervention=intervention,
                language=target,
                source=source,
                task=f"lnbench_demo_open_{source}",
                metric="lfs",
                value=0.5,
                samples=samples,
                command="lm_eval",
            )
        )
    records.append(run / records.FILE, kept)
    return run


PAIRS = {("en", "hi"): [1.0, 0.0, 1.0, 1.0], ("en", "zh"): [0.0] * 4, ("hi", "hi"): [1.0] * 4}


def test_each_answer_is_read_once(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, PAIRS) for name in ("one", "two")]
    (condition,) = (read := read_answers(runs))
    assert condition == ("tiny", "lape", "zero")
    assert [(one.source, one.target, one.question, one.success) for one in read[condition]] == [
        (*pair, f"q{number}", success) for pair, successes in PAIRS.items() for number, success in enumerate(successes)
    ]


def test_questions_for_tuning_are_not_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path, PAIRS, split="tune")
    with refused("lnbench_clas_", "--split"):
        read_answers([run])
    assert read_answers([run], "tune")


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], ["37.5%", "100.0%", "left out"]),
        (["--diagonal"], ["58.3%", "counted"]),
        (["--judge", "some"], ["37.5%", "54.5%", "unparsable"]),
    ],
)
def test_the_command_prints_every_pair(
    options: list[str], shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "_generate", lambda _, texts: ["[[2]]"] * len(texts))
    run = write_run(tmp_path, PAIRS)
    result = CliRunner().invoke(app, ["clas", "score", str(run), "--format", "markdown", *options])
    assert result.exit_code == 0, result.output
    assert not lacks(
        result.stdout, "en → hi", "all → zh", "hi → all" if "--diagonal" in options else "en → all", *shown
    )
