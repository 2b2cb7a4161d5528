"""Intervals for few subjects (PROTOCOL 8): the subject is the unit, whatever the statistic."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
# A statistic of weighted subjects: weights (B, n), how often each subject was drawn → values (B,).
Statistic = Callable[[Floats], Floats]

LEAST_SUBJECTS: Final = 5
BOOTSTRAP_SUBJECTS: Final = 20
MEDIAN_SUBJECTS: Final = 50
RESAMPLES: Final = 10_000
CONFIDENCE: Final = 0.95
# One seed for all models: the draws of subjects are then the same, and differences are paired.
DRAW_SEED: Final = 0


@dataclass(frozen=True)
class Interval:
    """A 95 % interval; both ends None where there is none. ``method`` says why or how."""

    low: float | None
    high: float | None
    method: Literal["none", "t", "jackknife t", "bca", "wilson"]


NO_INTERVAL: Final = Interval(None, None, "none")


def mean_statistic(values: Floats) -> Statistic:
    """Mean of the subjects' values (n,)."""
    return lambda weights: weights @ values / weights.sum(axis=1)


def ratio_statistic(parts: Floats, wholes: Floats) -> Statistic:
    """Σ parts (n,) ÷ Σ wholes (n,) of the subjects; NaN for 0 ÷ 0."""

    def of(weights: Floats) -> Floats:
        whole = weights @ wholes
        return cast(Floats, np.divide(weights @ parts, whole, out=np.full(len(weights), np.nan), where=whole > 0))

    return of


def median_statistic(values: Floats, subjects: NDArray[np.integer]) -> Statistic:
    """Median of values (N,) that belong to subjects (N,), numbered from 0; a subject drawn k times counts k.

    >>> median_statistic(np.array([1.0, 2.0, 4.0]), np.array([0, 0, 1]))(np.array([[1.0, 1.0], [1.0, 2.0]])).tolist()
    [2.0, 3.0]
    """
    order = np.argsort(values, kind="stable")
    ranked, owner = values[order], subjects[order]

    def of(weights: Floats) -> Floats:
        below = np.cumsum(weights[:, owner], axis=1)
        half = below[:, -1:] / 2
        # Where the weight falls into equal halves the median is the middle of the two values beside the cut.
        return cast(Floats, (ranked[(below >= half).argmax(axis=1)] + ranked[(below > half).argmax(axis=1)]) / 2)

    return of


def wilson_interval(share: float, n: int) -> Interval:
    """Wilson's score interval of a proportion over n subjects (Wilson 1927); none below 5.

    >>> found = wilson_interval(0.5, 10)
    >>> round(found.low, 4), round(found.high, 4)
    (0.2366, 0.7634)
    """
    if n < LEAST_SUBJECTS or not np.isfinite(share):
        return NO_INTERVAL
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * float(np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)))
    return Interval(max(0.0, middle - reach), min(1.0, middle + reach), "wilson")


def interval(statistic: Statistic, n: int, *, mean_of: Floats | None = None, resamples: int = RESAMPLES) -> Interval:
    """Interval of a statistic over n subjects: none below 5, t below 20, BCa from 20 on.

    Args:
        statistic: of weights (B, n).
        n: subjects.
        mean_of: the values (n,), if the statistic is their mean: its t interval is then exact; otherwise the standard
            error is the jackknife's.
        resamples: of BCa.
    """
    if n < LEAST_SUBJECTS:
        return NO_INTERVAL
    if n >= BOOTSTRAP_SUBJECTS:
        return bca_interval(statistic, n, resamples=resamples)
    if mean_of is not None:
        return t_interval(mean_of)
    value, left_out = _jackknife(statistic, n)
    error = float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))
    return _around(value, error, n, "jackknife t")


def t_interval(values: Floats) -> Interval:
    """Student's interval of the mean of the subjects' values (n,); none below 5."""
    n = len(values)
    if n < LEAST_SUBJECTS:
        return NO_INTERVAL
    return _around(float(values.mean()), float(values.std(ddof=1) / np.sqrt(n)), n, "t")


def bca_interval(statistic: Statistic, n: int, *, resamples: int = RESAMPLES) -> Interval:
    """Bias-corrected, accelerated bootstrap interval over subjects (Efron 1987); acceleration by the jackknife.

    Draws that leave the statistic undefined are left out; a statistic that never varies has an interval of no width.
    """
    random = np.random.default_rng(DRAW_SEED)
    value, left_out = _jackknife(statistic, n)
    drawn = np.concatenate(
        [
            statistic(random.multinomial(n, np.full(n, 1 / n), size=min(500, resamples - done)).astype(np.float64))
            for done in range(0, resamples, 500)
        ]
    )
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(drawn) == 0:
        return NO_INTERVAL
    below = (drawn < value).mean() + (drawn == value).mean() / 2
    shift = float(stats.norm.ppf(np.clip(below, 0.5 / len(drawn), 1 - 0.5 / len(drawn))))
    spread = left_out.mean() - left_out
    scale = float((spread**2).sum()) ** 1.5
    acceleration = float((spread**3).sum()) / (6 * scale) if scale > 0 else 0.0
    ends = stats.norm.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    share = stats.norm.cdf(shift + (shift + ends) / (1 - acceleration * (shift + ends)))
    low, high = np.quantile(drawn, share)
    return Interval(float(low), float(high), "bca")


def _jackknife(statistic: Statistic, n: int) -> tuple[float, Floats]:
    values = statistic(np.concatenate([np.ones((1, n)), 1 - np.eye(n)]))
    return float(values[0]), values[1:]


def _around(value: float, error: float, n: int, method: Literal["t", "jackknife t"]) -> Interval:
    if not np.isfinite(value) or not np.isfinite(error):
        return NO_INTERVAL
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Interval(value - reach, value + reach, method)
