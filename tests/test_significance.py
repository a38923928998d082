"""The statistics: textbook data, slow obvious references, what they promise on simulated data, and the edges."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from lnbench import significance
from lnbench.significance import (
    bootstrap_interval,
    compare,
    compare_all,
    compare_with_draws,
    detectable_mean,
    detectable_proportion,
    holm,
    least_p,
    mcnemar,
    mcnemar_power,
    permutations,
    scaled_tango_interval,
    sign_flip_tests,
    tango_interval,
    wilson_interval,
)
from tests.support.messages import refused

FEW = settings(deadline=None, max_examples=30)
COUNTS = st.integers(0, 60)
VALUES = st.floats(-3, 3).map(lambda value: round(value, 3))


def outcomes(gained: int, lost: int, n: int) -> tuple[list[float], list[float]]:
    """Right and wrong answers before and after."""
    same = n - gained - lost
    before = [0.0] * gained + [1.0] * lost + [1.0] * (same // 2) + [0.0] * (same - same // 2)
    return before, [1.0] * gained + [0.0] * lost + before[gained + lost :]


# Against other implementations


@FEW
@given(COUNTS, COUNTS, COUNTS)
def test_mcnemar_is_that_of_statsmodels(gained: int, lost: int, same: int) -> None:
    table = [[same, lost], [gained, same]]
    assert mcnemar(gained, lost) == pytest.approx(reference_mcnemar(table, exact=True).pvalue)


@pytest.mark.parametrize("seed", range(3))
def test_holm_is_that_of_statsmodels(seed: int) -> None:
    random = np.random.default_rng(seed)
    p_values = list(np.round(random.uniform(size=30) ** 3, 2))  # with ties
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)


def test_holm_on_a_textbook_family() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def sign_flips(difference: Any) -> float:
    """The test by its definition: every way of giving the differences signs."""
    sums = [np.dot(signs, difference) for signs in itertools.product([1, -1], repeat=len(difference))]
    return float(np.mean(np.abs(sums) >= abs(np.sum(difference)) - 1e-9))


@FEW
@given(st.integers(1, 10).flatmap(lambda n: st.lists(st.lists(VALUES, min_size=n, max_size=n), min_size=1, max_size=4)))
def test_the_permutation_test_is_the_enumeration_on_few_documents(rows: list[list[float]]) -> None:
    assert sign_flip_tests(rows) == pytest.approx([sign_flips(row) for row in rows])


def test_the_permutation_test_is_scipys() -> None:
    difference = np.random.default_rng(0).normal(0.4, 1, 12)
    expected = stats.permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_tests(difference) == pytest.approx([expected.pvalue])


@pytest.mark.parametrize("family", [1, 400])
def test_random_permutations_come_close_to_all_of_them(monkeypatch: pytest.MonkeyPatch, family: int) -> None:
    random = np.random.default_rng(1)
    values = random.normal([[0.0], [0.6], [0.9]], 1, (3, 13))
    exact = sign_flip_tests(values, family=family)
    assert exact == pytest.approx([sign_flips(row) for row in values])
    monkeypatch.setattr(significance, "_CHUNK", 1000)
    sampled = significance._random_flips(values, permutations(family))
    assert min(exact) < 0.005 < max(exact)
    assert sampled == pytest.approx(exact, abs=5 * np.sqrt(max(exact) / 9_999))
    if family > 1:
        assert sampled[2] == pytest.approx(exact[2], abs=5 * np.sqrt(exact[2] / permutations(family)))


def test_tests_made_together_are_those_made_alone() -> None:
    random = np.random.default_rng(2)
    pairs = [(random.normal(size=n), random.normal(0.3, 1, n)) for n in (12, 40, 12, 40, 1)]
    pairs += [(np.array([1.0, 0, 1]), np.array([1.0, 1, 1]))]
    assert compare_all(pairs, [7] * 6) == [compare(*pair, family=7) for pair in pairs]


@pytest.mark.parametrize(("documents", "family"), [(8, 1), (8, 500), (14, 30), (15, 1), (15, 500), (40, 1), (40, 500)])
def test_the_least_p_is_that_of_documents_that_all_changed_alike(documents: int, family: int) -> None:
    (p_value,) = sign_flip_tests(np.linspace(1, 2, documents), family=family)
    assert p_value == pytest.approx(least_p(documents, family), rel=5)
    assert p_value >= least_p(documents, family)
    if documents >= 15:
        assert holm([least_p(documents, family)] * family)[0] < 0.05 or documents < np.log2(40 * family)


@pytest.mark.parametrize("documents", [1023, 1024, 1190, 5010])
def test_documents_without_number_are_compared(documents: int) -> None:
    """2 to the power of 1,024 is no floating-point number; XQuAD has 1,190 questions in each language."""
    before = np.linspace(0, 1, documents)
    found = compare(before, before + np.random.default_rng(0).normal(0.1, 0.2, documents))
    assert found.p_value == found.least_p == least_p(documents) == 1 / (permutations(1) + 1)


@FEW
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 60))
def test_tangos_interval_is_where_its_score_reaches_the_bound(gained: int, lost: int, unchanged: int) -> None:
    n = gained + lost + unchanged

    def surprise(delta: float) -> float:
        """The likelihood's score at ``delta``, its nuisance parameter found by plain search."""

        def against(rate: float) -> float:
            rates = np.maximum([rate + delta, rate, 1 - 2 * rate - delta], 1e-300)
            return -float(np.dot([gained, lost, unchanged], np.log(rates)))

        bounds = (max(0.0, -delta), (1 - delta) / 2)
        rate = optimize.minimize_scalar(against, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        return (gained - lost - n * delta) / np.sqrt(n * (2 * rate + delta * (1 - delta)))

    low, high = tango_interval(gained, lost, n)
    assert low <= (gained - lost) / n <= high
    bound = stats.norm.ppf(0.975)
    assert surprise(low) == pytest.approx(bound, abs=1e-3)
    assert surprise(high) == pytest.approx(-bound, abs=1e-3)


@pytest.mark.parametrize("n", [10, 40, 500])
def test_the_detectable_mean_is_that_of_a_paired_t_test(n: int) -> None:
    difference = np.random.default_rng(n).normal(size=n)
    effect = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert detectable_mean(difference) == pytest.approx(effect * difference.std(ddof=1), rel=0.02)


# What they promise, on simulated data


def rejections(p_values: list[float]) -> tuple[int, int]:
    """How often 5 % tests rejected, and the most that is plausible of a test that keeps its level."""
    return sum(p < 0.05 for p in p_values), int(stats.binom.ppf(0.999, len(p_values), 0.05))


def test_equal_runs_differ_as_often_as_the_level_says() -> None:
    random = np.random.default_rng(1)
    values = random.gamma(1.0, size=(2, 300, 8))
    found, most = rejections(sign_flip_tests(values[0] - values[1]))
    assert stats.binom.ppf(0.001, 300, 0.05) <= found <= most


@pytest.mark.parametrize("n", [24, 100, 500])
@pytest.mark.parametrize("draws", [3, 8])
def test_a_draw_differs_from_other_draws_as_often_as_the_level_says(n: int, draws: int) -> None:
    """Components fitted to bits per byte: documents vary by 0.032, draws by 0.004."""
    random = np.random.default_rng(n + draws)
    p_values = []
    for _ in range(600):
        runs = random.normal(0, 0.032, (draws + 1, n)) + random.normal(0, 0.004, (draws + 1, 1))
        p_values.append(compare_with_draws(runs[1:], runs[0]).p_value or 0.0)
    found, most = rejections(p_values)
    assert stats.binom.ppf(0.001, 600, 0.04) <= found <= most


def test_neurons_whose_effects_vary_more_than_the_draws_do() -> None:
    """Their mean is 0: only documents make it look otherwise."""
    random = np.random.default_rng(5)
    p_values = []
    for _ in range(500):
        own = random.normal(0, 0.3, 48)
        p_values.append(compare_with_draws(random.normal(0, 0.01, (3, 48)), own).p_value or 0.0)
    found, most = rejections(p_values)
    assert stats.binom.ppf(0.001, 500, 0.05) <= found <= most


def test_the_test_against_draws_by_hand() -> None:
    draws, own = np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 7.0]]), np.array([9.0, 11.0])
    found = compare_with_draws(draws, own)
    # Draws' means 1.5, 2.5, 5; the run's differences to the draws 7 and 7, which vary less than the draws' do.
    assert (found.before, found.delta) == (3, 7)
    error = np.sqrt(np.var([1.5, 2.5, 5], ddof=1) * (1 + 1 / 3))
    assert found.p_value == pytest.approx(2 * stats.t.sf(7 / error, 2))
    assert found.ci_low == pytest.approx(7 - stats.t.ppf(0.975, 2) * error)
    assert found.mde == pytest.approx((stats.t.ppf(0.975, 2) + stats.t.ppf(0.8, 2)) * error)


