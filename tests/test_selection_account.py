"""Ties at a selector's cut, and neurons of all languages: declared, counted, kept and said."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench import NeuronSet, select
from lnbench.files import warn_once
from lnbench.selection_account import account_of, selection_warnings
from lnbench.tables.caveats import unspecific_neurons
from lnbench.tables.leaderboard import leaderboard_tables
from tests.support.messages import lacks
from tests.support.rows import row
from tests.support.samples import with_rates

LANGUAGES = ("en", "hi", "zh", "vi")


class Ranking:
    """A third party's selector: the best two of given scores, in order of index where they are equal."""

    def __init__(self, scores: Mapping[str, list[float]], *, declared: bool = True) -> None:
        self.ranked, self.declared = scores, declared

    def select(self, statistics: Mapping[str, Any]) -> NeuronSet:
        scores = {code: torch.tensor([self.ranked[code]]) for code in statistics}
        masks = {}
        for code, own in scores.items():
            mask = torch.zeros(own.shape, dtype=torch.bool)
            mask[0, own[0].argsort(descending=True, stable=True)[:2]] = True
            masks[code] = mask
        return NeuronSet.from_masks("tiny", masks, scores=scores if self.declared else None)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    values=st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4),
    count=st.integers(0, 6),
)
def test_the_account_is_what_counting_gives(values: list[list[int]], count: int) -> None:
    scores = {code: torch.tensor([row_]).double() for code, row_ in zip(LANGUAGES, values, strict=False)}
    masks = {}
    for code, own in scores.items():
        masks[code] = torch.zeros(1, 6, dtype=torch.bool)
        masks[code][0, own[0].argsort(descending=True, stable=True)[:count]] = True
    account = account_of(masks, scores)
    chosen = {code: set(mask[0].nonzero().flatten().tolist()) for code, mask in masks.items()}
    common = len(set.intersection(*chosen.values()))
    assert account.common == (common if len(values) > 1 else None)
    for code, row_ in zip(LANGUAGES, values, strict=False):
        own = account.languages[code]
        assert own.share_common == (common / count if len(values) > 1 and count else None)
        others = set().union(*(chosen[other] for other in chosen if other != code))
        alone = len(chosen[code] - others)
        assert own.share_own == (alone / count if len(values) > 1 and count else None)
        if not count:
            assert own.tied is None and own.share_tied is None
            continue
        cut = sorted(row_, reverse=True)[count - 1]
        taken = sum(row_[index] == cut for index in chosen[code])
        assert (own.tied, own.tied_selected) == (row_.count(cut), taken)
        assert own.share_tied == (taken / count if taken < row_.count(cut) else 0)


@pytest.mark.parametrize(
    ("scores", "tied", "common"),
    [
        ({"hi": [1, 1, 1, 0]}, {"hi": 1.0}, None),
        ({"hi": [1, 1, 0, 0], "zh": [1, 1, 0, 0]}, {"hi": 0.0, "zh": 0.0}, 2),
        ({"hi": [2, 1, 1, 0], "zh": [0, 0, 2, 1]}, {"hi": 0.5, "zh": 0.0}, 0),
    ],
    ids=["one language", "two alike", "two apart"],
)
def test_a_third_partys_selection_is_accounted_for_and_kept(
    scores: dict[str, list[float]],
    tied: dict[str, float],
    common: int | None,
    tmp_path: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    warn_once.cache_clear()
    statistics = {code: with_rates([[0.0] * 4], language=code) for code in scores}
    with caplog.at_level(logging.WARNING):
        found = select(Ranking(scores), statistics)
    assert found.account is not None
    assert {code: own.share_tied for code, own in found.account.languages.items()} == tied
    assert found.account.common == common
    assert bool(caplog.records) == (max(tied.values()) > 0 or bool(common))
    found.save(tmp_path / "neurons.json")
    again = NeuronSet.load(tmp_path / "neurons.json")
    assert again.account == found.account and again == found and again.fingerprint == found.fingerprint
    silent = select(Ranking(scores, declared=False), statistics)
    assert silent.account is not None and silent.account.common == common
    assert all(own.tied is None for own in silent.account.languages.values())


def test_the_ranking_without_other_languages_is_warned_of() -> None:
    always = [[1.0] * 8, [0.2] * 8]
    statistics = {code: with_rates(always, language=code) for code in ("en", "hi")}
    account = select("lape:top_fraction=0.25:bar=0.5", statistics).account
    assert account is not None and account.languages["en"].share_tied == 1
    assert account.languages["en"].share_common == 1
    assert len(list(account.warnings("lape"))) == 2


def test_rows_say_it_once_per_selector_and_of_no_control() -> None:
    bad = {"neurons_tied": 0.6, "neurons_common": 0.8, "intervention": "zero", "selector": "one"}
    rows = [row(language=code, metric=metric, **bad) for code in ("en", "hi") for metric in ("acc", "f1")]
    rows += [row(language="en", **{**bad, "selector": "random:like=one", "control_of": "one"})]
    assert list(unspecific_neurons(rows)) == list(
        selection_warnings("one", {"English": 0.6, "Hindi": 0.6}, {"English": 0.8, "Hindi": 0.8}, {})
    )
    notes = [note for table in leaderboard_tables(rows) for note in table.notes]
    assert [notes.count(warning) for warning in unspecific_neurons(rows)] == [1, 1]
    assert not list(
        selection_warnings("one", {"en": 0.05, "hi": None}, {"en": 0.5, "hi": None}, {"en": 0.2, "hi": None})
    )


def test_sets_that_are_not_one_languages_are_warned_of_once() -> None:
    common, shared = selection_warnings("one", {}, {"hi": 0.7}, {"en": 0.19, "hi": 0.0, "ur": 0.2})
    assert not lacks(shared, "one", "en 19%") and "hi 0%" not in shared and "ur 20%" not in shared
    assert "hi 70%" in common
