"""Changes, intervals and selectivity from nats per block, against estimates that draw nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lnbench.perplexity import changes
from lnbench.perplexity.changes import SliceNats, baseline, cells_and_selectivity, resampled_sums
from lnbench.significance import compare_with_draws


def reading(blocks: int = 12, *, seed: int = 0, harm: dict[str, float] | None = None, controls: int = 0) -> SliceNats:
    random = np.random.default_rng(seed)
    tokens = random.integers(3, 30, blocks).astype(float)
    unchanged = tokens * random.uniform(2, 4, blocks)
    harm = {"en": 0.3, "hi": -0.2} if harm is None else harm

    def by(nats: float) -> Any:
        return unchanged + tokens * random.normal(nats, 0.1, blocks)

    return SliceNats(
        tokens=tokens,
        sizes=tokens * random.integers(1, 5, blocks),
        unchanged=unchanged,
        changed={language: by(nats) for language, nats in harm.items()},
        controls={language: [by(0.0) for _ in range(controls)] for language in harm},
        outside=dict.fromkeys(harm, 0.25),
    )


def jackknife(statistic: Callable[[np.ndarray], float], blocks: int) -> tuple[float, float]:
    """Return the 95 % t-interval from leaving out one block at a time: an estimate that draws nothing."""
    kept = [statistic(np.arange(blocks) != left_out) for left_out in range(blocks)]
    error = math.sqrt((blocks - 1) / blocks * np.square(kept - np.mean(kept)).sum())
    half = stats.t.ppf(0.975, blocks - 1) * error
    return statistic(np.ones(blocks, bool)) - half, statistic(np.ones(blocks, bool)) + half


def test_a_cells_intervals_against_a_jackknife() -> None:
    blocks = 80
    nats = reading(blocks)
    found = cells_and_selectivity({"en": nats}, ["en"])[0][0]

    def numbers(kept: np.ndarray) -> tuple[float, float, float]:
        tokens, before, after = (float(v[kept].sum()) for v in (nats.tokens, nats.unchanged, nats.changed["en"]))
        return (
            (after - before) / tokens,
            math.exp(after / tokens) - math.exp(before / tokens),
            (after - before) / math.log(2) / float(nats.sizes[kept].sum()),
        )

    for place, unit in enumerate(("nats", "perplexity", "bits_per_byte")):
        low, high = jackknife(lambda kept, place=place: numbers(kept)[place], blocks)
        assert getattr(found, f"delta_{unit}") == pytest.approx(numbers(np.ones(blocks, bool))[place])
        assert getattr(found, f"delta_{unit}_low") == pytest.approx(low, abs=0.1 * (high - low))
        assert getattr(found, f"delta_{unit}_high") == pytest.approx(high, abs=0.1 * (high - low))


def test_the_baseline() -> None:
    one = reading()
    found = baseline(one)
    nats = one.unchanged.sum() / one.tokens.sum()
    assert found.nats_per_token == pytest.approx(nats)
    assert found.perplexity == pytest.approx(math.exp(nats))
    assert found.bits_per_byte == pytest.approx(one.unchanged.sum() / math.log(2) / one.sizes.sum())


def test_selectivity_is_a_languages_own_change_less_the_mean_of_the_others() -> None:
    readings = {"en": reading(90), "hi": reading(120, seed=1), "ur": reading(70, seed=2)}
    found = cells_and_selectivity(readings, ["en", "hi"])[1][0]

    def delta(read: str) -> float:
        nats = readings[read]
        return float((nats.changed["en"] - nats.unchanged).sum() / nats.tokens.sum())

    assert found.own == pytest.approx(delta("en"))
    assert found.others == pytest.approx((delta("hi") + delta("ur")) / 2)
    assert found.difference == pytest.approx(found.own - found.others)
    # Slices are drawn apart, so the variances of the three changes add up.
    variance = 0.0
    for read, weight in (("en", 1), ("hi", 0.5), ("ur", 0.5)):
        nats = readings[read]
        rest = nats.changed["en"] - nats.unchanged - delta(read) * nats.tokens
        variance += weight**2 * float(np.square(rest).sum()) / float(nats.tokens.sum()) ** 2
    half = 1.96 * math.sqrt(variance)
    assert found.low == pytest.approx(found.difference - half, abs=0.2 * half)
    assert found.high == pytest.approx(found.difference + half, abs=0.2 * half)
    assert found.bits_per_byte is not None
    per_byte = {
        read: (one.changed["en"] - one.unchanged).sum() / math.log(2) / one.sizes.sum()
        for read, one in readings.items()
    }
    assert found.bits_per_byte.own == pytest.approx(per_byte["en"])
    assert found.bits_per_byte.others == pytest.approx((per_byte["hi"] + per_byte["ur"]) / 2)
    assert found.bits_per_byte.low < found.bits_per_byte.difference < found.bits_per_byte.high  # type: ignore[operator]


@settings(max_examples=20, deadline=None)
@given(blocks=st.integers(1, 60), chunk=st.integers(1, 500))
def test_resamples_do_not_depend_on_how_many_are_drawn_at_a_time(blocks: int, chunk: int) -> None:
    values = np.arange(2 * blocks, dtype=float).reshape(2, blocks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "RESAMPLES", 50)
        whole = resampled_sums(values, "hi")
        patch.setattr(changes, "_CHUNK", chunk)
        assert np.array_equal(resampled_sums(values, "hi"), whole)
        assert np.array_equal(resampled_sums(np.ones((1, blocks)), "hi"), np.full((1, 50), float(blocks)))


def test_what_is_significant_and_beyond_controls() -> None:
    one = reading(40, harm={"en": 0.3, "hi": -0.3, "ur": 0.0}, controls=3)
    en, hi, ur = cells_and_selectivity({"en": one}, ["en", "hi", "ur"])[0]
    assert en.p_value < 0.001
    assert en.p_value < en.p_holm < 0.01
    assert ur.p_value > 0.05
    assert (en.exceeds_controls, hi.exceeds_controls) == (True, True)
    assert en.n_controls == 3
    assert en.control_min < en.control_delta_nats < en.control_max < en.delta_nats  # type: ignore[operator]
    assert hi.delta_nats < hi.control_min  # type: ignore[operator]
    assert en.outside_range == 0.25
    assert en.control_p_value is not None
    assert en.control_p_value < en.control_p_holm < 0.05  # type: ignore[operator]


def test_the_test_against_controls_is_that_of_changes_per_token() -> None:
    """Blocks of 10 to 30 tokens: each counts with its tokens."""
    one = reading(40, harm={"en": 0.3}, controls=3)
    (cell,) = cells_and_selectivity({"en": one}, ["en"])[0]
    draws = [draw.sum() / one.tokens.sum() for draw in one.controls["en"]]
    assert cell.control_delta_nats == pytest.approx(np.mean(draws) - one.unchanged.sum() / one.tokens.sum())
    weight = len(one.tokens) / one.tokens.sum()
    found = compare_with_draws(weight * np.stack([*one.controls["en"]]), weight * one.changed["en"])
    assert found.delta == pytest.approx(cell.delta_nats - cell.control_delta_nats)  # type: ignore[operator]
    assert cell.control_p_holm == cell.control_p_value == pytest.approx(found.p_value)


def test_blocks_that_did_not_change_leave_no_interval() -> None:
    one = reading(40)
    same = SliceNats(**(vars(one) | {"changed": {"en": one.unchanged}, "controls": {}}))
    (cell,), _ = cells_and_selectivity({"en": same}, ["en"])
    assert (cell.delta_nats, cell.p_value, cell.control_p_value) == (0, 1, None)
    assert {getattr(cell, f"delta_{unit}_low") for unit in ("nats", "perplexity", "bits_per_byte")} == {None}


def test_between_the_controls_is_not_beyond_them() -> None:
    one = reading(40, harm={"en": 0.1})
    controls = [one.unchanged - one.tokens, one.unchanged + one.tokens]
    found = {"en": SliceNats(**(vars(one) | {"controls": {"en": controls}}))}
    cell = cells_and_selectivity(found, ["en"])[0][0]
    assert cell.exceeds_controls is False
    assert (cell.control_min, cell.control_max) == (pytest.approx(-1), pytest.approx(1))


def test_no_change_at_all_is_not_beyond_the_controls() -> None:
    one = reading(40, harm={"en": 0.0})
    harmed = SliceNats(**(vars(one) | {"changed": {"en": one.unchanged}, "controls": {"en": [one.unchanged + 1]}}))
    cell = cells_and_selectivity({"en": harmed}, ["en"])[0][0]
    assert (cell.delta_nats, cell.exceeds_controls) == (0, False)


def test_a_language_without_neurons_changes_nothing() -> None:
    cells, selectivity = cells_and_selectivity({"en": reading(), "hi": reading(seed=1)}, ["ur", "en"])
    for cell in cells[:2]:
        assert (cell.delta_nats, cell.delta_nats_low, cell.delta_perplexity_high, cell.p_value) == (0, None, None, 1)
        assert (cell.n_controls, cell.exceeds_controls) == (0, None)
    assert [row.changed for row in selectivity] == ["en"]


def test_which_text_is_harmed_most() -> None:
    readings = {
        "en": reading(harm={"en": 0.5, "hi": 0.4, "ur": -0.5}),
        "hi": reading(seed=1, harm={"en": 0.1, "hi": 0.1, "ur": -0.9}),
        "ur": reading(seed=2, harm={"en": 0.1, "hi": 0.1, "ur": -0.1}),
    }
    rows = cells_and_selectivity(readings, ["en", "hi", "ur"])[1]
    assert [(row.changed, row.dominant, row.most_harmed) for row in rows] == [
        ("en", True, "en"),
        ("hi", False, "en"),
        ("ur", False, "ur"),
    ]


def test_one_block_has_no_interval_and_one_language_no_others() -> None:
    (cell,), (row,) = cells_and_selectivity({"en": reading(1)}, ["en"])
    assert (cell.delta_nats_low, cell.delta_nats_high, cell.delta_perplexity_low) == (None, None, None)
    assert cell.p_value == 1
    assert (row.others, row.difference, row.low, row.dominant) == (None, None, None, True)


def test_a_perplexity_beyond_floating_point() -> None:
    one = reading()
    huge = SliceNats(**(vars(one) | {"changed": {"en": one.unchanged + 1000 * one.tokens}}))
    (cell,), _ = cells_and_selectivity({"en": huge}, ["en"])
    assert cell.delta_nats == pytest.approx(1000)
    assert (cell.delta_perplexity, cell.delta_perplexity_low, cell.delta_perplexity_high) == (None, None, None)


def test_text_without_bytes() -> None:
    one = reading()
    empty = SliceNats(**(vars(one) | {"sizes": np.zeros(12)}))
    assert baseline(empty).bits_per_byte is None
    (cell,), (row,) = cells_and_selectivity({"en": empty}, ["en"])
    assert (cell.delta_bits_per_byte, row.bits_per_byte) == (None, None)
    assert row.own == cell.delta_nats


def test_rho_is_the_change_over_that_of_the_draws() -> None:
    one = reading(40, harm={"en": 0.3}, controls=5)
    draws = [draw + 0.1 * one.tokens for draw in one.controls["en"]]
    (cell,) = cells_and_selectivity({"en": SliceNats(**(vars(one) | {"controls": {"en": draws}}))}, ["en"])[0]
    changes_of_draws = [float((draw - one.unchanged).sum() / one.tokens.sum()) for draw in draws]
    assert cell.rho == pytest.approx(cell.delta_nats / np.mean(changes_of_draws))
    low, high = stats.t.interval(0.95, 4, loc=np.mean(changes_of_draws), scale=stats.sem(changes_of_draws))
    assert (cell.rho_low, cell.rho_high) == (
        pytest.approx(cell.delta_nats / high),
        pytest.approx(cell.delta_nats / low),
    )


def likelihoods(nats: SliceNats, changed: str, kept: np.ndarray) -> tuple[float, float]:
    """Of a byte, without and with the change."""
    size = float(nats.sizes[kept].sum())
    return tuple(math.exp(-float(v[kept].sum()) / size) for v in (nats.unchanged, nats.changed[changed]))  # type: ignore[return-value]


def test_langspec_f1_of_a_byte_and_the_diagonal() -> None:
    harms = {"en": (0.5, 0.1, -0.1), "hi": (0.0, 0.9, 0.2), "ur": (0.2, 0.3, 0.6)}
    readings = {
        read: reading(60, seed=place, harm={changed: harm[place] for changed, harm in harms.items()})
        for place, read in enumerate(harms)
    }
    _, rows = cells_and_selectivity(readings, ["en", "hi", "ur"])
    scores, every = [], np.ones(60, bool)
    for row in rows:
        drops = {
            read: max(0.0, -np.subtract(*likelihoods(nats, row.changed, every)[::-1]))
            for read, nats in readings.items()
        }
        others = [drop for read, drop in drops.items() if read != row.changed]
        precision = drops[row.changed] / (drops[row.changed] + np.mean(others))
        recall = drops[row.changed] / likelihoods(readings[row.changed], row.changed, every)[0]
        scores.append(2 * precision * recall / (precision + recall))
        assert row.f1 == pytest.approx(scores[-1])
        assert row.f1_low < row.f1 < row.f1_high  # type: ignore[operator]
    found = changes.diagonal(readings, ["en", "hi", "ur"])
    assert found is not None
    assert (found.unit, found.languages) == ("bits_per_byte", 3)
    assert found.f1 == pytest.approx(np.mean(scores))
    assert found.difference == pytest.approx(np.mean([row.bits_per_byte.difference for row in rows]))  # type: ignore[union-attr]
    # Slices are drawn apart: the variance of the mean is that of a sum over texts.
    variance = 0.0
    for read, nats in readings.items():
        weights = {changed: 1 / 3 if changed == read else -1 / 6 for changed in harms}
        added = sum(weight * nats.added[changed] for changed, weight in weights.items()) / math.log(2)
        rest = added - added.sum() / nats.sizes.sum() * nats.sizes
        variance += float(np.square(rest).sum()) / float(nats.sizes.sum()) ** 2
    half = 1.96 * math.sqrt(variance)
    assert found.low == pytest.approx(found.difference - half, abs=0.2 * half)
    assert found.high == pytest.approx(found.difference + half, abs=0.2 * half)


def test_what_cannot_be_compared_has_no_f1_and_no_diagonal() -> None:
    one = reading()
    _, (row,) = cells_and_selectivity({"en": one}, ["en"])
    assert (row.f1, changes.diagonal({"en": one}, ["en"])) == (None, None)
    empty = replace(one, sizes=np.zeros(12))
    both = {"en": empty, "hi": one}
    assert cells_and_selectivity(both, ["en"])[1][0].f1 is None
    found = changes.diagonal(both, ["en", "ur"])
    assert found is not None
    assert (found.unit, found.languages, found.f1) == ("nats", 1, None)
    assert changes.diagonal(both, ["ur"]) is None
