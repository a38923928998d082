"""The numbers of the page on how much text is needed are those of the run and of the code."""

from __future__ import annotations

import numpy as np

from lnbench.significance import compare
from tests.docs.how_much import CHANGING, DOCUMENTS, PAGE, between, curve, curve_table, power_table

_AGAIN = "run: python -m tests.docs.how_much"


def test_tables_are_those_of_the_run_and_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert between(page, "curve") == curve_table(curve()), _AGAIN
    assert between(page, "power") == power_table(), _AGAIN


def test_what_is_printed_as_detectable_is_detected() -> None:
    """Documents drawn with such a difference give a significant one in four of five samples, or a little more."""
    random = np.random.default_rng(0)
    lines = power_table().splitlines()[2:]
    for place, share in ((3, 0.1), (4, 0.4)):
        n = DOCUMENTS[place - 1]
        delta = float(lines[place - 1].split("|")[2 + CHANGING.index(share)]) / 100
        gained, lost = (share + delta) / 2, (share - delta) / 2
        found = 0
        for _ in range(300):
            drawn = random.choice([1.0, -1.0, 0.0], size=n, p=[gained, lost, 1 - gained - lost])
            before = np.where(drawn > 0, 0.0, np.where(drawn < 0, 1.0, random.integers(0, 2, n)))
            found += (compare(before, before + drawn).p_value or 1) < 0.05
        assert 0.72 < found / 300 < 0.88
