"""One number of a results table: value, interval, who it is of, and what must stand beside it (PROTOCOL 8.3)."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spineseg.metrics.intervals import (
    BOOTSTRAP_SUBJECTS,
    MEDIAN_SUBJECTS,
    NO_INTERVAL,
    Floats,
    Interval,
    Statistic,
    interval,
    mean_statistic,
    median_statistic,
    t_interval,
)
from spineseg.metrics.means import per_subject_and_level, share_found, subject_values

Entry = dict[str, Any]
# A metric → {"value", "low", "high", "subjects"}, with "method" where there is an interval; {"value": None, "status":
# "n/a"} where the metric does not apply. From 20 subjects on means have "t", Student's interval, beside the bootstrap.
# Medians also have "quartiles" and "found", all_right has "levels", the mean number of visible ones, id_points has
# "point_levels"; AP has "scores" where a model ranks nothing.
Results = dict[str, Entry]
NOT_APPLICABLE: Final[Mapping[str, Any]] = {"value": None, "status": "n/a"}


def entry_of(value: float, ends: Interval, subjects: int) -> Entry:
    """An entry of a value that is known; not applicable if it is no number."""
    if not np.isfinite(value):
        return dict(NOT_APPLICABLE)
    entry: Entry = {"value": value, "low": ends.low, "high": ends.high, "subjects": subjects}
    return entry if ends.low is None else {**entry, "method": ends.method}


def statistic_entry(statistic: Statistic, n: int, resamples: int) -> Entry:
    """Entry of a statistic of n subjects."""
    value = float(statistic(np.ones((1, n)))[0]) if n else float("nan")
    return entry_of(value, interval(statistic, n, resamples=resamples) if np.isfinite(value) else NO_INTERVAL, n)


def mean_entry(rows: pd.DataFrame, resamples: int) -> Entry:
    """Entry of the ``case_mean`` of some rows (columns subject, level, value)."""
    found = subject_values(rows)
    return mean_of_subjects(np.array([found[subject] for subject in sorted(found)], np.float64), resamples)


def mean_of_subjects(values: Floats, resamples: int) -> Entry:
    """Entry of the mean of the subjects' values (n,)."""
    if not len(values):
        return dict(NOT_APPLICABLE)
    ends = interval(mean_statistic(values), len(values), mean_of=values, resamples=resamples)
    entry = entry_of(float(values.mean()), ends, len(values))
    if len(values) >= BOOTSTRAP_SUBJECTS:
        beside = t_interval(values)
        entry["t"] = [beside.low, beside.high]
    return entry


def median_entry(rows: pd.DataFrame, resamples: int) -> Entry:
    """Entry of the median over found levels, with quartiles and the share of levels found.

    Args:
        rows: columns subject, level, value, status; several scans of a subject are averaged first.
        resamples: of the interval, which there is from 50 subjects on.
    """
    values = per_subject_and_level(rows)
    owner = np.asarray(values["subject"].astype("category").cat.codes, np.int64)
    return median_of_levels(values["value"].to_numpy(np.float64), owner, share_found(rows), resamples)


def median_of_levels(values: Floats, owner: NDArray[np.int64], found: float, resamples: int) -> Entry:
    """Entry of the median of found levels (N,) of subjects (N,) numbered from 0, with the share of levels found."""
    if not len(values):
        return {**NOT_APPLICABLE, **({"found": found} if np.isfinite(found) else {})}
    n = int(owner.max()) + 1
    ends = NO_INTERVAL
    if n >= MEDIAN_SUBJECTS:
        ends = interval(median_statistic(values, owner), n, resamples=resamples)
    low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
    return {**entry_of(middle, ends, n), "quartiles": [low, high], "found": found}
