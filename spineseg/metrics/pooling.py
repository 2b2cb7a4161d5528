"""Average precision and counts of a whole split from its detections table (``slices``), for any draw of subjects."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spineseg.metrics.detection import RECALL_POINTS, average_precision_constant
from spineseg.metrics.detections_table import REFERENCE, DetectionSet, Shape, state_columns
from spineseg.metrics.intervals import Statistic
from spineseg.metrics.matching import FALSE_POSITIVE, IOU_THRESHOLDS, TRUE_POSITIVE
from spineseg.metrics.means import LEAST_SUBJECTS_PER_LEVEL

Floats = NDArray[np.float64]
# True and false positives (R, n) by subject up to each place of a ranking.
_Runs = tuple[NDArray[np.float32], NDArray[np.float32]]
_TABLE: Final = 1 << 15


def subjects_of(table: pd.DataFrame) -> tuple[str, ...]:
    """Subjects that occur in a table, sorted; give a split's own list where a subject may have no row."""
    return tuple(sorted(str(subject) for subject in table["subject"].unique()))


def named_levels(table: pd.DataFrame, subjects: Sequence[str]) -> tuple[tuple[int, ...], bool]:
    """Levels of the named mean, fixed by the reference, and whether all levels had to be taken.

    Levels with counted reference instances in ≥ 3 subjects; with fewer than 3 subjects every level that occurs.
    """
    rows = table[(table["set"] == REFERENCE) & table["counted"] & table["subject"].isin(subjects)]
    spread = rows.groupby("level", observed=True)["subject"].nunique()
    every = len(subjects) < LEAST_SUBJECTS_PER_LEVEL
    kept = spread.index if every else spread.index[spread >= LEAST_SUBJECTS_PER_LEVEL]
    return tuple(sorted(int(level) for level in kept)), every


def ap_from_detections(
    table: pd.DataFrame,
    *,
    which: DetectionSet,
    shape: Shape,
    named: bool,
    levels: Sequence[int] | None = None,
    subjects: Sequence[str] | None = None,
) -> Floats:
    """Average precision (10,) at IoU 0.50:0.05:0.95, pooled over all slices of all subjects.

    Args:
        table: detections and references, as ``detections.parquet`` holds them.
        which: exclusive map or the detections as they are.
        shape: IoU of masks or of boxes.
        named: mean over levels, or one class.
        levels: of the named mean; None = ``named_levels``.
        subjects: None = all of the table.
    """
    people = subjects_of(table) if subjects is None else tuple(subjects)
    pool = ApPool.build(table, people, which=which, shape=shape, named=named, levels=levels)
    return cast(Floats, pool.values(np.ones((1, len(people))))[0])