def test_draws_without_a_test() -> None:
    few = compare_with_draws([[0.0, 1.0], [1.0, 1.0]], [1.0, 1.0])
    assert (few.before, few.delta, few.p_value, few.ci_low, few.mde) == (0.75, 0.25, None, None, None)
    same = compare_with_draws([[0.5, 0.7]] * 3, [0.5, 0.7])
    assert (same.delta, same.p_value, same.ci_low) == (pytest.approx(0), 1, None)
    without_spread = compare_with_draws([[0.5, 0.5]] * 3, [0.75, 0.75])
    assert (without_spread.delta, without_spread.p_value, without_spread.ci_low) == (0.25, None, None)


def test_equal_accuracies_differ_no_more_often_than_the_level_says() -> None:
    """McNemar's exact test is conservative: its p-values are steps, and the step below 5 % can lie far below it."""
    random = np.random.default_rng(2)
    p_values = []
    for _ in range(1000):
        gained, lost, _ = random.multinomial(100, [0.15, 0.15, 0.7])
        p_values.append(mcnemar(int(gained), int(lost)))
    found, most = rejections(p_values)
    assert 0.01 * 1000 <= found <= most


def test_holm_keeps_false_alarms_of_a_table_below_the_level() -> None:
    random = np.random.default_rng(3)
    alarms = [min(holm(list(random.uniform(size=20)))) for _ in range(1000)]
    found, most = rejections(alarms)
    assert stats.binom.ppf(0.001, 1000, 0.04) <= found <= most


