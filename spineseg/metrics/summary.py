"""From the rows and detections of all cases to the numbers of a results table, with their intervals."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from spineseg.metrics.case_rows import ERROR_TERMS, TOLERANCES_MM
from spineseg.metrics.detection import Counts
from spineseg.metrics.detections_table import DetectionSet
from spineseg.metrics.intervals import (
    MEDIAN_SUBJECTS,
    NO_INTERVAL,
    RESAMPLES,
    Floats,
    Statistic,
    interval,
    mean_statistic,
    median_statistic,
    ratio_statistic,
    wilson_interval,
)
from spineseg.metrics.means import per_subject_and_level, share_found, subject_sums, subject_values
from spineseg.metrics.pooling import ApPool, constant_ap50, counts_by_subject

# A metric → {"value", "low", "high", "subjects"}, or {"value": None, "status": "n/a"}. Medians also have "quartiles"
# and "found", all_right has "levels", the mean number of visible ones.
Results = dict[str, dict[str, Any]]
NOT_APPLICABLE: Final[Mapping[str, Any]] = {"value": None, "status": "n/a"}
COUNTED: Final = ("ok", "missed")
# Centre distances and surface distances: medians over found levels, a finite penalty for a missed one does not exist.
MEDIANS: Final = ("hd95", "assd", "centroid_error_mm", "d_free_mm")


@dataclass(frozen=True)
class Mean:
    """A ``case_mean`` of ``results.json``: its name there, the rows it takes, and whether it needs levels' names."""

    name: str
    metric: str
    parameter: str = ""
    named: bool = True
    statuses: tuple[str, ...] = COUNTED


MEANS: Final = (
    Mean("dice", "dice"),
    Mean("dice_union", "dice", statuses=(*COUNTED, "spurious")),
    Mean("dice_spine", "dice_spine", named=False),
    Mean("nsd", "nsd", f"tau={TOLERANCES_MM[0]}"),
    Mean("id_case", "id"),
    *(Mean(f"error_{term}", f"error_{term}") for term in ERROR_TERMS),
)


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
    return {
        **_ap_results(scores, resamples),
        **_count_results(scores, resamples),
        **_mean_results(scores, resamples),
        **_identification_results(scores, resamples),
        **_median_results(scores, resamples),
    }


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
    for mean in MEANS:
        if mean.named and not scores.named:
            results[mean.name] = dict(NOT_APPLICABLE)
            continue
        found = subject_values(metric_rows(scores.rows, mean.metric, mean.parameter, statuses=mean.statuses))
        values = np.array([found[subject] for subject in sorted(found)], np.float64)
        results[mean.name] = _entry(mean_statistic(values), len(values), len(values), resamples, mean_of=values)
    return results


def _identification_results(scores: SplitScores, resamples: int) -> Results:
    if not scores.named:
        return {name: dict(NOT_APPLICABLE) for name in ("id", "id_precision", "id_f1", "all_right")}
    names = ("identified_levels", "visible_levels", "predicted_levels")
    table = subject_sums(scores.rows, names, scores.subjects)
    # Who shows no level and was given none is no unit of these rates.
    right, visible, predicted = table[table.any(axis=1)].T
    n = len(right)
    ratios = {
        "id": ratio_statistic(right, visible),
        "id_precision": ratio_statistic(right, predicted),
        "id_f1": ratio_statistic(2 * right, visible + predicted),
    }
    results = {name: _entry(statistic, n, n, resamples) for name, statistic in ratios.items()}
    of_subjects = list(subject_values(metric_rows(scores.rows, "all_right")).values())
    share = float(np.mean(of_subjects)) if of_subjects else float("nan")
    entry = dict(NOT_APPLICABLE)
    if of_subjects:
        ends = wilson_interval(share, len(of_subjects))
        entry = {"value": share, "low": ends.low, "high": ends.high, "subjects": len(of_subjects)}
        entry["levels"] = float(np.mean(list(subject_values(metric_rows(scores.rows, "visible_levels")).values())))
    return {**results, "all_right": entry}


def _median_results(scores: SplitScores, resamples: int) -> Results:
    results: Results = {}
    for name in MEDIANS:
        if not scores.named and name != "d_free_mm":
            results[name] = dict(NOT_APPLICABLE)
            continue
        rows = metric_rows(scores.rows, name)
        found = share_found(rows)
        values = per_subject_and_level(rows)
        if values.empty:
            results[name] = {**NOT_APPLICABLE, **({"found": found} if np.isfinite(found) else {})}
            continue
        numbers, who = values["value"].to_numpy(np.float64), values["subject"].astype("category")
        n = len(who.cat.categories)
        ends = NO_INTERVAL
        if n >= MEDIAN_SUBJECTS:
            ends = interval(median_statistic(numbers, who.cat.codes.to_numpy(np.int64)), n, resamples=resamples)
        low, middle, high = np.percentile(numbers, (25, 50, 75)).tolist()
        entry = {"value": middle, "low": ends.low, "high": ends.high, "subjects": n}
        results[name] = entry | {"quartiles": [low, high], "found": found}
    return results


def _entry(
    statistic: Statistic, n: int, subjects: int, resamples: int, *, mean_of: Floats | None = None
) -> dict[str, Any]:
    if n == 0 or not np.isfinite(value := float(statistic(np.ones((1, n)))[0])):
        return dict(NOT_APPLICABLE)
    found = interval(statistic, n, mean_of=mean_of, resamples=resamples)
    return {"value": value, "low": found.low, "high": found.high, "subjects": subjects}


def metric_rows(
    rows: pd.DataFrame, metric: str, parameter: str = "", *, statuses: Collection[str] = COUNTED
) -> pd.DataFrame:
    """Rows of one metric with one of some statuses; by default those that a mean over reference levels takes."""
    return rows[(rows["metric"] == metric) & (rows["parameter"] == parameter) & rows["status"].isin(statuses)]
