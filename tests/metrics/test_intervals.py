"""Intervals against scipy, and their rules for few subjects."""

import numpy as np
import pytest
from scipy import stats

from spineseg.metrics.intervals import (
    bca_interval,
    interval,
    mean_statistic,
    median_statistic,
    ratio_statistic,
    wilson_interval,
)


def test_no_interval_below_five_subjects() -> None:
    found = interval(mean_statistic(np.arange(4.0)), 4, mean_of=np.arange(4.0))
    assert (found.low, found.high, found.method) == (None, None, "none")


def test_the_interval_of_a_mean_is_students() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, 10)
    found = interval(mean_statistic(values), 10, mean_of=values)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.method == "t"


def test_the_jackknife_of_a_mean_gives_students_interval_too() -> None:
    values = np.random.default_rng(1).normal(0.8, 0.1, 7)
    jackknife = interval(mean_statistic(values), 7)
    student = interval(mean_statistic(values), 7, mean_of=values)
    assert (jackknife.low, jackknife.high) == pytest.approx((student.low, student.high))
    assert jackknife.method == "jackknife t"


def test_bca_equals_scipys_up_to_the_draws() -> None:
    values = np.random.default_rng(2).gamma(2.0, 1.0, 40)
    found = bca_interval(mean_statistic(values), 40, resamples=20_000)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert interval(mean_statistic(values), 40, resamples=200).method == "bca"


def test_the_same_draws_for_every_model() -> None:
    values = np.random.default_rng(3).random(25)
    first, second = (bca_interval(mean_statistic(values + shift), 25, resamples=300) for shift in (0, 1))
    assert second.low == pytest.approx((first.low or 0) + 1)


def test_a_statistic_that_never_varies() -> None:
    found = interval(mean_statistic(np.ones(30)), 30, resamples=200)
    assert (found.low, found.high) == (1.0, 1.0)
    undefined = interval(lambda weights: np.full(len(weights), np.nan), 30, resamples=200)
    assert undefined.low is None


def test_a_ratio_weighs_subjects_by_their_levels() -> None:
    found = ratio_statistic(np.array([3.0, 1.0, 0.0]), np.array([4.0, 1.0, 0.0]))
    np.testing.assert_allclose(found(np.array([[1.0, 1, 1], [2, 0, 1], [0, 0, 2]])), [4 / 5, 6 / 8, np.nan])


def test_the_median_of_a_draw_is_that_of_its_values_repeated() -> None:
    random = np.random.default_rng(4)
    for _ in range(30):
        n = int(random.integers(1, 6))
        subjects = random.integers(0, n, 12)
        values = random.integers(0, 8, 12).astype(float)
        weights = random.multinomial(n, np.full(n, 1 / n)).astype(float)
        drawn = np.repeat(values, weights[subjects].astype(int))
        if len(drawn):
            assert median_statistic(values, subjects)(weights[None])[0] == np.median(drawn)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (3, 10), (10, 10), (17, 40)])
def test_proportions_have_wilsons_interval(right: int, n: int) -> None:
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    found = wilson_interval(right / n, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert wilson_interval(0.5, 4).low is None
