"""COCO's greedy matching of detections to references from matrices of IoU.

A detection's state at an IoU threshold is one of ``FALSE_POSITIVE``, ``TRUE_POSITIVE`` and ``IGNORED`` (leaves the
count). Ties, ignore flags and crowds behave as in pycocotools' ``COCOeval``.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

FALSE_POSITIVE: Final = 0
TRUE_POSITIVE: Final = 1
IGNORED: Final = 2

# 0.50:0.05:0.95, as COCO computes them.
IOU_THRESHOLDS: Final[NDArray[np.float64]] = np.linspace(0.5, 0.95, 10)
MAX_DETECTIONS: Final = 100

States = NDArray[np.int8]
Matches = NDArray[np.int64]


def match_batch(
    iou: NDArray[np.float64],
    ignore: NDArray[np.bool_],
    thresholds: NDArray[np.float64] = IOU_THRESHOLDS,
    crowd: NDArray[np.bool_] | None = None,
) -> Matches:
    """Match detections to references greedily, many slices at once.

    Detections choose in falling order of score. Each takes, of the references not yet taken whose IoU reaches the
    threshold, the best counted one (of equals the last), else the best ignored one. Crowds can be taken again.

    Args:
        iou: (S, D, G), detections of a slice by falling score; −1 where a pair cannot match (another class, padding).
        ignore: (S, G), references that neither count as found nor as missed.
        thresholds: (T,), above 0.
        crowd: (S, G), references that may be matched more than once.

    Returns:
        (S, T, D): position of the matched reference, −1 for none.

    >>> match_batch(np.array([[[0.9, 0.6], [0.8, 0.0]]]), np.zeros((1, 2), bool), np.array([0.5])).tolist()
    [[[0, -1]]]
    """
    n_slices, n_detections, _ = iou.shape
    limits = np.minimum(thresholds, 1 - 1e-10)
    matches = np.full((n_slices, len(limits), n_detections), -1, np.int64)
    if 0 in iou.shape:
        return matches
    reached = iou >= limits.min()
    contested = (reached & (reached.sum(axis=2, keepdims=True) > 1)).any(axis=1)
    _match_uncontested(matches, iou, reached & ~contested[:, None, :], limits, crowd)
    if not contested.any():
        return matches
    # Of the detections that reach no reference, or one that only they want, none can change anything here.
    near = (reached & contested[:, None, :]).any(axis=2)
    order = np.argsort(~near, axis=1, kind="stable")[:, : int(near.sum(axis=1).max())]
    nearest = np.take_along_axis(iou, order[:, :, None], axis=1)
    preference = _preference(nearest, ignore)
    reaching = nearest[:, :, None, :] >= limits[:, None]
    free = np.repeat(contested[:, None, :], len(limits), axis=1)
    rows, columns = np.ogrid[:n_slices, : len(limits)]
    for step in range(order.shape[1]):
        rank = np.where(free & reaching[:, step], preference[:, step, None, :], -1)
        best = rank.argmax(axis=2)
        found = rank[rows, columns, best] >= 0
        place = rows, columns, order[:, step, None]
        matches[place] = np.where(found, best, matches[place])
        taken = found if crowd is None else found & ~crowd[rows, best]
        free[rows, columns, best] &= ~taken
    return matches


def _match_uncontested(
    matches: Matches,
    iou: NDArray[np.float64],
    pairs: NDArray[np.bool_],
    limits: NDArray[np.float64],
    crowd: NDArray[np.bool_] | None,
) -> None:
    """Fill ``matches`` (S, T, D) where no choice is to be made: ``pairs`` (S, D, G) are all that reach one another.

    No detection is in two pairs, so that a reference goes to the first whose IoU reaches the threshold: a detection
    gets it at the thresholds up to its IoU and above that of all before it.
    """
    slices, detections, references = np.nonzero(pairs)
    best = np.maximum.accumulate(iou, axis=1)[slices, np.maximum(detections - 1, 0), references]
    free = detections == 0 if crowd is None else (detections == 0) | crowd[slices, references]
    above = np.where(free, -np.inf, best)[:, None] < limits
    found = above & (iou[slices, detections, references][:, None] >= limits)
    matches[slices[:, None], np.arange(len(limits)), detections[:, None]] = np.where(found, references[:, None], -1)


def match_slice(
    iou: NDArray[np.floating],
    scores: ArrayLike,
    *,
    classes: ArrayLike | None = None,
    reference_classes: ArrayLike | None = None,
    ignore: ArrayLike | None = None,
    crowd: ArrayLike | None = None,
    drop: ArrayLike | None = None,
    thresholds: NDArray[np.float64] = IOU_THRESHOLDS,
    max_detections: int = MAX_DETECTIONS,
) -> States:
    """States of the detections of one slice (or image), in the order given.

    Args:
        iou: (D, G) of detections with references.
        scores: (D,); equal scores keep their order.
        classes: (D,) and
        reference_classes: (G,): only pairs of the same class can match; None = one class.
        ignore: (G,), references whose detections are ignored and which are no misses.
        crowd: (G,), references that may be matched more than once (COCO's crowds; flag them ignored too).
        drop: (D,), detections that are ignored when unmatched (COCO's area rule).
        thresholds: (T,).
        max_detections: those of lower rank are ignored.

    Returns:
        (T, D), int8.

    >>> match_slice(np.array([[0.6], [0.7]]), [0.9, 0.8], thresholds=np.array([0.5, 0.65])).tolist()
    [[1, 0], [0, 1]]
    """
    pairs: NDArray[np.float64] = np.array(iou, np.float64)
    n_detections, n_references = pairs.shape
    if classes is not None and reference_classes is not None:
        pairs[np.asarray(classes)[:, None] != np.asarray(reference_classes)[None, :]] = -1
    ignored = _flags(ignore, n_references)
    order = np.argsort(-np.asarray(scores), kind="stable")[:max_detections]
    matches = match_batch(pairs[order][None], ignored[None], thresholds, _flags(crowd, n_references)[None])[0]
    states = np.full((len(thresholds), n_detections), IGNORED, np.int8)
    states[:, order] = states_of(matches, ignored, _flags(drop, n_detections)[order])
    return states


def states_of(matches: Matches, ignore: NDArray[np.bool_], drop: NDArray[np.bool_]) -> States:
    """Turn matches (..., T, D) into states, given ``ignore`` (..., G) of references and ``drop`` (..., D).

    A detection matched to an ignored reference is ignored; so is an unmatched one that is flagged in ``drop``.
    """
    # A last column stands for "no match", so that −1 indexes it.
    padded = np.concatenate([ignore, np.zeros((*ignore.shape[:-1], 1), bool)], axis=-1)
    to_ignored = np.take_along_axis(padded[..., None, :], matches % padded.shape[-1], axis=-1)
    dropped = to_ignored | ((matches < 0) & drop[..., None, :])
    return np.where(dropped, IGNORED, np.where(matches < 0, FALSE_POSITIVE, TRUE_POSITIVE)).astype(np.int8)


def _preference(iou: NDArray[np.float64], ignore: NDArray[np.bool_]) -> NDArray[np.int16]:
    """Rank (S, D, G) of each reference for each detection: counted before ignored, then by IoU, then the later one."""
    counted = np.broadcast_to(~ignore[:, None, :], iou.shape)
    place = np.broadcast_to(np.arange(iou.shape[2]), iou.shape)
    order = np.lexsort((place, iou, counted), axis=-1)
    rank = np.empty(iou.shape, np.int16)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(iou.shape[2], dtype=np.int16), iou.shape), axis=-1)
    return rank


def _flags(values: ArrayLike | None, n: int) -> NDArray[np.bool_]:
    return np.zeros(n, bool) if values is None else np.asarray(values, bool).reshape(n)
