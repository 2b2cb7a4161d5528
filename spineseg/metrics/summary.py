"""From the rows and detections of all cases to the numbers of a results table, with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from spineseg.metrics.detection import Counts
from spineseg.metrics.detections_table import DetectionSet
from spineseg.metrics.intervals import RESAMPLES, Floats, Statistic, interval, mean_statistic
from spineseg.metrics.means import case_mean, level_mean, level_means, pooled, region_means, subject_values
from spineseg.metrics.pooling import ApPool, constant_ap50, counts_by_subject, named_levels
from spineseg.vertebrae import LEVELS, level_name

# A metric → {"value", "low", "high", "subjects"}, or {"value": None, "status": "n/a"}.
Results = dict[str, dict[str, Any]]
NOT_APPLICABLE: Final[Mapping[str, Any]] = {"value": None, "status": "n/a"}
_COUNTED: Final = ("ok", "missed")


@dataclass(frozen=True, eq=False)
class SplitScores:
    """All cases of a split.

    Attributes:
        rows: columns case, subject and those of ``cases.CaseScores.rows``.
        detections: columns of ``slices``, case and subject included.
        subjects: everybody in the split, also who has no row.
        named: whether levels were scored as classes.
        detector: whether the slice instances are a detector's own.
    """

    rows: pd.DataFrame
    detections: pd.DataFrame
    subjects: tuple[str, ...]
    named: bool
    detector: bool


def summarise(scores: SplitScores, *, resamples: int = RESAMPLES) -> Results:
    """Numbers of ``results.json`` by their contract names.

    Args:
        scores: of a split.
        resamples: of the intervals from 20 subjects on.
    """
    return {**_ap_results(scores, resamples), **_count_results(scores, resamples), **_mean_results(scores, resamples)}


def dice_tables(scores: SplitScores) -> dict[str, Any]:
    """Other means of named Dice (PROTOCOL 3), without intervals; empty for one-class models."""
    rows = _metric_rows(scores.rows, "dice")
    if not scores.named or rows.empty:
        return {}
    mean, levels = level_mean(rows)
    return {
        "case_mean": _plain(case_mean(rows)),
        "level_mean": {"value": _plain(mean), "levels": list(levels)},
        "region": {name: _plain(value) for name, value in region_means(rows).items()},
        "pooled": _plain(pooled(rows)),
        "levels": level_means(rows),
    }


def named_level_list(scores: SplitScores) -> dict[str, Any]:
    """Levels of the named mAP, fixed by the reference; ``all_levels`` marks a split of fewer than 3 subjects."""
    if not scores.named:
        return {}
    levels, every = named_levels(scores.detections, scores.subjects)
    names = [level_name(level) if level in LEVELS else str(level) for level in levels]
    return {"levels": names, "all_levels": every}


def _ap_results(scores: SplitScores, resamples: int) -> Results:
    results: Results = {}
    n = len(scores.subjects)
    sets: Sequence[tuple[DetectionSet, bool, str]] = (
        ("exclusive", False, ""),
        ("exclusive", True, "_named"),
        ("native", False, "_native"),
    )
    for which, named, suffix in sets:
        for shape in ("mask", "box"):
            names = (f"{shape}_map50{suffix}", f"{shape}_map50_95{suffix}")
            if (named and not scores.named) or (which == "native" and not scores.detector):
                results |= {name: dict(NOT_APPLICABLE) for name in names}
                continue
            pool = ApPool.build(
                scores.detections, scores.subjects, which=which, shape="mask" if shape == "mask" else "box", named=named
            )
            for name, threshold in zip(names, (0, None), strict=True):
                results[name] = _entry(pool.statistic(threshold=threshold), n, n, resamples)
            if (which, named, shape) == ("exclusive", False, "mask"):
                value = constant_ap50(pool)
                results["ap50_constant"] = (
                    {"value": value, "low": None, "high": None, "subjects": n}
                    if np.isfinite(value)
                    else dict(NOT_APPLICABLE)
                )
    return results


def _count_results(scores: SplitScores, resamples: int) -> Results:
    table = counts_by_subject(scores.detections, scores.subjects)
    n = len(scores.subjects)

    def statistic(metric: str) -> Statistic:
        def of(weights: Floats) -> Floats:
            return np.array([getattr(Counts(*sums), metric) for sums in (weights @ table).tolist()])

        return of

    return {metric: _entry(statistic(metric), n, n, resamples) for metric in ("precision", "recall", "f1", "pq")}


def _mean_results(scores: SplitScores, resamples: int) -> Results:
    results: Results = {}
    for metric in ("dice", "dice_spine"):
        if metric == "dice" and not scores.named:
            results[metric] = dict(NOT_APPLICABLE)
            continue
        found = subject_values(_metric_rows(scores.rows, metric))
        values = np.array([found[subject] for subject in sorted(found)], np.float64)
        results[metric] = _entry(mean_statistic(values), len(values), len(values), resamples, mean_of=values)
    return results


def _entry(
    statistic: Statistic, n: int, subjects: int, resamples: int, *, mean_of: Floats | None = None
) -> dict[str, Any]:
    if n == 0 or not np.isfinite(value := float(statistic(np.ones((1, n)))[0])):
        return dict(NOT_APPLICABLE)
    found = interval(statistic, n, mean_of=mean_of, resamples=resamples)
    return {"value": value, "low": found.low, "high": found.high, "subjects": subjects}


def _metric_rows(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    return rows[(rows["metric"] == metric) & rows["status"].isin(_COUNTED)]


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
