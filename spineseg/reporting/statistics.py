"""Comparisons of few subjects (PROTOCOL 8): the subject is the unit, tests are exact, and few of them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from spineseg.metrics.intervals import NO_INTERVAL, RESAMPLES, Floats, Interval, interval, mean_statistic, t_interval

SIGNIFICANCE: Final = 0.05
POWER: Final = 0.80
LEAST_FOR_TEST: Final = 6
# With three models and Holm over their three pairs, 3 · 2/2⁶ is above 5 %.
LEAST_WITH_THREE: Final = 7
LEAST_FOR_RANKS: Final = 10
LEAST_SEEDS: Final = 3
# Of an exact test, up to here: two halves of 2²⁰ sums each. Beyond, flips are drawn.
EXACT_SUBJECTS: Final = 40
DRAWN_FLIPS: Final = 100_000
_FLIPS_AT_ONCE: Final = 4096
# Sums that are equal but for their rounding count as equal.
_EQUAL: Final = 1e-9


@dataclass(frozen=True)
class PairedComparison:
    """What is known of the difference of two models on the same subjects.

    Attributes:
        n: subjects.
        mean: of the subjects' differences, first minus second.
        ends: 95 % interval of it.
        sd: of the subjects' differences; NaN for one subject.
        mde: least true difference that a paired t-test would find with 80 % power (5 %, two-sided).
        p: of the exact sign-flip test; None where none is made.
        student: Student's interval, which stands beside a bootstrap's.
    """

    n: int
    mean: float
    ends: Interval
    sd: float
    mde: float
    p: float | None
    student: Interval = NO_INTERVAL


@dataclass(frozen=True)
class RankComparison:
    """Friedman's test with Nemenyi's critical difference: descriptive.

    Attributes:
        statistic: Friedman's χ².
        p: its p-value.
        ranks: mean rank of each model, 1 = best.
        critical_difference: of mean ranks, Nemenyi's at 5 %.
    """

    statistic: float
    p: float
    ranks: tuple[float, ...]
    critical_difference: float


def paired_comparison(first: Floats, second: Floats, *, test: bool, resamples: int = RESAMPLES) -> PairedComparison:
    """Compare two models by their values (n,) of the same subjects.

    The interval is Student's below 20 subjects and BCa from there on (PROTOCOL 8.3), none below 5. Subjects whose value
    is NaN for either are the caller's to leave out of both.

    Args:
        first: values of one model; seeds are averaged before.
        second: of the other, in the same order of subjects.
        test: whether a test is wanted; none is made below 6 subjects (PROTOCOL 8.5).
        resamples: of BCa.

    >>> found = paired_comparison(np.array([0.9, 0.8, 0.85, 0.9, 0.95, 0.8]), np.full(6, 0.5), test=True)
    >>> round(found.mean, 4), found.p, found.ends.method
    (0.3667, 0.03125, 't')
    """
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    n = len(differences)
    sd = float(differences.std(ddof=1)) if n > 1 else float("nan")
    return PairedComparison(
        n=n,
        mean=float(differences.mean()) if n else float("nan"),
        ends=interval(mean_statistic(differences), n, mean_of=differences, resamples=resamples),
        sd=sd,
        mde=minimal_detectable_effect(n) * sd if n > 1 else float("nan"),
        p=sign_flip_p(differences) if test and n >= LEAST_FOR_TEST else None,
        student=t_interval(differences),
    )


def sign_flip_p(differences: Floats, *, draws: int = DRAWN_FLIPS, seed: int = 0) -> float:
    """Two-sided p-value of the sign-flip permutation test of a mean of differences (n,) (Fisher 1935).

    Exact up to 40 subjects: all 2ⁿ sums are those of one half of the subjects plus those of the other, and how many
    reach the observed one is looked up. Beyond, flips are drawn, and the observed one counts as one of them. On signed
    ranks this is Wilcoxon's exact test.

    >>> sign_flip_p(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])) == 2 / 2**6
    True
    """
    values = np.asarray(differences, np.float64)
    if len(values) == 0:
        return float("nan")
    reached = abs(values.sum()) - _EQUAL * max(1e-300, float(np.abs(values).sum()))
    if len(values) > EXACT_SUBJECTS:
        random, count = np.random.default_rng(seed), 0
        for first in range(0, draws, _FLIPS_AT_ONCE):
            shape = (min(_FLIPS_AT_ONCE, draws - first), len(values))
            signs = 2 * random.integers(0, 2, shape, np.int8) - 1
            count += int((np.abs(signs @ values) >= reached).sum())
        return (1 + count) / (1 + draws)
    one, other = (_all_sums(half) for half in np.array_split(values, 2))
    other.sort()
    above = len(other) - np.searchsorted(other, reached - one, side="left")
    below = np.searchsorted(other, -reached - one, side="right")
    # Where both tails meet (an observed sum of 0) a sum is counted twice.
    return float(min(1.0, (above.sum() + below.sum()) / (len(one) * len(other))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Holm 1979), in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    m, highest = len(order), 0.0
    adjusted = [0.0] * m
    for place, which in enumerate(order):
        highest = max(highest, (m - place) * p_values[which])
        adjusted[which] = min(1.0, highest)
    return adjusted


@lru_cache
def minimal_detectable_effect(n: int, *, power: float = POWER, alpha: float = SIGNIFICANCE) -> float:
    """Least mean difference, in sd of the differences, that a two-sided paired t-test of n subjects finds.

    NaN below two subjects. (PROTOCOL 8.8 prints 1.66 at n = 5; exact is 1.68.)

    >>> [round(minimal_detectable_effect(n), 2) for n in (5, 10, 20)]
    [1.68, 1.0, 0.66]
    """
    if n < 2:
        return float("nan")
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    # Power is that of a z-test given the sd, averaged over what the sd of n subjects can be.
    shares = (np.arange(4000) + 0.5) / 4000
    reach = critical * np.sqrt(stats.chi2.ppf(shares, n - 1) / (n - 1))

    def lacking(effect: float) -> float:
        shift = effect * np.sqrt(n)
        return float((stats.norm.sf(reach - shift) + stats.norm.cdf(-reach - shift)).mean() - power)

    highest = 1.0
    while lacking(highest) < 0:
        highest *= 2
    return float(optimize.brentq(lacking, 0.0, highest))


def friedman(values: Floats) -> RankComparison | None:
    """Friedman's test of models (n, k) on the same subjects with Nemenyi's critical difference (Demšar 2006).

    Higher values are better.

    None below three models or ten subjects (PROTOCOL 8.5), or where no subject tells the models apart.
    """
    n, k = values.shape
    if k < 3 or n < LEAST_FOR_RANKS or (values == values[:, :1]).all():
        return None
    found = stats.friedmanchisquare(*values.T)
    ranks = stats.rankdata(-values, axis=1).mean(axis=0)
    return RankComparison(
        statistic=float(found.statistic),
        p=float(found.pvalue),
        ranks=tuple(ranks.tolist()),
        critical_difference=nemenyi_difference(k, n),
    )


def nemenyi_difference(models: int, n: int, *, alpha: float = SIGNIFICANCE) -> float:
    """Mean ranks over n subjects have to lie this far apart to differ (Nemenyi 1963).

    >>> round(nemenyi_difference(4, 14), 3)  # Demšar 2006, section 3.2.2, up to his rounding
    1.254
    """
    q = float(stats.studentized_range.ppf(1 - alpha, models, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(models * (models + 1) / (6 * n)))


def sd_of_subjects(values: Floats) -> float | None:
    """Standard deviation over subjects (n, seeds) of their values averaged over seeds; None for one subject."""
    means = values.mean(axis=1)
    return float(means.std(ddof=1)) if len(means) > 1 else None


def sd_of_seeds(values: Floats) -> float | None:
    """Standard deviation over seeds of the mean over subjects (n, seeds): noise of a rerun; None for one seed.

    >>> round(sd_of_seeds(np.array([[0.8, 0.9], [0.6, 0.7]])), 4)  # of 0.7 and 0.8
    0.0707
    """
    means = values.mean(axis=0)
    return float(means.std(ddof=1)) if len(means) > 1 else None


def beyond_rerun_noise(difference: float, sds: tuple[float | None, float | None], seeds: tuple[int, int]) -> bool:
    """Whether a difference exceeds 2 · sd_seed · √(2/k), the larger sd of the two, the fewer seeds k (PROTOCOL 8.7).

    False where one of the models has fewer than three seeds: its rerun noise is not known.

    >>> beyond_rerun_noise(0.05, (0.01, 0.02), (3, 3)), beyond_rerun_noise(0.03, (0.01, 0.02), (3, 3))
    (True, False)
    """
    k = min(seeds)
    if k < LEAST_SEEDS or sds[0] is None or sds[1] is None:
        return False
    return abs(difference) > 2 * max(sds[0], sds[1]) * float(np.sqrt(2 / k))


def why_not_tested(n: int, models: int) -> str | None:
    """Reason for which so few subjects allow no test (PROTOCOL 8.5); None where they allow one.

    >>> why_not_tested(6, 3)
    'n = 6: with 3 models none below 7 subjects'
    """
    if n < LEAST_FOR_TEST:
        return f"n = {n}: none below {LEAST_FOR_TEST} subjects"
    if models > 2 and n < LEAST_WITH_THREE:
        return f"n = {n}: with {models} models none below {LEAST_WITH_THREE} subjects"
    return None


def holm_of_pairs(
    p_values: Mapping[tuple[str, str], float | None],
) -> dict[tuple[str, str], float | None]:
    """Holm over all pairs of one endpoint that were tested; None stays None."""
    tested = [pair for pair, p in p_values.items() if p is not None]
    adjusted = holm([cast(float, p_values[pair]) for pair in tested])
    return {**dict.fromkeys(p_values), **dict(zip(tested, adjusted, strict=True))}


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """All pairs, in the order of the names."""
    return list(itertools.combinations(names, 2))


def _all_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums (2ⁿ,) of all choices of signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums
