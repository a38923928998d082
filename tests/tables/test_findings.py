"""Findings and caveats over rows of a leaderboard: their numbers, and when they apply."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench.leaderboard import Row
from lnbench.tables.caveats import ROW_CAVEATS, detectable, leaderboard_caveats, no_neurons, values_outside
from lnbench.tables.findings import leaderboard_findings, overall, own_text_harmed_most, worse
from tests.support.figure_data import LANGUAGES, matrix_of
from tests.support.messages import lacks
from tests.support.rows import row

ROWS = st.lists(
    st.builds(
        row,
        st.sampled_from(["zero", "p10", "none"]),
        st.sampled_from(["hi", "ur"]),
        delta=st.floats(-1, 1),
        p_holm=st.none() | st.floats(0, 1),
        significant=st.booleans(),
        mde=st.none() | st.floats(0.001, 1),
        n=st.integers(1, 300),
        n_controls=st.integers(0, 2),
        limit=st.none() | st.just(5.0),
        note=st.none() | st.just("a note"),
        metric=st.sampled_from(["acc", "f1"]),
    ),
    max_size=6,
)


def numbers_in(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"(?<![\d.<])\b\d+\b(?![.\d])", text)]


@settings(deadline=None)
@given(ROWS)
def test_counts_are_those_of_the_rows(rows: list[Row]) -> None:
    tested = [row for row in rows if row.p_holm is not None]
    changed = [row for row in tested if row.significant]
    sentence = overall(rows)
    if tested:
        assert len(tested) in numbers_in(sentence)
        assert not changed or numbers_in(sentence)[0] == len(changed)
    findings = leaderboard_findings(rows)
    assert len(findings) == len({row.task_pattern + str(row.metric) for row in tested})
    for finding in findings:
        assert finding.verdict.endswith(".") and all(detail.endswith(".") for detail in finding.details)


@settings(deadline=None)
@given(ROWS)
def test_caveats_apply_to_what_has_them(rows: list[Row]) -> None:
    titles = {caveat.title for caveat in leaderboard_caveats(rows)}
    assert titles <= set(ROW_CAVEATS)
    overridden = [row for row in rows if row.p_holm is not None and row.intervention != "none"]
    assert ("No control" in titles) is any(row.n_controls == 0 for row in overridden)
    assert ("Few draws of a control" in titles) is any(0 < row.n_controls < 3 for row in overridden)
    assert ("Limited documents" in titles) is any(row.limit is not None for row in rows)
    assert ("Not compared, or not the same" in titles) is any(row.note for row in rows)
    assert ("Several tables" in titles) is (len({row.metric for row in rows if row.p_holm is not None}) > 1)
    assert not titles & {"Failed cells", "Different models"}


@pytest.mark.parametrize(
    ("higher", "delta", "expected"), [(True, -0.1, True), (True, 0.1, False), (False, 0.1, True), (None, 0.1, True)]
)
def test_worse_is_by_the_metric(higher: bool | None, delta: float, expected: bool) -> None:
    assert worse(row(higher_is_better=higher, delta=delta)) is expected


def test_a_detectable_change_is_a_range_in_its_unit() -> None:
    rows = [row(mde=0.05, n=100), row("p10", mde=0.12, n=200)]
    assert "100–200 documents" in detectable(rows)
    assert " 0.05 to 0.12, by cell," in detectable(rows)
    assert " 5 to 12 points, by cell," in detectable(rows, scale=100, unit="points")
    assert not lacks(detectable(rows[:1]), 0.05, "100 documents")
    assert numbers_in(detectable([row(mde=None)])) == []


@pytest.mark.parametrize(("documents", "possible"), [(6, False), (7, True)])
def test_so_few_documents_that_nothing_can_be_significant(documents: int, possible: bool) -> None:
    """Two tests of 2^(1 - 6) are not below 0.05, of 2^(1 - 7) they are."""
    rows = [row(n=documents), row("p10", n=documents)]
    assert ("however large" in detectable(rows)) is not possible
    # Tests of another table are another correction's.
    assert "however large" not in detectable([rows[0], row(n=documents, metric="f1")])


def test_several_models_and_failures_are_counted() -> None:
    rows = [row(), row(model="other"), row(status="failed", error="no memory"), row(status="failed", error="no memory")]
    texts = {caveat.title: list(caveat.texts) for caveat in leaderboard_caveats(rows)}
    (failed,) = texts["Failed cells"]
    assert not lacks(failed, "2 cells", "no memory")
    (several,) = texts["Different models"]
    assert numbers_in(several)[0] == 2 and "m and other" in several


def test_overrides() -> None:
    assert list(values_outside("zero", [], 3)) == []
    (sentence,) = values_outside("zero", [0.1, 0.25], 3)
    assert "2 of 3 cells" in sentence and "25\u00a0%" in sentence
    (sentence,) = no_neurons({"lape": ["hi", "en", "hi"], "act_prob": []})
    assert not lacks(sentence, "lape", "en and hi")


@pytest.mark.parametrize("unit", ["nats", "bits_per_byte", "perplexity"])
def test_own_text_is_judged_for_languages_with_neurons(unit: str) -> None:
    """Of the deltas, hi's neurons harm ur most, ur's harm ur most, and en has none."""
    matrix = matrix_of(LANGUAGES)
    cells = [cell.model_copy(update={f"delta_{unit}": cell.delta_nats}) for cell in matrix.cells]
    matrix = matrix.model_copy(update={"cells": cells, "neurons": {"en": 0, "hi": 3, "ur": 4}})
    assert not lacks(own_text_harmed_most(matrix, unit), "1 of 2", "ur (not hi)")
    alone = matrix.model_copy(update={"read": ["ur"], "changed": ["ur"], "cells": [cells[-1]]})
    assert numbers_in(own_text_harmed_most(alone, unit)) == []
