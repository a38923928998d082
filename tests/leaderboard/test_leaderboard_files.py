"""The formats of a leaderboard, the readable table, and the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lnbench import leaderboard
from lnbench.cli import app
from lnbench.leaderboard import build, read_runs
from lnbench.plugins.executors.local import Local
from lnbench.significance import compare
from lnbench.sweeps import records
from lnbench.sweeps.run_sweep import run as sweep
from lnbench.sweeps.spec import parse
from lnbench.tables import leaderboard_files as formats
from lnbench.tables.leaderboard import leaderboard_tables, rows_table
from lnbench.tables.render import escape_latex
from tests.support.messages import lacks, refused
from tests.support.runs import RIGHT, WRONG, Run, control, pick, printed

# Formats


def test_json_is_read_back(full: Run, tmp_path: Path) -> None:
    rows = full.rows()
    formats.write(rows, tmp_path / "leaderboard.json")
    assert leaderboard.load(tmp_path / "leaderboard.json") == rows
    found = json.loads((tmp_path / "leaderboard.json").read_text(encoding="utf-8"))
    assert found["format"] == "lnbench.leaderboard/1"
    zero = found["rows"][2]
    asked = "model selector finetune intervention language task metric value stderr n baseline delta ci_low ci_high"
    assert set(asked.split()) | {"p_value", "command", "seed", "weights", "lnbench_version"} <= set(zero)
    assert zero["task_version"] == 1.0
    for broken in ("{}", '{"format": "lnbench.leaderboard/1", "rows": [{}]}'):
        (tmp_path / "other.json").write_text(broken)
        with refused(tmp_path / "other.json"):
            leaderboard.load(tmp_path / "other.json")


def test_csv(full: Run, tmp_path: Path) -> None:
    formats.write(full.rows(), tmp_path / "leaderboard.csv")
    with (tmp_path / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [float(row["value"]) for row in found if row["metric"] == "acc"] == pytest.approx([1, 1 / 6, *[11 / 12] * 3])
    assert found[-1]["status"] == "failed"


def test_markdown(full: Run, tmp_path: Path) -> None:
    full.add("zero", {"acc": RIGHT}, model="a|b", command="lm_eval `x`")
    formats.write(full.rows(), tmp_path / "topics/leaderboard.md")
    text = (tmp_path / "topics/leaderboard.md").read_text(encoding="utf-8")
    assert "## acc of quiz_{lang}: m, float32".replace("_", r"\_") in text
    assert r"| lape | zero | 0.167 (-0.833)\*† |" in text
    assert "| random like lape (mean of 3) | zero | 0.917 (-0.083) |" in text
    assert "| lape | p10 | failed |" in text
    assert "1 cell failed: OutOfMemoryError: 3 GiB" in text
    assert r"a\|b" in text
    assert "intervention=zero --tasks quiz_hi" in text
    assert "lnbench 0.1.0" in text


def test_no_other_format(tmp_path: Path) -> None:
    with refused(".xlsx", ".json, .csv, .md"):
        formats.write([], tmp_path / "leaderboard.xlsx")


def test_a_file_a_model(full: Run, tmp_path: Path) -> None:
    full.add("none", {"acc": RIGHT}, language="en")
    files = formats.write_per_model(full.rows(), tmp_path / "out")
    assert len(files) == len(set(files)) == 5
    found = {file: json.loads(file.read_text(encoding="utf-8")) for file in files}
    assert {"results", "config", "versions"} <= set.intersection(*map(set, found.values()))
    (none,) = [one for one in found.values() if one["config"]["intervention"] == "none"]
    assert none["results"]["quiz_hi"]["acc,none"] == none["results"]["quiz_en"]["acc,none"] == 1
    assert none["versions"] == {"quiz_hi": 1.0, "quiz_en": 1.0}
    assert none["config"]["model_name"] == "m"
    assert none["higher_is_better"]["quiz_hi"] == {"acc": True, "bits_per_byte": False}


def test_one_task_under_two_languages_neurons_has_two_files(run: Run, tmp_path: Path) -> None:
    for language in ("hi", "en"):
        run.add("zero", {"acc": RIGHT if language == "hi" else WRONG}, language=language, task="quiz")
    files = formats.write_per_model(run.rows(), tmp_path)
    assert {json.loads(file.read_text())["results"]["quiz"]["acc,none"] for file in files} == {0, 1}


# The readable table


def test_what_is_significant_is_marked(full: Run) -> None:
    shown = printed(full)
    assert "acc of quiz_{lang}: m, float32" in shown
    assert "0.167 (-0.833)*†" in shown
    notes = " ".join(shown.split())
    assert not lacks(notes, "p < 0.05", "Holm", "1 test", "3 drawn") and ("* " in notes, "† " in notes) == (True, True)
    smallest = compare(RIGHT, [0.0] * 10 + [1.0] * 2).mde
    assert not lacks(notes, "12 documents", f"{smallest:.2g}")
    assert "bits per byte" in shown


def test_that_nothing_is_significant_is_said(run: Run) -> None:
    run.add("none", {"acc": RIGHT})
    run.add("zero", {"acc": [0.0, 0.0, *[1.0] * 10]})
    run.add("zero", {"acc": RIGHT}, **control(0))
    shown = printed(run)
    assert not lacks(" ".join(shown.split()), "p < 0.05", "Holm", "1 test", "Controls", "1 drawn")
    assert "*" not in shown
    assert "†" not in shown


def test_columns_that_vary_are_shown(run: Run) -> None:
    run.add("none", {"acc": RIGHT})
    run.add("none", {"acc": WRONG}, finetune="lora", adapter="a")
    run.add("none", {"acc": [1.0]}, limit=1)
    (table,) = leaderboard_tables(run.rows())
    assert table.labels == ["finetune", "limit", "neurons", "intervention"]
    assert [tuple(texts) for _, texts in table.lines()] == [
        ("none", "all", "-", "none", "1.000"),
        ("lora", "all", "-", "none", "0.000 (-1.000)*"),
        ("none", "1", "-", "none", "1.000"),
    ]


def test_only_failures(run: Run) -> None:
    run.add("zero", error="no [memory]")
    shown = printed(run)
    assert "failed" in shown
    assert "1 cell failed: no [memory]" in shown


def test_a_missing_comparison_is_said(run: Run) -> None:
    run.add("zero", {"acc": RIGHT})
    assert "1 row: not compared: no baseline." in printed(run)


# From a sweep


def test_a_sweep_becomes_a_leaderboard(given: dict[str, Any], tmp_path: Path) -> None:
    spec = parse(
        {
            "models": [given["pretrained"]],
            "selectors": [given["selector"]],
            "corpus": given["corpus"],
            "corpus_tokens": given["corpus_tokens"],
            "interventions": ["none", "zero"],
            "languages": ["hi"],
            "tasks": ["lnbench_demo_continuation_{lang}"],
            "limit": 3,
            "batch_size": 4,
            "controls": 1,
        }
    )
    sweep(spec, tmp_path, Local(), Console(quiet=True))
    rows = build(read_runs([tmp_path]))
    assert {(row.intervention, row.metric) for row in rows} == {
        (intervention, metric) for intervention in ("none", "zero") for metric in ("acc", "bits_per_byte")
    }
    zero = pick(rows, metric="bits_per_byte", intervention="zero", selector=given["selector"])
    none = pick(rows, metric="bits_per_byte", intervention="none")
    assert zero.baseline == pytest.approx(none.value)
    assert zero.delta == pytest.approx(zero.value - none.value)
    assert (zero.n, zero.n_controls, zero.note) == (3, 1, None)
    assert (zero.task_version, zero.higher_is_better) == (1.0, False)
    assert zero.p_value in (0.25, 0.5, 0.75, 1)  # eight ways to exchange three documents


# The command


def test_the_command(full: Run, tmp_path: Path) -> None:
    cli = CliRunner()
    shown = cli.invoke(app, ["leaderboard", str(full.folder)])
    assert "0.167 (-0.833)*†" in shown.output
    out = tmp_path / "board.json"
    told = cli.invoke(app, ["leaderboard", str(full.folder), "-o", str(out), "--per-model", str(tmp_path / "models")])
    assert not lacks(" ".join(told.output.split()), "11 rows", out, "5 files", tmp_path / "models")
    assert len(leaderboard.load(out)) == 11
    with refused(".txt", ".json, .csv, .md"):
        cli.invoke(app, ["leaderboard", str(full.folder), "-o", "board.txt"], catch_exceptions=False)


@pytest.mark.parametrize(("name", "suffix"), [("json", ".json"), ("csv", ".csv"), ("markdown", ".md")])
def test_the_command_prints_what_it_writes(full: Run, tmp_path: Path, name: str, suffix: str) -> None:
    formats.write(full.rows(), tmp_path / f"written{suffix}")
    shown = CliRunner().invoke(app, ["leaderboard", str(full.folder), "--format", name])
    assert shown.stdout == (tmp_path / f"written{suffix}").read_text(encoding="utf-8")


@pytest.mark.parametrize("by_row", [False, True])
def test_the_command_prints_latex(full: Run, by_row: bool) -> None:
    shown = CliRunner().invoke(app, ["leaderboard", str(full.folder), "--format", "latex", *["--rows"] * by_row])
    tables = [rows_table(full.rows())] if by_row else leaderboard_tables(full.rows())
    assert shown.stdout.count(r"\begin{tabular}") == len(tables)
    assert all(escape_latex(table.title) in shown.stdout for table in tables)


def test_an_empty_run(tmp_path: Path) -> None:
    (tmp_path / records.FILE).write_text("")
    assert CliRunner().invoke(app, ["leaderboard", str(tmp_path)]).exit_code == 0
    with refused(tmp_path / "nowhere"):
        read_runs([tmp_path / "nowhere"])
