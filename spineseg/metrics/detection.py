"""Average precision and its companions from states of detections (see ``matching``).

Everything here is pooled over slices: concatenate scores and states of all slices, count all references that are not
ignored, then call. No units; all values lie in 0..1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spineseg.metrics.matching import FALSE_POSITIVE, TRUE_POSITIVE

Floats = NDArray[np.float64]
RECALL_POINTS: Final[Floats] = np.linspace(0.0, 1.0, 101)
DEFAULT_SCORE_THRESHOLD: Final = 0.25


def average_precision(scores: ArrayLike, states: ArrayLike, n_reference: int) -> Floats:
    """Average precision, COCO's: mean over 101 recalls r of max {precision at recall ≥ r}, 0 where r is not reached.

    Empty rule: NaN without references; 0 with references and no detection.

    Args:
        scores: (N,); equal scores keep their order.
        states: (..., N), for example (T, N) for T IoU thresholds.
        n_reference: references that are not ignored.

    Returns:
        (...,): one value for each row of states.

    >>> average_precision([0.9, 0.8, 0.7], [1, 0, 1], n_reference=2).round(4).item()
    0.835
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    ranked = np.asarray(states)[..., order]
    return average_precision_ranked(ranked == TRUE_POSITIVE, ranked == FALSE_POSITIVE, n_reference)


def average_precision_ranked(true: ArrayLike, false: ArrayLike, n_reference: float) -> Floats:
    """Average precision of detections that stand in falling order of score.

    Args:
        true: (..., N), 1 for a true positive; a detection drawn k times counts k.
        false: (..., N), the same for false positives; neither = ignored.
        n_reference: references, drawn ones as often as they were drawn.

    Returns:
        (...,), NaN where there is no reference.
    """
    hits = np.cumsum(np.asarray(true, np.float64), axis=-1)
    misses = np.cumsum(np.asarray(false, np.float64), axis=-1)
    if n_reference <= 0:
        return np.full(hits.shape[:-1], np.nan)
    precision = hits / (hits + misses + np.spacing(1))
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    recall = hits / n_reference
    # One column more: the precision of recalls that are never reached.
    envelope = np.concatenate([envelope, np.zeros((*envelope.shape[:-1], 1))], axis=-1)
    value = np.empty(recall.shape[:-1])
    for row in np.ndindex(value.shape):
        value[row] = envelope[row][np.searchsorted(recall[row], RECALL_POINTS, side="left")].mean()
    return value


def average_precision_by_class(
    scores: ArrayLike, states: ArrayLike, classes: ArrayLike, n_reference: Mapping[int, int]
) -> dict[int, Floats]:
    """Average precision of each class that has references.

    Args:
        scores: (N,).
        states: (..., N), from a matching inside classes.
        classes: (N,).
        n_reference: class → references that are not ignored; classes with 0 are left out.

    Returns:
        class → (...,).
    """
    values, found, belongs = np.asarray(scores), np.asarray(states), np.asarray(classes)
    return {
        name: average_precision(values[belongs == name], found[..., belongs == name], count)
        for name, count in n_reference.items()
        if count > 0
    }


def average_precision_constant(states: ArrayLike, n_reference: int, *, seed: int, draws: int = 20) -> float:
    """AP when every score is 1: mean over ``draws`` seeded shuffles of the ranking; shows what the ranking is worth.

    Args:
        states: (N,).
        n_reference: references that are not ignored.
        seed: of the shuffles.
        draws: number of shuffles.
    """
    random = np.random.default_rng(seed)
    found = np.asarray(states)
    shuffled = np.stack([found[random.permutation(found.shape[-1])] for _ in range(draws)])
    ranked = average_precision_ranked(shuffled == TRUE_POSITIVE, shuffled == FALSE_POSITIVE, n_reference)
    return float(ranked.mean())


@dataclass(frozen=True)
class Counts:
    """Detections and references at one IoU and score threshold, and the ratios made of them (NaN for 0 ÷ 0).

    Attributes:
        true: true positives.
        false: false positives.
        missed: references not found.
        iou_sum: IoU of the true positives, summed.

    >>> counts = Counts(true=3, false=1, missed=2, iou_sum=2.4)
    >>> counts.precision, counts.recall, round(counts.f1, 3), round(counts.pq, 3)
    (0.75, 0.6, 0.667, 0.533)
    """

    true: float
    false: float
    missed: float
    iou_sum: float = float("nan")

    @property
    def precision(self) -> float:
        """TP ÷ (TP + FP); NaN without detections."""
        return _ratio(self.true, self.true + self.false)

    @property
    def recall(self) -> float:
        """TP ÷ (TP + FN); NaN without references."""
        return _ratio(self.true, self.true + self.missed)

    @property
    def f1(self) -> float:
        """2 TP ÷ (2 TP + FP + FN); NaN where there is neither."""
        return _ratio(2 * self.true, 2 * self.true + self.false + self.missed)

    @property
    def pq(self) -> float:
        """Panoptic quality, Σ IoU of TP ÷ (TP + FP ÷ 2 + FN ÷ 2) (Kirillov 2019); NaN where there is neither."""
        return _ratio(self.iou_sum, self.true + self.false / 2 + self.missed / 2)


def count_states(states: ArrayLike, n_reference: int, iou: ArrayLike | None = None) -> Counts:
    """Count states (N,) at one IoU threshold.

    Args:
        states: (N,).
        n_reference: references that are not ignored.
        iou: (N,), IoU of each detection with its match, for PQ.
    """
    found = np.asarray(states)
    hits = found == TRUE_POSITIVE
    total = float("nan") if iou is None else float(np.asarray(iou, np.float64)[hits].sum())
    true = int(hits.sum())
    return Counts(true, int((found == FALSE_POSITIVE).sum()), n_reference - true, total)


def f1_threshold(scores: ArrayLike, states: ArrayLike, n_reference: int) -> tuple[float, float]:
    """Score threshold t (detections ≥ t stay) with the best F1, and that F1; of equals the highest t.

    Greedy matching and exclusive pasting go by falling score, so that the states of the detections above t are those
    that a run at t would give: one table is enough. Empty rule: without a true positive (0.25, 0).

    Args:
        scores: (N,).
        states: (N,), at IoU 0.5.
        n_reference: references that are not ignored.

    >>> f1_threshold([0.9, 0.8, 0.7, 0.2], [1, 0, 1, 0], n_reference=2)
    (0.7, 0.8)
    """
    values, found = np.asarray(scores), np.asarray(states)
    order = np.argsort(-values, kind="stable")
    values, found = values[order], found[order]
    hits, misses = np.cumsum(found == TRUE_POSITIVE), np.cumsum(found == FALSE_POSITIVE)
    if n_reference <= 0 or len(hits) == 0 or hits[-1] == 0:
        return DEFAULT_SCORE_THRESHOLD, 0.0
    # Only the last of equal scores is a threshold: the others would part what t cannot part.
    last = np.append(values[1:] != values[:-1], True)
    f1 = np.where(last, 2 * hits / (hits + misses + n_reference), -1.0)
    best = int(f1.argmax())
    return float(values[best]), float(f1[best])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")
