"""The printed commands, run by hand, give the numbers of the sweep to the last digit."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from lnbench.cli import app
from lnbench.files import tasks_dir
from lnbench.sweeps.cells import OUR_TASKS
from lnbench.sweeps.records import Record, load
from tests.support.messages import refused
from tests.support.sweeps import child, spec_of

BIN = Path(sys.executable).parent


@pytest.fixture
def spec_file(given: dict[str, Any], tmp_path: Path) -> Path:
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(spec_of(given).model_dump(mode="json")))
    return file


def printed(file: Path) -> list[str]:
    found = CliRunner().invoke(app, ["sweep", str(file), "--dry-run"], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return [line for line in found.stdout.splitlines() if not line.startswith("#")]


def as_typed(words: list[str]) -> None:
    """What the script ``lm_eval`` does."""
    from lm_eval.__main__ import cli_evaluate

    sys.argv = words
    cli_evaluate()


def measured(folder: Path, record: Record) -> tuple[Any, Any, list[Any]]:
    """What the record's cell came to in a run of its own: value, standard error, and the answers behind them."""
    (results,) = folder.rglob("results_*.json")
    (samples,) = folder.rglob("samples_*.jsonl")
    found = json.loads(results.read_text())["results"][record.task]
    answers = [json.loads(line)["resps"] for line in samples.read_text().splitlines()]
    return found[f"{record.metric},none"], found[f"{record.metric}_stderr,none"], answers


def test_every_cell_is_printed_and_recorded_with_its_command(spec_file: Path, undisturbed: Path) -> None:
    assert sorted(printed(spec_file)) == sorted({record.command for record in load(undisturbed)})
    assert not (spec_file.parent / "runs").exists()


@pytest.mark.processes
def test_printed_commands_give_the_same_numbers(spec_file: Path, undisturbed: Path, tmp_path: Path) -> None:
    records = {record.command: record for record in load(undisturbed) if record.metric == "bits_per_byte"}
    lines = printed(spec_file)
    chosen = [
        next(line for line in lines if "intervention=p10" in line and "random" not in line),
        next(line for line in lines if "intervention=zero" in line and "random" in line and "_hi" in line),
    ]
    for number, line in enumerate(chosen):
        folder = tmp_path / str(number)
        written = f"{line} --output_path {shlex.quote(str(folder))} --log_samples"
        if number == 1:
            environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
            subprocess.run(written, shell=True, check=True, capture_output=True, env=environment, timeout=300)
        else:
            process = child(as_typed, shlex.split(written.replace(OUR_TASKS, str(tasks_dir()))))
            process.join(120)
            assert process.exitcode == 0
        record = records[line]
        ours = (undisturbed / str(record.samples)).read_text().splitlines()
        answers = [json.loads(row)["resps"] for row in ours]
        assert measured(folder, record) == (record.value, record.stderr, answers)


def test_a_fine_tuning_is_printed_before_its_cells(spec_file: Path) -> None:
    spec = yaml.safe_load(spec_file.read_text()) | {"interventions": ["none"]}
    options = {"finetuner": "lora", "data": "xnli", "settings": {"lr": 0.001, "answer": "head"}}
    spec_file.write_text(yaml.safe_dump(spec | {"finetune": {"tuned": options}}))
    lines = printed(spec_file)
    assert [line.startswith("lnbench finetune lora ") for line in lines] == [False, False, True, False, False]
    words = shlex.split(lines[2])
    assert f"peft={words[words.index('--out') + 1]}," in lines[3]
    assert "--quantize" not in words, "it is at its default"
    assert words[-4:] == ["--set", "answer=head", "--set", "lr=0.001"]


@pytest.mark.parametrize(
    ("executor", "named"),
    [
        ("kubernetes", ["kubernetes", "local, ray, slurm"]),
        ("local:workers=2", ["'workers'"]),
        ("ray:workers=0", ["workers='0'", "1"]),
    ],
)
def test_an_executor_that_does_not_exist(spec_file: Path, executor: str, named: list[str]) -> None:
    with refused(*named):
        CliRunner().invoke(app, ["sweep", str(spec_file), "--executor", executor], catch_exceptions=False)


def test_the_command_line(spec_file: Path, tmp_path: Path) -> None:
    described = CliRunner().invoke(app, ["sweep", "--schema"], catch_exceptions=False)
    assert json.loads(described.stdout)["title"] == "Sweep"
    spec = yaml.safe_load(spec_file.read_text()) | {"interventions": ["none"], "languages": ["en"]}
    spec_file.write_text(yaml.safe_dump(spec))
    done = CliRunner().invoke(app, ["sweep", str(spec_file), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0
    assert "1 of 1" in done.stdout
    spec_file.write_text(yaml.safe_dump(spec | {"tasks": [{"en": "lnbench_absent"}]}))
    failing = CliRunner().invoke(app, ["sweep", str(spec_file), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert failing.exit_code == 1
    assert "lnbench_absent" in failing.output