@dataclass(frozen=True, eq=False)
class ApPool:
    """Ranked detections of a split, ready for average precision under any weights of its n subjects.

    Attributes:
        classes: for each class (one, or the levels) the subject (N,) and states (10, N) of its detections by falling
            score, and its reference instances (n,) by subject.
        n: subjects.
    """

    classes: tuple[tuple[NDArray[np.int64], NDArray[np.int8], Floats], ...]
    n: int

    @classmethod
    def build(
        cls,
        table: pd.DataFrame,
        subjects: Sequence[str],
        *,
        which: DetectionSet,
        shape: Shape,
        named: bool,
        levels: Sequence[int] | None = None,
    ) -> "ApPool":
        """Rank the detections of one set; see ``ap_from_detections``."""
        number = pd.Categorical(table["subject"].astype(str), categories=list(subjects)).codes.astype(np.int64)
        kind, level = table["set"].to_numpy(str), table["level"].to_numpy(np.int64)
        references = (kind == REFERENCE) & table["counted"].to_numpy(bool) & (number >= 0)
        states = table[state_columns(shape, named=named)].to_numpy(np.int8).T
        score = table["score"].to_numpy(np.float64)
        counts = (states == TRUE_POSITIVE) | (states == FALSE_POSITIVE)
        found = np.flatnonzero((kind == which) & (number >= 0) & counts.any(axis=0))
        found = found[np.argsort(-score[found], kind="stable")]
        chosen: Sequence[int | None] = [None]
        if named:
            chosen = list(named_levels(table, subjects)[0] if levels is None else levels)
        classes = []
        for name in chosen:
            rows = found if name is None else found[level[found] == name]
            truth = references if name is None else references & (level == name)
            total = np.bincount(number[truth], minlength=len(subjects)).astype(np.float64)
            classes.append((number[rows], states[:, rows], total))
        return cls(tuple(classes), len(subjects))

    def values(self, weights: Floats) -> Floats:
        """AP (B, 10), mean over the classes, when subject i counts ``weights[b, i]`` times (a whole number).

        NaN where there is no reference.
        """
        if not self.classes:
            return np.full((len(weights), len(IOU_THRESHOLDS)), np.nan)
        each: Floats = np.stack(
            [
                self._class_values(ranked, total, weights)
                for ranked, (_, _, total) in zip(self._ranked, self.classes, strict=True)
            ]
        )
        known = np.isfinite(each)
        total: Floats = np.where(known, each, 0).sum(axis=0)
        return cast(
            Floats, np.divide(total, known.sum(axis=0), out=np.full_like(total, np.nan), where=known.any(axis=0))
        )

    @cached_property
    def _ranked(self) -> tuple[tuple[_Runs, ...], ...]:
        """Runs of each class at each IoU threshold; made once, for all draws."""
        return tuple(tuple(_runs(subject, row, self.n) for row in states) for subject, states, _ in self.classes)

    def _class_values(self, ranked: Sequence[_Runs], total: Floats, weights: Floats) -> Floats:
        n_reference = weights @ total
        found = np.zeros((len(weights), len(ranked)))
        for t, (hits, misses) in enumerate(ranked):
            # So many draws at once that their tables stay in the processor's cache.
            step = max(1, _TABLE // max(1, len(hits)))
            for start in range(0, len(weights), step):
                part = weights[start : start + step].astype(np.float32)
                found[start : start + step, t] = _precision_means(
                    part @ hits.T, part @ misses.T, n_reference[start : start + step]
                )
        found[n_reference <= 0] = np.nan
        return found

    def statistic(self, *, threshold: int | None) -> Statistic:
        """AP at one IoU threshold by its number, or the mean over all ten (None), as a statistic of subjects."""
        if threshold is None:
            return lambda weights: self.values(weights).mean(axis=1)
        only = ApPool(tuple((s, states[[threshold]], total) for s, states, total in self.classes), self.n)
        return lambda weights: only.values(weights)[:, 0]


def constant_ap50(pool: ApPool, *, seed: int = 0) -> float:
    """Mean over the classes of AP50 with all scores 1 (``average_precision_constant``)."""
    values = [average_precision_constant(states[0], int(total.sum()), seed=seed) for _, states, total in pool.classes]
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def counts_by_subject(table: pd.DataFrame, subjects: Sequence[str]) -> Floats:
    """True, false and missed instances and Σ IoU (n, 4) of each subject: exclusive map, agnostic, mask IoU 0.5."""
    column, people = state_columns("mask", named=False)[0], list(subjects)
    rows = table[table["set"] == "exclusive"]
    of = rows["subject"].astype(str)
    references = table[(table["set"] == REFERENCE) & table["counted"]]["subject"].astype(str).value_counts()
    true = of[rows[column] == TRUE_POSITIVE].value_counts().reindex(people, fill_value=0)
    false = of[rows[column] == FALSE_POSITIVE].value_counts().reindex(people, fill_value=0)
    iou = rows["iou"].where(rows[column] == TRUE_POSITIVE, 0).groupby(of).sum().reindex(people, fill_value=0)
    missed = references.reindex(people, fill_value=0) - true
    return np.stack([part.to_numpy(np.float64) for part in (true, false, missed, iou)], axis=1)


def _runs(subject: NDArray[np.int64], row: NDArray[np.int8], n: int) -> _Runs:
    """True and false positives (R, n) of each subject up to the end of each run of true positives.

    Precision rises within a run and falls between runs: the envelope needs the ends of runs only, and what stands
    before each, counted by subject, turns any weights of subjects into one product of matrices.

    Args:
        subject: (N,) of the detections by falling score.
        row: (N,) their states at one IoU threshold.
        n: subjects.
    """
    relevant = np.flatnonzero((row == TRUE_POSITIVE) | (row == FALSE_POSITIVE))
    true = row[relevant] == TRUE_POSITIVE
    ends = true & np.append(~true[1:], np.ones(min(1, len(true)), bool))
    count = int(ends.sum())
    # What follows the last run matters to no recall that is reached.
    place = (np.cumsum(ends) - ends) * n + subject[relevant]

    def running(which: NDArray[np.bool_]) -> NDArray[np.float32]:
        at = np.bincount(place[which], minlength=(count + 1) * n).reshape(-1, n)
        return np.cumsum(at[:count], axis=0).astype(np.float32)

    return running(true), running(~true)


def _precision_means(hits: NDArray[np.float32], misses: NDArray[np.float32], n_reference: Floats) -> Floats:
    """Mean (B,) of the precision envelope at the recall points, from hits and misses (B, R) at the ends of runs."""
    draws, runs = hits.shape
    # One column more: the precision of recalls that are never reached.
    precision = np.zeros((draws, runs + 1))
    np.divide(hits, hits + misses + np.spacing(1), out=precision[:, :-1], dtype=np.float64)
    total = np.maximum(n_reference, 1)[:, None]
    needed = np.ceil(RECALL_POINTS * total)
    # The least number of hits whose recall, as it is rounded, reaches the point.
    needed -= (needed - 1) / total >= RECALL_POINTS
    needed += needed / total < RECALL_POINTS
    # All draws are one ascending row: each is lifted above what the draw before it holds or asks for.
    above = 2 + max(float(needed.max(initial=0)), float(hits.max(initial=0)))
    lift = above * np.arange(draws)[:, None]
    ladder = np.empty((draws, runs + 1))
    np.add(hits, lift, out=ladder[:, :-1])
    ladder[:, -1:] = lift + above - 1
    # The first place of a draw is that of recall 0, so that no segment reaches into the next draw.
    places = np.searchsorted(ladder.ravel(), (needed.clip(min=0) + lift).ravel(), side="left")
    best = np.maximum.reduceat(precision.ravel(), places).reshape(draws, -1)
    envelope = np.maximum.accumulate(best[:, ::-1], axis=1)
    return cast(Floats, envelope.sum(axis=1) / len(RECALL_POINTS))
