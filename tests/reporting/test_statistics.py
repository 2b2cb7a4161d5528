"""Tests of few subjects against scipy, statsmodels and printed tables."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from spineseg.reporting.statistics import (
    EXACT_SUBJECTS,
    beyond_rerun_noise,
    friedman,
    holm,
    holm_of_pairs,
    minimal_detectable_effect,
    nemenyi_difference,
    paired_comparison,
    sd_of_seeds,
    sd_of_subjects,
    sign_flip_p,
    why_not_tested,
)


@pytest.mark.parametrize("n", [2, 6, 7, 10, 12])
def test_the_sign_flip_test_is_scipys_exact_one(n: int) -> None:
    random = np.random.default_rng(n)
    for _ in range(3):
        differences = random.normal(0.3, 1, n).round(2)
        expected = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        )
        # Two-sided in scipy is twice the smaller tail; the distribution is symmetric, so that is both tails.
        assert sign_flip_p(differences) == pytest.approx(min(1.0, expected.pvalue))


def test_on_signed_ranks_it_is_wilcoxons_exact_test() -> None:
    random = np.random.default_rng(0)
    for n in (6, 9, 12):
        differences = random.normal(0.4, 1, n)
        ranks = np.sign(differences) * stats.rankdata(np.abs(differences))
        assert sign_flip_p(ranks) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_the_sign_flip_test_counts_every_choice_of_signs(values: list[int]) -> None:
    sums = [
        sum(s * v for s, v in zip(signs, values, strict=True))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    expected = np.mean([abs(each) >= abs(sum(values)) for each in sums])
    # In tenths, which no binary number is: equal sums must stay equal.
    assert sign_flip_p(np.array(values) / 10) == pytest.approx(expected)


def test_its_least_value_is_two_in_all_flips_and_many_subjects_are_drawn() -> None:
    assert sign_flip_p(np.arange(1.0, 8)) == 2 / 2**7
    many = np.random.default_rng(1).normal(0.25, 1, EXACT_SUBJECTS + 1)
    assert sign_flip_p(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, rel=0.15)
    assert sign_flip_p(many) == sign_flip_p(many) != sign_flip_p(many, seed=1)
    # Of so many people no more flips are held at once than a few: whole numbers of one byte, by the thousand.
    tracemalloc.start()
    sign_flip_p(np.ones(500) * np.resize([1, -1], 500))
    assert tracemalloc.get_traced_memory()[1] < 60e6
    tracemalloc.stop()
    assert sign_flip_p(np.zeros(8)) == 1
    halves = np.random.default_rng(2).normal(0.2, 1, 24)
    assert sign_flip_p(halves) == pytest.approx(stats.ttest_1samp(halves, 0).pvalue, rel=0.1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_pairs_without_a_test_take_no_part_in_holm() -> None:
    found = holm_of_pairs({("a", "b"): 0.01, ("a", "c"): None, ("b", "c"): 0.04})
    assert found == {("a", "b"): 0.02, ("a", "c"): None, ("b", "c"): 0.04}


@pytest.mark.parametrize("n", [3, 5, 6, 10, 20, 40])
def test_the_least_detectable_effect_is_statsmodels(n: int) -> None:
    expected = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert minimal_detectable_effect(n) == pytest.approx(expected, rel=1e-3)
    assert np.isnan(minimal_detectable_effect(1))


def test_a_paired_comparison_is_students_and_its_rules_are_kept() -> None:
    random = np.random.default_rng(3)
    first, second = random.normal(0.8, 0.1, 10), random.normal(0.7, 0.1, 10)
    found = paired_comparison(first, second, test=True)
    expected = stats.ttest_rel(first, second)
    ends = expected.confidence_interval()
    assert (found.ends.low, found.ends.high, found.ends.method) == (
        pytest.approx(ends.low),
        pytest.approx(ends.high),
        "t",
    )
    assert found.p is not None and 0 < found.p < 0.2
    assert found.mde == pytest.approx(0.996 * found.sd, rel=1e-3)
    assert paired_comparison(first[:5], second[:5], test=True).p is None  # none below six
    assert paired_comparison(first, second, test=False).p is None
    few = paired_comparison(first[:4], second[:4], test=True)
    assert (few.ends.low, few.ends.method) == (None, "none")
    many = paired_comparison(np.tile(first, 2), np.tile(second, 2), test=True, resamples=300)
    assert many.ends.method == "bca" and many.student.method == "t"
    swapped = paired_comparison(second, first, test=True)
    assert (swapped.mean, swapped.p) == (pytest.approx(-found.mean), pytest.approx(found.p))


def test_friedman_is_scipys_and_better_models_have_lower_ranks() -> None:
    random = np.random.default_rng(4)
    values = random.random((12, 4))
    values[:, 2] += 2
    found = friedman(values)
    assert found is not None
    expected = stats.friedmanchisquare(*values.T)
    assert (found.statistic, found.p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert found.ranks[2] == 1 and sum(found.ranks) == pytest.approx(10)
    assert friedman(values[:9]) is None and friedman(values[:, :2]) is None
    assert friedman(np.ones((12, 3))) is None


@pytest.mark.parametrize(("models", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (10, 3.164)])
def test_nemenyis_difference_has_demsars_critical_values(models: int, q: float) -> None:
    # Demšar 2006, table 5(a).
    assert nemenyi_difference(models, 10) == pytest.approx(q * np.sqrt(models * (models + 1) / 60), abs=2e-3)


def test_spread_over_seeds_and_over_subjects_are_two_things() -> None:
    seeds_only = np.array([[0.7, 0.8, 0.9]] * 4)
    subjects_only = np.repeat([[0.5], [0.7], [0.9]], 3, axis=1)
    assert (sd_of_seeds(seeds_only), sd_of_subjects(seeds_only)) == (pytest.approx(0.1), pytest.approx(0))
    assert (sd_of_seeds(subjects_only), sd_of_subjects(subjects_only)) == (pytest.approx(0), pytest.approx(0.2))
    assert sd_of_seeds(seeds_only[:, :1]) is None and sd_of_subjects(seeds_only[:1]) is None


def test_a_claim_needs_three_seeds_and_more_than_their_noise() -> None:
    assert beyond_rerun_noise(-0.05, (0.01, 0.02), (3, 5))
    assert not beyond_rerun_noise(0.05, (0.01, 0.02), (2, 5))
    assert not beyond_rerun_noise(0.05, (None, 0.02), (3, 3))
    limit = 2 * 0.02 * np.sqrt(2 / 3)
    assert not beyond_rerun_noise(limit * 0.999, (0.01, 0.02), (3, 3))
    assert beyond_rerun_noise(limit * 1.001, (0.01, 0.02), (3, 3))


@pytest.mark.parametrize(
    ("n", "models", "expected"),
    [(6, 2, None), (5, 2, "below 6"), (6, 3, "below 7"), (7, 3, None)],
)
def test_where_no_test_is_allowed_the_reason_is_said(n: int, models: int, expected: str | None) -> None:
    found = why_not_tested(n, models)
    assert found is None if expected is None else expected in str(found)
    # The rule for three models is Holm's: at n = 6 not even the least p-value would pass.
    assert (3 * 2 / 2**6 > 0.05) and (3 * 2 / 2**7 < 0.05)
