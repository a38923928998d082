"""What a leaderboard pairs with what, what cannot be compared, and how runs are merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lnbench.leaderboard import build, read_runs
from lnbench.significance import compare, compare_with_draws, holm, least_p
from lnbench.specificity import matched_specificity
from lnbench.sweeps import records
from lnbench.tables.leaderboard import leaderboard_tables
from tests.support.messages import lacks, refused
from tests.support.runs import RIGHT, WRONG, Run, control, pick, printed

# What is compared with what


def test_a_cell_against_its_baseline_and_its_controls(full: Run) -> None:
    rows = full.rows()
    zero = pick(rows, selector="lape", intervention="zero", metric="acc")
    expected = compare(RIGHT, [0.0] * 10 + [1.0] * 2)
    assert (zero.baseline, zero.delta, zero.p_value) == (1, expected.delta, expected.p_value)
    assert (zero.ci_low, zero.ci_high, zero.mde) == (expected.ci_low, expected.ci_high, expected.mde)
    assert zero.significant
    draws = [[float(number != seed) for number in range(12)] for seed in range(3)]
    pooled = compare_with_draws(draws, [0.0] * 10 + [1.0] * 2)
    assert (zero.n_controls, zero.control) == (3, pytest.approx(11 / 12))
    assert (zero.control_delta, zero.control_p_value) == (pooled.delta, pytest.approx(pooled.p_value))
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
    assert zero.control_p_holm > 0.05
    assert (zero.control_min, zero.control_significant) == (0, False)


def test_fewer_than_three_draws_are_shown_and_not_tested(run: Run) -> None:
    run.add("none", {"acc": RIGHT})
    run.add("zero", {"acc": WRONG})
    for seed in range(2):
        run.add("zero", {"acc": RIGHT}, **control(seed))
    zero = pick(run.rows(), selector="lape")
    assert (zero.n_controls, zero.control_delta) == (2, -1)
    assert (zero.control_p_value, zero.control_p_holm, zero.control_significant) == (None, None, None)
    assert (zero.control_ci_low, zero.control_ci_high, zero.control_mde) == (None, None, None)
    text = printed(run)
    assert "†" not in text
    assert not lacks(text, "2 drawn", "3 or more")


def test_the_family_says_how_finely_each_test_is_made(run: Run) -> None:
    """With 9,999 flips for each of 500 tests, no p-value could be below 0.05 after the correction."""
    random = np.random.default_rng(0)
    before = random.gamma(2.0, size=20)
    run.add("none", {"bits": before.tolist()})
    for number in range(260):
        change = 1.0 if number == 0 else random.normal(0, 0.1, 20)
        run.add(f"p{number / 10}", {"bits": (before + change).tolist()})
    harmed = pick(run.rows(), intervention="p0.0")
    assert harmed.least_p == least_p(20, 260) == pytest.approx(1 / 20_800)
    assert harmed.p_value == pytest.approx(harmed.least_p, rel=1)
    assert harmed.p_holm is not None
    assert harmed.p_holm < 0.05


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
    assert not lacks(zero.note or "", "control", "documents")


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
    ("values", "means", "named"),
    [
        ([float("nan"), 1.0], {}, ["1 of 2", "score"]),
        ([[1, 2], [3, 4]], {"score": 0.5}, ["together"]),
        ([0.5, 0.7], {"score": 0.9}, ["mean"]),
    ],
)
def test_values_that_have_no_mean_over_documents(
    run: Run, values: list[Any], means: dict[str, float], named: list[str]
) -> None:
    run.add("none", {"score": values}, means=means)
    run.add("zero", {"score": values}, means=means)
    for row in run.rows():
        assert (row.delta, row.p_value) == (None, None)
        assert not lacks(row.note or "", *named)


def test_a_baseline_with_a_problem_is_named(run: Run) -> None:
    run.add("none", {"score": [float("nan"), 1.0]})
    run.add("zero", {"score": [0.0, 1.0]})
    assert not lacks(pick(run.rows(), intervention="zero").note or "", "baseline", "1 of 2")


def test_a_failed_baseline_is_said(run: Run) -> None:
    run.add("none", error="no memory")
    run.add("zero", {"acc": RIGHT})
    assert not lacks(pick(run.rows(), intervention="zero").note or "", "baseline", "failed")


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
    with refused(victim):
        full.rows()
    victim.unlink()
    with refused(victim):
        full.rows()


@pytest.mark.parametrize("field", ["samples", "results"])
def test_a_run_shows_no_files_of_elsewhere(run: Run, tmp_path: Path, field: str) -> None:
    run.add("none", {"acc": RIGHT})
    (tmp_path / "private.jsonl").write_text("{}", encoding="utf-8")
    records_file = run.folder / "records.jsonl"
    record = json.loads(records_file.read_text(encoding="utf-8"))
    records_file.write_text(json.dumps(record | {field: "../private.jsonl"}) + "\n", encoding="utf-8")
    with refused("../private.jsonl"):
        run.rows()


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
    with refused(tmp_path / "one", tmp_path / "two", "0000000000000001", "1.0", "12"):
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
    assert not lacks(none.note or "", "run")
    assert [row.baseline for row in rows if row.intervention == "zero" and row.metric == "acc"] == [1, 11 / 12]
    Run(tmp_path / "three").add("none", {"acc": RIGHT, "bits_per_byte": [1.001] * 12})
    with refused("bits_per_byte"):
        read_runs([tmp_path / "one", tmp_path / "three"])


def test_setups_have_tables_of_their_own(run: Run) -> None:
    for setup in ("a", "b"):
        run.add("none", {"acc": RIGHT}, setup=setup)
        for override in ("x", "y"):
            run.add("zero", {"acc": WRONG}, setup=setup, override_setup=override)
    found = leaderboard_tables(run.rows())
    assert [table.title.rpartition(", ")[2] for table in found] == ["setup a", "setup b"]
    assert found[0].labels == ["override setup", "neurons", "intervention"]
    assert len(found[0].rows) == 3
    failed = control(1) | {"override_setup": "x", "setup": "a"}
    run.add("zero", {"acc": RIGHT}, **control(0) | {"override_setup": "x", "setup": "a"})
    run.add("zero", error="no memory", **failed)
    assert "mean of" not in printed(run)


def test_a_failure_gives_way_to_a_result(tmp_path: Path) -> None:
    Run(tmp_path / "one").add("none", error="no memory")
    Run(tmp_path / "two").add("none", {"acc": RIGHT})
    (row,) = build(read_runs([tmp_path / "one", tmp_path / "two"]))
    assert (row.status, row.value) == ("done", 1)


# How specific a change is


def test_rho_is_the_change_over_the_mean_change_of_the_draws(run: Run) -> None:
    run.add("none", {"acc": RIGHT})
    run.add("zero", {"acc": WRONG})
    wrong = (1, 2, 2, 3)
    for seed, count in enumerate(wrong):
        run.add("zero", {"acc": [0.0] * count + [1.0] * (12 - count)}, **control(seed))
    zero = pick(run.rows(), selector="lape")
    found = matched_specificity(-1.0, [-count / 12 for count in wrong])
    assert (zero.rho, zero.rho_low, zero.rho_high) == pytest.approx(tuple(found))
    assert zero.rho == pytest.approx(6)
    assert zero.control_kind == "random"
    assert not lacks(printed(run), "ρ", "matched specificity", "6 [3.6 to 17]", "4 draws")


def test_draws_of_two_kinds_are_not_mixed(run: Run) -> None:
    run.add("none", {"acc": RIGHT})
    run.add("zero", {"acc": WRONG})
    active = {"control_kind": "random_active"}
    for seed in range(3):
        run.add("zero", {"acc": [0.0] * 6 + [1.0] * 6}, **{**control(seed), **active})
        run.add("zero", {"acc": RIGHT}, **control(seed))
    zero = pick(run.rows(), selector="lape")
    assert (zero.control_kind, zero.n_controls, zero.control) == ("random_active", 3, 0.5)
    assert not lacks(printed(run), "random_active like lape", "random like lape")


def test_rho_without_draws_or_without_a_baseline_is_not_known(run: Run) -> None:
    run.add("zero", {"acc": WRONG})
    run.add("zero", {"acc": RIGHT}, **control(0))
    assert pick(run.rows(), selector="lape").rho is None
