"""The headline: one finding, how sure it is, what was not found, by rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench.leaderboard import Row
from lnbench.tables.headline import experiments, headline
from tests.support.messages import lacks
from tests.support.rows import row


def compared_row(language: str = "hi", delta: float = 0.0, **changes: Any) -> Row:
    """A comparison of 12 documents, significant where it is large, beyond three draws that change nothing."""
    found = abs(delta) > 0.1
    sure = {"p_holm": 0.02 if found else 1.0, "significant": found, "mde": 0.2, "n": 12}
    drawn = {"baseline": 0.5, "control": 0.51, "n_controls": 3, "rho": 50.0 if found else None}
    tested: dict[str, Any] = {"control_p_holm": 0.01 if found else 1.0, "control_significant": found}
    if changes.get("n_controls", 3) < 3:
        tested = {}
    bits = {"metric": "bits_per_byte", "higher_is_better": False}
    return row(language=language, delta=delta, **{**sure, **drawn, **tested, **bits, **changes})


def test_one_language() -> None:
    found = headline([compared_row("hi", 0.456)])
    assert not lacks(found.finding, "Setting Hindi's neurons", "LAPE", "to zero", "m worse in Hindi")
    assert not lacks(found.finding, "+0.46 bits per byte", "+0.01 with as many random neurons")
    assert not lacks(found.how_sure, "n = 12", "p = 0.020", "for 1 comparison;", "3 draws", "1 of 1")
    assert not lacks(found.not_found, "anything better (0 of 1 comparison)")


def test_everything_is_worse() -> None:
    found = headline([compared_row(code, delta) for code, delta in (("hi", 0.3), ("ur", 1.5), ("en", 0.2))])
    assert not lacks(found.finding, "a language's own neurons", "worse in that language, in all 3 languages")
    assert not lacks(found.finding, "most in Urdu: +1.50 bits per byte")
    assert not lacks(found.how_sure, "p ≤ 0.020", "corrected for 3 comparisons", "3 of 3")
    assert "significant change in" not in found.not_found


def test_some_languages_are_spared() -> None:
    found = headline([compared_row("hi", 0.3), compared_row("ur", 0.4), compared_row("en", 0.01)])
    assert not lacks(found.finding, "in 2 of 3 languages (Hindi and Urdu)")
    assert not lacks(found.not_found, "a significant change in English")


def test_some_are_better_and_some_worse() -> None:
    found = headline([compared_row("hi", 0.3), compared_row("ur", -0.4)])
    assert not lacks(found.finding, "worse in that language, in 1 of 2 languages: Hindi: +0.30", "better", "−0.40")
    assert "anything" not in found.not_found
    elsewhere = headline(
        [compared_row("hi", 0.3), compared_row("ur", 0.4), compared_row("hi", -0.5, intervention="p10")]
    )
    assert not lacks(elsewhere.not_found, "1 of 3 comparisons is better")


def test_a_direction_that_is_not_known() -> None:
    found = headline([compared_row("hi", 0.3, higher_is_better=None)])
    assert "different in Hindi" in found.finding and "better" not in found.not_found


def test_no_control() -> None:
    without = {"control": None, "n_controls": 0, "rho": None}
    found = headline([compared_row("hi", 0.3, **without)])
    assert "random" not in found.finding
    assert not lacks(found.how_sure, "no control was run")
    assert not lacks(found.not_found, "more than any others")


def test_too_few_draws_for_a_test() -> None:
    found = headline([compared_row("hi", 0.3, n_controls=1)])
    assert not lacks(found.how_sure, "1 draw of as many random neurons", "too few for a test (3)")


def test_several_models() -> None:
    deltas = {"a": 0.3, "/home/somebody/b": 0.9, "c": 0.0}
    found = headline([compared_row(code, delta, model=name) for name, delta in deltas.items() for code in ("hi", "ur")])
    assert not lacks(found.finding, "makes 2 of 3 models worse", "in all 2 languages", "of b: +0.90")
    assert "/" not in found.finding.replace("bits per byte", "")
    every = headline([compared_row("hi", 0.3, model=name) for name in "abc"])
    assert "all 3 models" in every.finding


def test_nothing_is_significant() -> None:
    found = headline([compared_row("hi", 0.05), compared_row("ur", -0.08, intervention="p10")])
    assert not lacks(found.finding, "No override of neurons", "m", "Hindi and Urdu", "none of 2 comparisons")
    assert not lacks(found.how_sure, "n = 12", "0.2 bits per byte")
    assert not lacks(found.not_found, "no effect", "−0.08 bits per byte", "Urdu", "10th percentile")
    few = headline([compared_row("hi", 0.05, n=4)])
    assert not lacks(few.how_sure, "no change, however large")


@pytest.mark.parametrize("rows", [[], [row(p_holm=None)], [row("none", p_holm=None, selector="-")]])
def test_nothing_is_compared(rows: list[Row]) -> None:
    found = headline(rows)
    assert not lacks(found.finding, "Nothing was compared")
    assert not found.rows


def test_an_adapter() -> None:
    found = headline([compared_row("hi", -0.3, intervention="none", selector="-", finetune="hindi", n_controls=0)])
    assert not lacks(found.finding, "The adapter hindi makes m better in Hindi")


def test_pairs_of_languages_are_named() -> None:
    found = headline([compared_row("hi", 0.3, source="en", task="quiz_en_hi")])
    assert "English→Hindi" in found.finding


def test_neurons_that_languages_share_come_last_and_are_said_to_be() -> None:
    shared = [compared_row(code, 2.0, selector="act_prob", neurons_own=0.1) for code in ("hi", "ur")]
    assert "LAPE" in headline([*shared, compared_row("hi", 0.3)]).finding
    assert not lacks(headline(shared).not_found, "neurons of one language alone")


ROWS = st.lists(
    st.builds(
        compared_row,
        st.sampled_from(["en", "hi", "ur"]),
        st.sampled_from([-0.5, 0.0, 0.2, 0.5]),
        intervention=st.sampled_from(["zero", "p10"]),
        selector=st.sampled_from(["lape", "act_prob:fraction=0.004"]),
        model=st.sampled_from(["a", "b"]),
        n_controls=st.sampled_from([0, 1, 3]),
        neurons_own=st.sampled_from([None, 0.0, 0.5]),
    ),
    max_size=8,
    unique_by=lambda made: (made.language, made.intervention, made.selector, made.model),
)


@settings(max_examples=30, deadline=None)
@given(ROWS)
def test_no_other_experiment_has_more_to_say(rows: list[Row]) -> None:
    found = headline(rows)
    assert all(
        line.endswith(".") and "  " not in line for line in (found.finding, found.how_sure, found.not_found) if line
    )
    if not any(made.significant for made in rows):
        return

    def telling(group: list[Row]) -> tuple[bool, int]:
        own = all(made.neurons_own is None or made.neurons_own >= 0.2 for made in group)
        return own, sum(bool(made.significant and made.n_controls) for made in group)

    groups = [group for group in experiments(rows) if any(made.significant for made in group)]
    assert list(found.rows) in groups
    assert all(telling(list(found.rows)) >= telling(group) for group in groups)
    changed = {made.language for made in found.rows if made.significant}
    measured = {made.language for made in found.rows}
    silent = [made for made in found.rows if not made.significant]
    assert ("a significant change in" in found.not_found) == bool(silent)
    assert len(measured) == 1 or f"{len(measured)} languages" in found.finding
    assert changed
