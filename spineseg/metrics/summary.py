"""From the rows and detections of all cases to the numbers of a results table, with their intervals."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from spineseg.metrics.case_rows import ERROR_TERMS, TOLERANCES_MM
from spineseg.metrics.detection import Counts
from spineseg.metrics.detections_table import DetectionSet, Shape
from spineseg.metrics.entries import NOT_APPLICABLE as NOT_APPLICABLE
from spineseg.metrics.entries import Results as Results
from spineseg.metrics.entries import entry_of, mean_entry, median_entry, statistic_entry
from spineseg.metrics.intervals import NO_INTERVAL, RESAMPLES, Floats, Statistic, ratio_statistic, wilson_interval
from spineseg.metrics.means import subject_sums, subject_values
from spineseg.metrics.pooling import ApPool, constant_ap50, counts_by_subject

COUNTED: Final = ("ok", "missed")
# Which detections, whether by name, and what that adds to a name.
AP_SETS: Final[tuple[tuple[DetectionSet, bool, str], ...]] = (
    ("exclusive", False, ""),
    ("exclusive", True, "_named"),
    ("native", False, "_native"),
)
SHAPES: Final[tuple[Shape, ...]] = ("mask", "box")
# Beside AP without a ranking: the cell says so (PROTOCOL 5.6).
UNRANKED: Final = "all 1"
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

    @property
    def unranked(self) -> bool:
        """Whether the model gave no probabilities, so that all scores of the exclusive map are 1."""
        found = self.detections[self.detections["set"] == "exclusive"]
        return not self.detector and bool((found["score"] == 1).all())


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
    def pools(which: DetectionSet, shape: Shape, named: bool) -> list[ApPool]:
        return [ApPool.build(scores.detections, scores.subjects, which=which, shape=shape, named=named)]

    return ap_results(
        pools,
        len(scores.subjects),
        named=scores.named,
        detector=scores.detector,
        unranked=scores.unranked,
        resamples=resamples,
    )


def ap_results(
    pools_of: Callable[[DetectionSet, Shape, bool], Sequence[ApPool]],
    subjects: int,
    *,
    named: bool,
    detector: bool,
    unranked: bool,
    resamples: int,
) -> Results:
    """Every AP with its interval, and the AP50 of equal scores beside those of the exclusive map (PROTOCOL 5).

    Args:
        pools_of: a pool for each seed, each of the same subjects; the result is the mean over them.
        subjects: how many there are.
        named: whether predictions are named.
        detector: whether there are detections as they are.
        unranked: whether all scores are 1.
        resamples: of the bootstrap.
    """
    results: Results = {}
    for which, by_name, suffix in AP_SETS:
        for shape in SHAPES:
            names = (f"{shape}_map50{suffix}", f"{shape}_map50_95{suffix}")
            if (by_name and not named) or (which == "native" and not detector):
                constant = (constant_name(shape, suffix),) if which == "exclusive" else ()
                results |= {name: dict(NOT_APPLICABLE) for name in (*names, *constant)}
                continue
            pools = pools_of(which, shape, by_name)
            for name, threshold in zip(names, (0, None), strict=True):
                statistic = mean_of_statistics([pool.statistic(threshold=threshold) for pool in pools])
                results[name] = statistic_entry(statistic, subjects, resamples)
                if which == "exclusive" and unranked and results[name]["value"] is not None:
                    results[name]["scores"] = UNRANKED
            if which == "exclusive":
                constants = float(np.mean([constant_ap50(pool) for pool in pools]))
                results[constant_name(shape, suffix)] = entry_of(constants, NO_INTERVAL, subjects)
    return results


def mean_of_statistics(statistics: Sequence[Statistic]) -> Statistic:
    """Mean of several statistics of the same subjects."""

    def of(weights: Floats) -> Floats:
        mean: Floats = np.mean([statistic(weights) for statistic in statistics], axis=0)
        return mean

    return of


def constant_name(shape: str, suffix: str) -> str:
    """Name of the AP50 with all scores 1 of an exclusive pool (PROTOCOL 5.8).

    >>> constant_name("mask", ""), constant_name("box", "_named")
    ('ap50_constant', 'box_ap50_constant_named')
    """
    return f"{'box_' if shape == 'box' else ''}ap50_constant{suffix}"


def component_results(detections: pd.DataFrame, subjects: Sequence[str], resamples: int = RESAMPLES) -> Results:
    """Agnostic AP of the exclusive map by 8-connected parts (PROTOCOL 5.2).

    Args:
        detections: of ``slices.score_slices`` by part, with the column subject.
        subjects: everybody in the split.
        resamples: of the intervals from 20 subjects on.
    """
    results: Results = {}
    shapes: tuple[Shape, ...] = ("mask", "box")
    for shape in shapes:
        pool = ApPool.build(detections, subjects, which="exclusive", shape=shape, named=False)
        for name, threshold in ((f"{shape}_map50", 0), (f"{shape}_map50_95", None)):
            results[name] = statistic_entry(pool.statistic(threshold=threshold), len(subjects), resamples)
    return results


def _count_results(scores: SplitScores, resamples: int) -> Results:
    table = counts_by_subject(scores.detections, scores.subjects)
    n = len(scores.subjects)

    def statistic(metric: str) -> Statistic:
        def of(weights: Floats) -> Floats:
            return np.array([getattr(Counts(*sums), metric) for sums in (weights @ table).tolist()])

        return of

    return {metric: statistic_entry(statistic(metric), n, resamples) for metric in ("precision", "recall", "f1", "pq")}


def _mean_results(scores: SplitScores, resamples: int) -> Results:
    results: Results = {}
    for mean in MEANS:
        if mean.named and not scores.named:
            results[mean.name] = dict(NOT_APPLICABLE)
            continue
        rows = metric_rows(scores.rows, mean.metric, mean.parameter, statuses=mean.statuses)
        results[mean.name] = mean_entry(rows, resamples)
    return results


def _identification_results(scores: SplitScores, resamples: int) -> Results:
    if not scores.named:
        return {name: dict(NOT_APPLICABLE) for name in ("id", "id_precision", "id_f1", "all_right")}
    names = ("identified_levels", "visible_levels", "predicted_levels")
    table = subject_sums(scores.rows, names, scores.subjects)
    right, visible, predicted = table.T
    ratios = {"id": (right, visible), "id_precision": (right, predicted), "id_f1": (2 * right, visible + predicted)}
    results: Results = {}
    for name, (part, whole) in ratios.items():
        # Who has nothing of what is divided by is no unit of the rate.
        units = whole > 0
        statistic = ratio_statistic(part[units], whole[units])
        results[name] = statistic_entry(statistic, int(units.sum()), resamples)
    if (scores.rows["metric"] == "point_levels").any():
        results["id_points"] = _point_rate(scores, resamples)
    of_subjects = list(subject_values(metric_rows(scores.rows, "all_right")).values())
    if not of_subjects:
        return {**results, "all_right": dict(NOT_APPLICABLE)}
    share = float(np.mean(of_subjects))
    entry = entry_of(share, wilson_interval(share, len(of_subjects)), len(of_subjects))
    entry["levels"] = float(np.mean(list(subject_values(metric_rows(scores.rows, "visible_levels")).values())))
    return {**results, "all_right": entry}


def _point_rate(scores: SplitScores, resamples: int) -> dict[str, object]:
    """Identification against the set's own points, over the cases that have some."""
    table = subject_sums(scores.rows, ("identified_point_levels", "point_levels"), scores.subjects)
    right, levels = table[table[:, 1] > 0].T
    return {**statistic_entry(ratio_statistic(right, levels), len(right), resamples), "point_levels": int(levels.sum())}


def _median_results(scores: SplitScores, resamples: int) -> Results:
    return {
        name: median_entry(metric_rows(scores.rows, name), resamples)
        if scores.named or name == "d_free_mm"
        else dict(NOT_APPLICABLE)
        for name in MEDIANS
    }


def metric_rows(
    rows: pd.DataFrame, metric: str, parameter: str = "", *, statuses: Collection[str] = COUNTED
) -> pd.DataFrame:
    """Rows of one metric with one of some statuses; by default those that a mean over reference levels takes."""
    return rows[(rows["metric"] == metric) & (rows["parameter"] == parameter) & rows["status"].isin(statuses)]
