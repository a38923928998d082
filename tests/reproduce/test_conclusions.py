"""Verdicts on the paper's conclusions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from lnbench.reproduce import catalogue
from lnbench.reproduce.conclusions import Difference, judge
from lnbench.reproduce.plan import plan
from lnbench.reproduce.reproduction_request import ReproductionRequest
from lnbench.significance import compare

LOWER, HIGHER = Difference(-5, -7, -3, 0.001), Difference(5, 3, 7, 0.001)
EQUAL = Difference(0.1, -0.6, 0.8, 0.7)
VAGUE = Difference(0, -20, 20, 0.9)
UNKNOWN = Difference(0, None, None, 1.0)
SURVIVES, FALLS, UNDECIDED = "survives", "does not survive", "undecided"


@pytest.mark.parametrize(
    ("expect", "differences", "verdict"),
    [
        ("not_higher", [EQUAL, LOWER], SURVIVES),
        ("not_higher", [EQUAL, VAGUE], UNDECIDED),
        ("not_higher", [LOWER, HIGHER], FALLS),
        ("not_lower", [EQUAL, HIGHER], SURVIVES),
        ("not_lower", [VAGUE], UNDECIDED),
        ("not_lower", [EQUAL, LOWER], FALLS),
        ("same", [EQUAL, EQUAL], SURVIVES),
        ("same", [EQUAL, VAGUE], UNDECIDED),
        ("same", [EQUAL, HIGHER], FALLS),
        ("lower", [LOWER, VAGUE], SURVIVES),
        ("lower", [EQUAL, EQUAL], FALLS),
        ("lower", [HIGHER, VAGUE], FALLS),
        ("lower", [HIGHER, LOWER], UNDECIDED),
        ("lower", [VAGUE], UNDECIDED),
        *((expect, [UNKNOWN] * 15, UNDECIDED) for expect in ("not_higher", "not_lower", "same", "lower")),
        ("same", [EQUAL, UNKNOWN], UNDECIDED),
        ("not_lower", [UNKNOWN, LOWER], FALLS),
    ],
)
def test_verdicts(expect: str, differences: list[Difference], verdict: str) -> None:
    assert judge(expect, differences, margin=1.0) == verdict


@some.composite
def differences(draw: Any) -> list[Difference]:
    found = []
    for _ in range(draw(some.integers(1, 5))):
        delta, reach = draw(some.floats(-20, 20)), draw(some.floats(0, 20))
        found.append(Difference(delta, delta - reach, delta + reach, draw(some.floats(0, 1))))
    return found


@given(differences(), some.sampled_from(["not_higher", "not_lower", "same", "lower"]))
def test_less_certain_numbers_never_make_a_conclusion_survive(found: list[Difference], expect: str) -> None:
    vague = [Difference(one.delta, -80, 80, 1.0) for one in found]
    assert judge(expect, vague, 1.0) == UNDECIDED
    unknown = [replace(one, low=None, high=None, p_value=1.0) for one in found]
    assert judge(expect, unknown, 1.0) == UNDECIDED


@pytest.mark.parametrize("scores", [[0.5, 0.33, 1, 0, 0.8, 0.67, 0, 0.25, 1, 0, 0.4, 0], [0.0] * 12, [1.0] * 12, [0.5]])
@pytest.mark.parametrize("expect", ["not_higher", "not_lower", "same", "lower"])
def test_documents_that_did_not_change_decide_nothing(scores: list[float], expect: str) -> None:
    found = compare(scores, scores)
    points = [None if end is None else 100 * end for end in (found.ci_low, found.ci_high)]
    assert judge(expect, [Difference(100 * found.delta, *points, 1.0)] * 15, 1.0) == UNDECIDED


@given(differences())
def test_what_is_not_lower_is_mirrored_by_what_is_not_higher(found: list[Difference]) -> None:
    ends = [(one.low or 0, one.high or 0, one) for one in found]
    mirrored = [Difference(-one.delta, -high, -low, one.p_value) for low, high, one in ends]
    if all(one.delta for one in found):
        assert judge("not_higher", found, 1.0) == judge("not_lower", mirrored, 1.0)


def test_every_conclusion_is_about_cells_that_tables_have() -> None:
    names = ("table1", "table3", "table8")
    items = plan(ReproductionRequest(names=names, out=catalogue.DATA, model="x/y")).items
    labels = {row.label for item in items for part in item.parts for row in part.rows}
    for claim in catalogue.claims():
        for side in (claim.before, claim.after):
            assert side.get("finetune", "en") in labels
            assert side["intervention"] in {"any", "none", "zero", "p10"}
