"""A metric that says little, since the model can hardly do better, is shown after the others."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench.tables.ceilings import at_ceiling
from lnbench.tables.leaderboard import leaderboard_tables
from tests.support.rows import row

METRICS = st.lists(
    st.tuples(st.lists(st.sampled_from([0.5, 0.9, 1.0]), min_size=1, max_size=4), st.booleans(), st.booleans()),
    min_size=1,
    max_size=4,
)
"""Of each metric: the unchanged model's values by language; if higher is better; if a change is significant."""


@settings(max_examples=30, deadline=None)
@given(METRICS)
def test_metrics_at_their_ceiling_come_last_and_the_others_keep_their_order(
    metrics: list[tuple[list[float], bool, bool]],
) -> None:
    rows, expected = [], []
    for number, (values, higher, significant) in enumerate(metrics):
        name = f"m{number}"
        for place, value in enumerate(values):
            of_metric = {"metric": name, "language": f"l{place}", "task": f"t_l{place}", "higher_is_better": higher}
            unchanged = {"value": value, "selector": "-", "delta": None, "p_holm": None}
            rows += [row("none", **unchanged, **of_metric), row(value=0.5, significant=significant, **of_metric)]
        mostly_perfect = values.count(1.0) > len(values) / 2
        expected.append((mostly_perfect and higher and not significant, number, name))
    assert [table.title.partition(" ")[0] for table in leaderboard_tables(rows)] == [
        name for *_, name in sorted(expected)
    ]


@pytest.mark.parametrize(
    ("before", "higher", "expected"),
    [
        ([1.0, 1.0, 0.9], True, True),
        ([1.0, 0.9], True, False),
        ([0.0, 0.0], False, True),
        ([0.0, 0.0], True, False),
        ([1.0, 1.0, 7.0], True, False),
        ([1.0], None, False),
    ],
)
def test_a_ceiling_is_the_best_score_that_there_can_be(
    before: list[float], higher: bool | None, expected: bool
) -> None:
    assert at_ceiling([row("none", selector="-", value=value, higher_is_better=higher) for value in before]) is expected
    compared = [row(value=value, baseline=value, higher_is_better=higher) for value in before]
    assert at_ceiling(compared) is expected, "from what comparisons say of the unchanged model"


def test_without_the_unchanged_model_nothing_is_at_its_ceiling() -> None:
    assert not at_ceiling([row(value=1.0)])
    assert not at_ceiling([row("none", value=None)])
