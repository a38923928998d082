"""Runs → leaderboard: what is paired with what, merging, the formats, and what cannot be compared."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docs_pages as docs
import pytest
from rich.console import Console
from typer.testing import CliRunner

from lnbench import leaderboard
from lnbench.cli import app
from lnbench.errors import LnbenchError
from lnbench.leaderboard import Row, build, formats, read_runs
from lnbench.leaderboard.grids import grids
from lnbench.significance import compare, holm
from lnbench.sweeps import records
from lnbench.sweeps.local import InProcess
from lnbench.sweeps.records import Record
from lnbench.sweeps.run import run as sweep
from lnbench.sweeps.spec import parse
from lnbench.tables import grid_table

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


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def control(seed: int) -> dict[str, Any]:
    return {"selector": f"random:like=lape:seed={seed}", "control_of": "lape", "control_seed": seed}


@pytest.fixture
def full(run: Run) -> Run:
    """A baseline, an intervention that does harm, three controls that do not, and one that failed."""
    surprise = [1.0 + number / 100 for number in range(12)]
    run.add("none", {"acc": RIGHT, "bits_per_byte": surprise})
    run.add("zero", {"acc": [0.0] * 10 + [1.0] * 2, "bits_per_byte": [one + 0.5 + one / 7 for one in surprise]})
    for seed in range(3):
        acc = [float(number != seed) for number in range(12)]
        run.add("zero", {"acc": acc, "bits_per_byte": surprise}, **control(seed))
    run.add("p10", error="OutOfMemoryError: 3 GiB")
    return run


def pick(rows: Sequence[Row], **wanted: Any) -> Row:
    (found,) = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
    return found


# What is compared with what


def test_a_cell_against_its_baseline_and_its_controls(full: Run) -> None:
    rows = full.rows()
    zero = pick(rows, selector="lape", intervention="zero", metric="acc")
    expected = compare(RIGHT, [0.0] * 10 + [1.0] * 2)
    assert (zero.baseline, zero.delta, zero.p_value) == (1, expected.delta, expected.p_value)
    assert (zero.ci_low, zero.ci_high, zero.mde) == (expected.ci_low, expected.ci_high, expected.mde)
    assert zero.significant
    draws = [[float(number != seed) for number in range(12)] for seed in range(3)]
    pooled = compare(draws, [0.0] * 10 + [1.0] * 2)
    assert (zero.n_controls, zero.control) == (3, pytest.approx(11 / 12))
    assert (zero.control_delta, zero.control_p_value) == (pooled.delta, pooled.p_value)
    assert (zero.control_min, zero.control_max) == (pytest.approx(11 / 12), pytest.approx(11 / 12))
    none = pick(rows, intervention="none", metric="acc")
    assert (none.baseline, none.p_value, none.note, none.n_controls) == (None, None, None, 0)


def test_the_same_numbers_as_by_hand_from_the_files(full: Run) -> None:
    zero = pick(full.rows(), selector="lape", intervention="zero", metric="bits_per_byte")
    values = {}
    for record in records.load(full.folder):
        if record.metric == "bits_per_byte" and record.control_of is None and record.samples:
            lines = (full.folder / record.samples).read_text(encoding="utf-8").splitlines()
            values[record.intervention] = [json.loads(line)["bits_per_byte"] for line in lines]
    found = compare(values["none"], values["zero"])
    assert (zero.delta, zero.p_value, zero.ci_low) == (found.delta, found.p_value, found.ci_low)


def test_holm_within_a_table(run: Run) -> None:
    for language in ("hi", "en"):
        run.add("none", {"acc": RIGHT}, language=language)
        for wrong, intervention in enumerate(("p90", "p10", "zero"), start=5):
            run.add(intervention, {"acc": [0.0] * wrong + [1.0] * (12 - wrong)}, language=language)
    run.add("none", {"acc": RIGHT}, model="other")
    run.add("zero", {"acc": [0.0] * 6 + [1.0] * 6}, model="other")
    rows = run.rows()
    ours = [row for row in rows if row.model == "m" and row.p_value is not None]
    assert len(ours) == 6
    assert [row.p_holm for row in ours] == pytest.approx(holm([row.p_value or 0 for row in ours]))
    assert [row.significant for row in ours] == [row.p_holm is not None and row.p_holm < 0.05 for row in ours]
    other = pick(rows, model="other", intervention="zero")
    assert other.p_holm == other.p_value == pytest.approx(2 / 2**6)


def test_controls_are_no_tests_of_their_own(full: Run) -> None:
    found = [row for row in full.rows() if row.control_of]
    assert found
    assert all(row.p_value is not None and row.p_holm is None and row.significant is None for row in found)


def test_what_one_draw_does_as_well_does_not_differ_from_random_neurons(run: Run) -> None:
    run.add("none", {"acc": RIGHT})
    run.add("zero", {"acc": WRONG})
    for seed in range(3):
        run.add("zero", {"acc": WRONG if seed == 2 else RIGHT}, **control(seed))
    zero = pick(run.rows(), selector="lape")
    assert zero.control_p_holm is not None
    assert zero.control_p_holm < 0.05
    assert (zero.control_min, zero.control_significant) == (0, False)


def test_only_the_same_documents_are_compared(run: Run) -> None:
    run.add("none", {"acc": [1.0, 0.0]}, documents=["x", "y"])
    run.add("zero", {"acc": [1.0, 0.0, 1.0]}, documents=["x", "y", "z"])
    zero = pick(run.rows(), intervention="zero")
    assert (zero.value, zero.n, zero.delta, zero.p_holm) == (pytest.approx(2 / 3), 3, None, None)
    assert zero.note is not None
    assert "other documents" in zero.note
    assert "2 documents there, 3 here, 2 in common" in zero.note


def test_the_baseline_with_the_same_documents_is_taken(run: Run) -> None:
    run.add("none", {"acc": [1.0, 0.0]}, limit=2)
    run.add("none", {"acc": RIGHT})
    run.add("zero", {"acc": WRONG})
    assert pick(run.rows(), intervention="zero").baseline == 1


@pytest.mark.parametrize(
    "changes", [{"model": "n"}, {"dtype": "float16"}, {"finetune": "f"}, {"seed": 1}, {"weights": "v"}, {"setup": "s"}]
)
def test_no_baseline_of_another_model(run: Run, changes: dict[str, Any]) -> None:
    run.add("none", {"acc": RIGHT})
    run.add("zero", {"acc": WRONG}, **changes)
    zero = pick(run.rows(), intervention="zero")
    assert (zero.delta, zero.note) == (None, "not compared: no baseline")


def test_controls_of_others_are_not_taken(run: Run) -> None:
    run.add("none", {"acc": RIGHT})
    run.add("zero", {"acc": WRONG})
    run.add("zero", {"acc": RIGHT}, **{**control(0), "control_of": "act_prob"})
    run.add("p10", {"acc": RIGHT}, **control(0))
    run.add("zero", {"acc": RIGHT}, language="en", **control(0))
    run.add("zero", {"acc": RIGHT}, override_setup="other", **control(0))
    assert pick(run.rows(), selector="lape").n_controls == 0


def test_controls_on_other_documents_are_said(run: Run) -> None:
    run.add("none", {"acc": RIGHT})
    run.add("zero", {"acc": WRONG})
    run.add("zero", {"acc": [1.0]}, **control(0))
    zero = pick(run.rows(), selector="lape")
    assert (zero.delta, zero.n_controls) == (-1, 0)
    assert "not compared with controls: the control was measured on other documents" in (zero.note or "")


def test_an_adapter_is_compared_with_the_model_without_it(run: Run) -> None:
    tuned = {"finetune": "lora", "adapter": "adapters/lora", "weights": "v"}
    run.add("none", {"acc": WRONG})
    run.add("none", {"acc": RIGHT}, **tuned)
    run.add("zero", {"acc": WRONG}, **tuned)
    rows = run.rows()
    assert pick(rows, intervention="none", finetune="lora").delta == 1
    assert pick(rows, intervention="zero").delta == -1


# What cannot be compared


@pytest.mark.parametrize(
    ("values", "means", "told"),
    [
        ([float("nan"), 1.0], {}, "1 of 2 documents have no finite score"),
        ([[1, 2], [3, 4]], {"score": 0.5}, "made from all documents together"),
        ([0.5, 0.7], {"score": 0.9}, "not the mean of its documents"),
    ],
)
def test_values_that_have_no_mean_over_documents(
    run: Run, values: list[Any], means: dict[str, float], told: str
) -> None:
    run.add("none", {"score": values}, means=means)
    run.add("zero", {"score": values}, means=means)
    for row in run.rows():
        assert (row.delta, row.p_value) == (None, None)
        assert told in (row.note or "")


def test_a_baseline_with_a_problem_is_named(run: Run) -> None:
    run.add("none", {"score": [float("nan"), 1.0]})
    run.add("zero", {"score": [0.0, 1.0]})
    assert "in the baseline, 1 of 2 documents" in (pick(run.rows(), intervention="zero").note or "")


def test_a_failed_baseline_is_said(run: Run) -> None:
    run.add("none", error="no memory")
    run.add("zero", {"acc": RIGHT})
    assert pick(run.rows(), intervention="zero").note == "not compared: the baseline failed"


def test_filters_are_kept_apart(run: Run) -> None:
    for intervention, strict in (("none", RIGHT), ("zero", WRONG)):
        run.add(intervention, {"exact_match,strict": strict, "exact_match,flexible": RIGHT})
    rows = run.rows()
    assert pick(rows, intervention="zero", metric="exact_match,strict").delta == -1
    assert pick(rows, intervention="zero", metric="exact_match,flexible").delta == 0


def test_one_document(run: Run) -> None:
    run.add("none", {"acc": [1.0], "f1": [0.4]})
    run.add("zero", {"acc": [0.0], "f1": [0.2]})
    for row in run.rows()[2:]:
        assert (row.p_value, row.significant, row.mde) == (1, False, None)


def test_damaged_files_are_named(full: Run) -> None:
    victim = next(full.folder.glob("cells/*/samples.jsonl"))
    victim.write_text('{"doc_id": 1')
    with pytest.raises(LnbenchError, match=re.escape(str(victim))):
        full.rows()
    victim.unlink()
    with pytest.raises(LnbenchError, match=r"cannot read .*samples\.jsonl"):
        full.rows()


# Merging


def test_the_same_cell_twice_counts_once(full: Run, tmp_path: Path) -> None:
    copy = Run(tmp_path / "copy")
    copy.add("none", {"acc": RIGHT, "bits_per_byte": [1.0 + number / 100 for number in range(12)]})
    copy.add("zero", {"acc": WRONG}, cell="f" * 16, model="n")
    merged = build(read_runs([full.folder, copy.folder / records.FILE, full.folder]))
    assert len(merged) == len(full.rows()) + 1


def test_runs_that_disagree_are_an_error(tmp_path: Path) -> None:
    for name, values in (("one", RIGHT), ("two", WRONG)):
        Run(tmp_path / name).add("none", {"acc": values})
    with pytest.raises(LnbenchError, match=r"one and .*two disagree about the cell 0000000000000001 .*1.0 on 12"):
        read_runs([tmp_path / "one", tmp_path / "two"])


def test_rounding_is_no_disagreement(tmp_path: Path) -> None:
    for name, bits, right in (("one", 1.0, 12), ("two", 1.00005, 11)):
        one = Run(tmp_path / name)
        acc = [1.0] * right + [0.0] * (12 - right)
        one.add("none", {"acc": acc, "bits_per_byte": [bits] * 12})
        one.add("zero", {"acc": WRONG, "bits_per_byte": [bits + 1] * 12}, cell=f"of {name}", language="hi")
    rows = build(read_runs([tmp_path / "one", tmp_path / "two"]))
    none = pick(rows, intervention="none", metric="acc")
    assert none.value == 1
    assert "more than one run" in (none.note or "")
    assert [row.baseline for row in rows if row.intervention == "zero" and row.metric == "acc"] == [1, 11 / 12]
    Run(tmp_path / "three").add("none", {"acc": RIGHT, "bits_per_byte": [1.001] * 12})
    with pytest.raises(LnbenchError, match="bits_per_byte"):
        read_runs([tmp_path / "one", tmp_path / "three"])


def test_setups_have_tables_of_their_own(run: Run) -> None:
    for setup in ("a", "b"):
        run.add("none", {"acc": RIGHT}, setup=setup)
        for override in ("x", "y"):
            run.add("zero", {"acc": WRONG}, setup=setup, override_setup=override)
    found = grids(run.rows())
    assert [grid.title.rpartition(", ")[2] for grid in found] == ["setup a", "setup b"]
    assert found[0].names == ("override setup", "neurons", "intervention")
    assert len(found[0].lines) == 3
    failed = control(1) | {"override_setup": "x", "setup": "a"}
    run.add("zero", {"acc": RIGHT}, **control(0) | {"override_setup": "x", "setup": "a"})
    run.add("zero", error="no memory", **failed)
    assert "mean of" not in printed(run)


def test_a_failure_gives_way_to_a_result(tmp_path: Path) -> None:
    Run(tmp_path / "one").add("none", error="no memory")
    Run(tmp_path / "two").add("none", {"acc": RIGHT})
    (row,) = build(read_runs([tmp_path / "one", tmp_path / "two"]))
    assert (row.status, row.value) == ("done", 1)


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
        with pytest.raises(LnbenchError, match="leaderboard"):
            leaderboard.load(tmp_path / "other.json")


@pytest.mark.parametrize("field", Row.model_fields)
def test_every_field_is_documented(field: str) -> None:
    assert f"`{field}`" in docs.section("files.md", "Leaderboard")


def test_csv(full: Run, tmp_path: Path) -> None:
    formats.write(full.rows(), tmp_path / "leaderboard.csv")
    with (tmp_path / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [float(row["value"]) for row in found if row["metric"] == "acc"] == pytest.approx([1, 1 / 6, *[11 / 12] * 3])
    assert found[-1]["status"] == "failed"


def test_markdown(full: Run, tmp_path: Path) -> None:
    full.add("zero", {"acc": RIGHT}, model="a|b", command="lm_eval `x`")
    formats.write(full.rows(), tmp_path / "leaderboard.md")
    text = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert "## acc of quiz_{lang}: m, float32".replace("_", r"\_") in text
    assert r"| lape | zero | 0.167 (-0.833)\*† |" in text
    assert "| random like lape (mean of 3) | zero | 0.917 (-0.083) |" in text
    assert "| lape | p10 | failed |" in text
    assert "1 cell failed: OutOfMemoryError: 3 GiB" in text
    assert r"a\|b" in text
    assert "intervention=zero --tasks quiz_hi" in text
    assert "lnbench 0.1.0" in text


def test_no_other_format(tmp_path: Path) -> None:
    with pytest.raises(LnbenchError, match=r"unknown format of a leaderboard '.xlsx'; known: .json, .csv, .md"):
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


def printed(run: Run) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        for grid in grids(run.rows()):
            console.print(grid_table(grid))
    return captured.get()


def test_what_is_significant_is_marked(full: Run) -> None:
    shown = printed(full)
    assert "acc of quiz_{lang}: m, float32" in shown
    assert "0.167 (-0.833)*†" in shown
    assert "* differs from it, p < 0.05 after Holm's correction for 1 test." in shown
    assert "† differs from the average of as many random neurons (3 drawn), p < 0.05" in shown
    smallest = compare(RIGHT, [0.0] * 10 + [1.0] * 2).mde
    assert f"With 12 documents a change must be {smallest:.2g} to be found in four of five samples" in shown
    assert "More bits per byte" in shown


def test_that_nothing_is_significant_is_said(run: Run) -> None:
    run.add("none", {"acc": RIGHT})
    run.add("zero", {"acc": [0.0, 0.0, *[1.0] * 10]})
    run.add("zero", {"acc": RIGHT}, **control(0))
    shown = printed(run)
    assert "Nothing here changes significantly (p < 0.05 after Holm's correction for 1 test)." in shown
    assert "Nothing here differs from random neurons significantly" in shown
    assert "*" not in shown
    assert "†" not in shown


def test_columns_that_vary_are_shown(run: Run) -> None:
    run.add("none", {"acc": RIGHT})
    run.add("none", {"acc": WRONG}, finetune="lora", adapter="a")
    run.add("none", {"acc": [1.0]}, limit=1)
    (grid,) = grids(run.rows())
    assert grid.names == ("finetune", "limit", "neurons", "intervention")
    assert [line.cells for line in grid.lines] == [
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
    sweep(spec, tmp_path, InProcess(), Console(quiet=True))
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
    assert "11 rows written to" in told.output
    assert "5 files written to" in told.output
    assert len(leaderboard.load(out)) == 11
    with pytest.raises(LnbenchError, match="unknown format"):
        cli.invoke(app, ["leaderboard", str(full.folder), "-o", "board.txt"], catch_exceptions=False)


def test_an_empty_run(tmp_path: Path) -> None:
    (tmp_path / records.FILE).write_text("")
    assert CliRunner().invoke(app, ["leaderboard", str(tmp_path)]).exit_code == 0
    with pytest.raises(LnbenchError, match="cannot read"):
        read_runs([tmp_path / "nowhere"])