@pytest.mark.parametrize(("n", "gained", "lost"), [(10, 0.3, 0.0), (50, 0.1, 0.1), (50, 0.3, 0.02), (200, 0.02, 0.1)])
def test_tangos_interval_covers_the_truth(n: int, gained: float, lost: float) -> None:
    random = np.random.default_rng(n)
    covered = 0
    for _ in range(500):
        up, down, _ = random.multinomial(n, [gained, lost, 1 - gained - lost])
        low, high = tango_interval(int(up), int(down), n)
        covered += low <= gained - lost <= high
    assert covered / 500 >= 0.92


@pytest.mark.parametrize("n", [6, 12, 60])
def test_the_bootstrap_covers_the_truth(n: int) -> None:
    random = np.random.default_rng(n)
    intervals = [bootstrap_interval(random.normal(0.3, 1, n)) for _ in range(200)]
    covered = sum(low <= 0.3 <= high for low, high in intervals if low is not None and high is not None)
    assert 0.88 <= covered / 200 <= 0.99


@pytest.mark.parametrize("n", [12, 48, 238])
@pytest.mark.parametrize("rate", [0.02, 0.05, 0.2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_interval_of_few_changes_covers_the_truth(n: int, rate: float, sign: int) -> None:
    """Of F1-like changes of all sizes in one direction; with a handful of them no interval can miss in 5 %."""
    random = np.random.default_rng([n, int(100 * rate)])
    covered = 0
    for _ in range(400):
        changes = np.where(random.random(n) < rate, sign * random.beta(0.7, 1.5, n), 0)
        low, high = scaled_tango_interval(changes, 1.0)
        assert low is not None
        assert high is not None
        covered += low <= sign * rate * 0.7 / 2.2 <= high
    assert covered >= stats.binom.ppf(0.001, 400, 0.93)
    if n * rate > 9:
        assert covered <= stats.binom.ppf(0.999, 400, 0.97)


@FEW
@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 60))
def test_the_interval_of_few_changes_is_tangos_for_right_and_wrong_answers(gained: int, lost: int, same: int) -> None:
    before, after = (np.array(some) for some in outcomes(gained, lost, gained + lost + same))
    assert scaled_tango_interval(after - before, 1.0) == pytest.approx(tango_interval(gained, lost, len(before)))


def test_the_interval_of_few_changes_scales_with_them() -> None:
    change = np.array([0.0] * 20 + [0.5, -0.25, 1.0])
    low, high = scaled_tango_interval(change, 1.0)
    assert scaled_tango_interval(-3 * change, 3.0) == pytest.approx((-3 * high, -3 * low))  # type: ignore[operator]
    assert scaled_tango_interval(np.zeros(20), 0.0) == (None, None)


def test_wilsons_interval() -> None:
    assert wilson_interval(33, 100) == pytest.approx((0.2456, 0.4270), abs=1e-3)


@pytest.mark.parametrize(("changed", "n"), [(0, 20), (5, 100), (40, 100)])
def test_a_detectable_proportion_is_detected_in_four_of_five_samples(changed: int, n: int) -> None:
    delta = detectable_proportion(changed, n)
    assert delta is not None
    rate = max(delta, changed / n)
    random = np.random.default_rng(n + changed)
    samples = random.multinomial(n, [(rate + delta) / 2, max(0, (rate - delta) / 2), 1 - rate], size=1500)
    found = np.mean([mcnemar(int(up), int(down)) <= 0.05 for up, down, _ in samples])
    assert found == pytest.approx(0.8, abs=0.04)


# Properties


PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=10)
BINARY = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60)


