"""Sentences from numbers: what changed, what did not, and what limits it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lnbench import NeuronSet
from lnbench.leaderboard import Row
from lnbench.perplexity.matrix import Contrast
from lnbench.report.inputs import find
from lnbench.report.page_context import caveats
from lnbench.tables.findings import leaderboard_findings, matrix_finding, overall
from lnbench.tables.perplexity import change_table, selectivity_table
from tests.support.messages import lacks
from tests.support.report import Sweep, control, matrix, write_matrix, write_training
from tests.support.rows import row as compared_row


def row(intervention: str = "zero", language: str = "hi", **changes: Any) -> Row:
    return compared_row(intervention, language, **{"p_value": 1.0, "n_controls": 0, **changes})


def significant(delta: float, language: str, **changes: Any) -> Row:
    return row(language=language, delta=delta, p_holm=0.001, significant=True, **changes)


def test_a_change_is_for_the_worse_by_its_metric() -> None:
    (accuracy,) = leaderboard_findings([significant(-0.2, "hi"), significant(0.1, "ur"), row(language="en")])
    assert not lacks(accuracy.verdict, "2 of 3", "1 worse", "1 better")
    (detail,) = accuracy.details
    assert not lacks(detail, "zero-ablation", "LAPE", "worse in Hindi (−0.200)", "better in Urdu (+0.100)", "English")
    (surprise,) = leaderboard_findings([significant(0.2, "hi", metric="bits_per_byte", higher_is_better=False)])
    assert not lacks(surprise.verdict, "1 of 1", "1 worse")
    (unknown,) = leaderboard_findings(
        [significant(0.2, "hi", higher_is_better=None), significant(0.3, "ur", higher_is_better=None)]
    )
    assert not lacks(unknown.verdict, "2 of 2", "higher")


def test_nothing_is_significant_and_what_could_have_been() -> None:
    rows = [row(delta=0.02, mde=0.05), row("p10", delta=-0.04, mde=0.12)]
    assert not lacks(overall(rows), "2 comparisons", "p < 0.05", "Holm")
    (finding,) = leaderboard_findings(rows)
    assert not lacks(
        finding.verdict, "2 comparisons", "−0.040", "Hindi", "10th percentile", "200 documents", "0.05 to 0.12"
    )


@pytest.mark.parametrize(("documents", "possible"), [(6, False), (7, True)])
def test_so_few_documents_that_nothing_can_be_significant(documents: int, possible: bool) -> None:
    """Two tests of 2^(1 - 6) are not below 0.05, of 2^(1 - 7) they are."""
    (found,) = leaderboard_findings([row(n=documents), row("p10", n=documents)])
    assert ("6 documents and 2 comparisons" in found.verdict) is not possible


def test_adapters_and_controls_are_told() -> None:
    rows = [
        significant(0.1, "hi", intervention="none", selector="-", finetune="hindi"),
        significant(-0.3, "hi", control_p_holm=0.01, control_significant=True),
        significant(-0.3, "ur", control_p_holm=0.6, control_significant=False),
    ]
    (found,) = leaderboard_findings(rows)
    assert not lacks(found.verdict, "Of the 2", "control", "1 differs")
    assert any(not lacks(detail, "hindi", "better in Hindi (+0.100)") for detail in found.details)


def test_tables_are_told_apart() -> None:
    rows = [row(), row(metric="f1"), row(model="other"), row(task="other_hi"), row(language="ur")]
    assert [one.title for one in leaderboard_findings(rows)] == [
        "quiz, accuracy (higher is better): m",
        "quiz, F1 (higher is better): m",
        "quiz, accuracy (higher is better): other",
        "other, accuracy (higher is better): m",
    ]
    assert not any(character.isdigit() for character in overall([row(p_holm=None)]))


def test_the_diagonal_of_a_matrix() -> None:
    finding = matrix_finding("run", matrix())
    assert not lacks(finding.verdict, "1 of 3", "ur (not en and hi)")
    (hindi,) = [detail for detail in finding.details if "neurons of hi" in detail]
    assert not lacks(hindi, "ur (+1.600 bits per byte", "hi (+1.500)", "6 neurons", "4")
    unchanged, *changes = change_table(matrix(), "nats").rows
    assert [cell.text() for cell in unchanged.cells[1:4]] == ["3.000"] * 3
    assert [cell.value for cell in changes[1].cells[1:4]] == [0.02, 1.5, 1.6]
    marks = [["*" in cell.marks for cell in row.cells[1:4]] for row in changes]
    assert marks == [[cell.p_holm < 0.05 for cell in matrix().row(changed)] for changed in matrix().changed]
    assert [cell.emphasis for cell in changes[1].cells[1:4]] == [False, True, False]


def test_selectivity_is_by_the_byte_where_that_is_known() -> None:
    by_byte = Contrast(own=0.5, others=0.1, difference=0.4, low=0.3, high=0.5, dominant=True, most_harmed="hi")
    rows = [row.model_copy(update={"bits_per_byte": by_byte}) for row in matrix().selectivity]
    without = [row.model_copy(update={"bits_per_byte": None}) for row in matrix().selectivity]
    in_nats = selectivity_table(matrix().model_copy(update={"selectivity": without}))
    in_bits = selectivity_table(matrix().model_copy(update={"selectivity": rows}))
    assert ("nats per token" in in_nats.title, "bits per byte" in in_bits.title) == (True, True)
    assert [cell.value for cell in in_bits.rows[0].cells[:3]] == [0.5, 0.1, 0.4]


def caveats_by_title(folder: Path) -> dict[str, list[str]]:
    return {caveat.title: list(caveat.texts) for caveat in caveats(find([folder]))}


def test_caveats_of_a_clean_run(sweep: Sweep) -> None:
    sweep.add("none", "hi")
    sweep.add("zero", "hi", wrong=10)
    for seed in range(3):
        sweep.add("zero", "hi", **control(seed))
    assert caveats_by_title(sweep.folder) == {}


def test_caveats_that_apply(sweep: Sweep) -> None:
    sweep.add("none", "hi", limit=14)
    sweep.add("zero", "hi", outside=0.25, limit=14)
    sweep.add("zero", "hi", outside=0.9, limit=14, **control(0))
    sweep.add("mean", "hi", limit=14)
    sweep.add("p10", "hi", error="OutOfMemoryError: 3 GiB")
    sweep.add("none", "hi", model="other")
    write_training(sweep.folder / "adapter")
    found = caveats_by_title(sweep.folder)
    (failed,) = found["Failed cells"]
    assert not lacks(failed, "1 cell", "OutOfMemoryError: 3 GiB")
    assert not lacks(found["Values outside the observed range"][0], "1 of 1", "25\u00a0%")
    assert not lacks(found["No control"][0], "1 of 2")
    assert not lacks(found["Few draws of a control"][0], "1 comparison")
    assert not lacks(found["Too few documents"][0], "2 of 2", "14 documents")
    assert "(limit 14)" in found["Limited documents"][0]
    assert not lacks(found["Different models"][0], "2 models", "m float32 and other float32")
    assert len(found["Unfinished training"]) == 1 and "adapter" in found["Unfinished training"][0]


def test_caveats_from_what_lm_eval_kept(sweep: Sweep) -> None:
    sweep.add("zero", "hi")
    (path,) = sweep.folder.glob("cells/*/results.json")
    results = json.loads(path.read_text(encoding="utf-8"))
    results["config"]["lnbench"] |= {"read_site": "pre", "neuron_set": {"neurons": {"hi": 3, "en": 0}}}
    path.write_text(json.dumps(results), encoding="utf-8")
    found = caveats_by_title(sweep.folder)
    assert not lacks(found["Read and written at different sites"][0], "pre", "post")
    assert not lacks(found["Languages without neurons"][0], "lape", "en")
    assert not lacks(found["Not compared, or not the same"][0], "1 row", "baseline")


def test_caveats_of_neurons_and_matrices(tmp_path: Path) -> None:
    NeuronSet("m", 2, 32, {"hi": {0: [1]}, "ur": {}}).save(tmp_path / "neurons" / "lape.json")
    assert not lacks(caveats_by_title(tmp_path)["Languages without neurons"][0], "lape", "ur")
    write_matrix(tmp_path / "ppl")
    path = tmp_path / "ppl" / "perplexity.json"
    measured = matrix().model_copy(update={"notes": ["a note"], "site": "paper"})
    measured.save(path)
    outside, crossed = caveats_by_title(tmp_path)["Perplexity matrices"]
    assert outside == "ppl: a note."
    assert not lacks(crossed, "site pre", "site post")


def test_several_tables_are_several_chances(sweep: Sweep) -> None:
    for task in ("quiz", "exam"):
        sweep.add("none", "hi", task=task)
        sweep.add("zero", "hi", task=task)
    assert not lacks(caveats_by_title(sweep.folder)["Several tables"][0], "2 tables")


def test_sets_that_are_not_one_languages(sweep: Sweep) -> None:
    """Said of the set itself, whether or not a record says it, and of no set that is one language's."""
    shared = {layer: list(range(8)) for layer in range(2)}
    mostly = NeuronSet("m", 2, 32, {"hi": {**shared, 1: [*shared[1], 9]}, "ur": shared})
    mostly.save(sweep.folder / "neurons" / "act_prob.json")
    own = NeuronSet("m", 2, 32, {"hi": {0: [1]}, "ur": {0: [2]}})
    own.save(sweep.folder / "neurons" / "lape.json")
    title = "Neurons that are not one language's"
    unmeasured = caveats_by_title(sweep.folder)[f"{title}, in sets that were not measured"]
    assert len(unmeasured) == 1 and not lacks(unmeasured[0], "Activation Probability", "Hindi 94%", "Urdu 100%")
    sweep.add("none", "hi")
    sweep.add("zero", "hi", wrong=13, selector="act_prob", neuron_set=mostly.fingerprint)
    sweep.add("zero", "hi", wrong=13, neuron_set=own.fingerprint)
    found = caveats_by_title(sweep.folder)
    assert f"{title}, in sets that were not measured" not in found
    assert len(found[title]) == 1 and not lacks(found[title][0], "Activation Probability", "Hindi 94%")