@FEW
@given(PAIRS | BINARY)
def test_swapping_before_and_after_flips_the_difference(pairs: list[tuple[float, float]]) -> None:
    before, after = zip(*pairs, strict=True)
    there, back = compare(before, after), compare(after, before)
    assert back.delta == pytest.approx(-there.delta)
    assert back.p_value == pytest.approx(there.p_value)
    assert back.mde == pytest.approx(there.mde)
    assert 0 < there.p_value <= 1
    if {*before, *after} <= {0.0, 1.0}:
        assert (back.ci_low, back.ci_high) == pytest.approx((-there.ci_high, -there.ci_low), abs=1e-9)


@FEW
@given(PAIRS | BINARY, st.randoms(use_true_random=False))
def test_the_order_of_documents_does_not_matter(pairs: list[tuple[float, float]], shuffler: Any) -> None:
    other = list(pairs)
    shuffler.shuffle(other)
    one, two = (compare(*zip(*some, strict=True)) for some in (pairs, other))
    assert two.delta == pytest.approx(one.delta)
    assert two.p_value == pytest.approx(one.p_value)
    assert two.mde == pytest.approx(one.mde)


@FEW
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_holm_is_monotone_and_never_below_the_uncorrected(p_values: list[float]) -> None:
    corrected = holm(p_values)
    order = np.argsort(p_values, kind="stable")
    assert all(first <= second for first, second in itertools.pairwise(np.array(corrected)[order]))
    assert all(p <= q + 1e-12 and 0 <= q <= 1 for p, q in zip(p_values, corrected, strict=True))


def test_the_power_grows_with_the_effect_and_the_documents() -> None:
    powers = [mcnemar_power(delta, 0.3, 100) for delta in (0.05, 0.1, 0.2, 0.3)]
    assert powers == sorted(powers)
    assert mcnemar_power(0.1, 0.3, 400) > powers[1]
    assert mcnemar_power(1.0, 1.0, 6) == pytest.approx(1)


# The edges


def test_nothing_changed() -> None:
    found = compare([0.5, 0.5], [0.5, 0.5])
    assert (found.delta, found.ci_low, found.ci_high, found.p_value, found.mde) == (0, None, None, 1, None)
    # A change as large as the scores' range may yet come.
    found = compare([0.25, 0.75], [0.25, 0.75])
    assert (found.delta, found.p_value, found.mde) == (0, 1, None)
    assert found.ci_high == pytest.approx(0.5 * tango_interval(0, 0, 2)[1])
    shifted = compare([0.25, 0.75], [0.5, 1.0])
    assert (shifted.delta, shifted.ci_low, shifted.ci_high) == (0.25, None, None)
    accuracy = compare([1.0] * 20, [1.0] * 20)
    assert (accuracy.delta, accuracy.p_value) == (0, 1)
    # That no document of 20 changed does not mean that none ever would.
    assert accuracy.ci_high == pytest.approx(-accuracy.ci_low)  # type: ignore[operator]
    assert accuracy.ci_high == pytest.approx(0.161, abs=1e-3)
    assert accuracy.mde == pytest.approx(0.366, abs=1e-3)


def test_one_document_shows_nothing() -> None:
    found = compare([1.5], [0.3])
    assert (found.p_value, found.ci_low, found.ci_high, found.mde) == (1, None, None, None)
    accuracy = compare([1.0], [0.0])
    assert (accuracy.p_value, accuracy.ci_low, accuracy.mde) == (1, -1, None)
    assert accuracy.ci_high is not None
    assert accuracy.ci_high > 0.5


def test_five_documents_are_too_few_for_any_accuracy() -> None:
    assert detectable_proportion(5, 5) is None
    assert detectable_proportion(0, 6) == pytest.approx(0.963, abs=1e-3)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ([1.0], [1.0, 0.0], ["(1,)", "(2,)"]),
        ([], [], ["(0,)", "(0,)"]),
        ([float("nan"), 1.0], [0.0, 1.0], ["finite"]),
    ],
)
def test_what_cannot_be_compared(before: list[float], after: list[float], named: list[str]) -> None:
    with refused(*named):
        compare(before, after)


def test_accuracy_and_everything_else() -> None:
    before, after = outcomes(9, 3, 32)
    found = compare(before, after)
    assert found.delta == pytest.approx(6 / 32)
    assert found.p_value == pytest.approx(0.1460, abs=1e-4)
    assert (found.ci_low, found.ci_high) == pytest.approx((-0.0271, 0.3897), abs=1e-4)
    other = compare(np.array(before) + 1, np.array(after) + 1)
    assert other.p_value == pytest.approx(found.p_value, abs=1e-9)
    assert (other.ci_low, other.ci_high) == pytest.approx((found.ci_low, found.ci_high), abs=1e-9)
    # Where most documents changed, by other amounts, documents are resampled.
    third = compare(before, np.array(after) + np.linspace(0, 0.1, 32))
    assert (third.ci_low, third.ci_high) != pytest.approx((found.ci_low, found.ci_high), abs=1e-4)
