"""Instances of one sagittal slice: masks, scores, levels, boxes; and the exclusive map made of them.

Frame: slice = index along X of the case's grid in canonical RAS+; masks (Y, Z). One instance is all pixels of one
vertebra in the slice, several parts allowed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spineseg.errors import DataError
from spineseg.predictions.masks import (
    Floats,
    Mask,
    Rle,
    areas_px,
    box_iou,
    decode_box,
    encode_crop,
    encode_stack,
    hulls,
)

UNNAMED = 0
NMS_IOU = 0.7


@dataclass(frozen=True, eq=False)
class SliceInstances:
    """Instances of the slice ``index``, in any order.

    Attributes:
        index: position along X in the canonical frame.
        size: (Y, Z) of the slice.
        masks: N run-length masks of that size.
        scores: (N,) float32, 0 to 1.
        levels: (N,) canonical level ids, 0 where the model names none.
        boxes: (N, 4) half-open (y0, z0, y1, z1) in pixels; a detector's own, else the masks' hulls.
        probabilities: (N, K) over ``classes``, or None.
        classes: K level ids that the columns of ``probabilities`` stand for.
    """

    index: int
    size: tuple[int, int]
    masks: tuple[Rle, ...]
    scores: NDArray[np.float32]
    levels: NDArray[np.int64]
    boxes: Floats
    probabilities: NDArray[np.float32] | None = None
    classes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check that all parts speak of the same number of instances and of one slice."""
        n = len(self.masks)
        object.__setattr__(self, "size", (int(self.size[0]), int(self.size[1])))
        object.__setattr__(self, "scores", np.asarray(self.scores, np.float32).reshape(-1))
        object.__setattr__(self, "levels", np.asarray(self.levels, np.int64).reshape(-1))
        object.__setattr__(self, "boxes", np.asarray(self.boxes, np.float64).reshape(-1, 4))
        if not len(self.scores) == len(self.levels) == len(self.boxes) == n:
            raise DataError(
                f"slice {self.index}: {n} masks, {len(self.scores)} scores, {len(self.levels)} levels and "
                f"{len(self.boxes)} boxes; expected one of each an instance"
            )
        if wrong := [rle["size"] for rle in self.masks if tuple(rle["size"]) != self.size]:
            raise DataError(f"slice {self.index}: a mask of size {wrong[0]}; expected [Y, Z] = {list(self.size)}")
        if not np.isfinite(self.scores).all():
            raise DataError(f"slice {self.index}: a score is not a finite number")
        if self.probabilities is not None and self.probabilities.shape != (n, len(self.classes)):
            raise DataError(
                f"slice {self.index}: class distributions of shape {self.probabilities.shape}; "
                f"expected {(n, len(self.classes))} from {n} instances and {len(self.classes)} classes"
            )

    def __len__(self) -> int:
        return len(self.masks)

    def take(self, which: ArrayLike) -> "SliceInstances":
        """Choose instances by a boolean mask (N,) or by indices, in that order."""
        chosen = np.asarray(which)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        return replace(
            self,
            masks=tuple(self.masks[i] for i in chosen),
            scores=self.scores[chosen],
            levels=self.levels[chosen],
            boxes=self.boxes[chosen],
            probabilities=None if self.probabilities is None else self.probabilities[chosen],
        )

    def with_masks(self, masks: Sequence[Rle]) -> "SliceInstances":
        """The same instances with other masks and their hulls as boxes; instances whose mask is empty go."""
        kept = areas_px(masks) > 0
        return replace(self, masks=tuple(masks), boxes=hulls(masks)).take(kept)


def from_masks(
    index: int,
    masks: Mask,
    scores: ArrayLike,
    *,
    levels: ArrayLike | None = None,
    boxes: ArrayLike | None = None,
    probabilities: NDArray[np.float32] | None = None,
    classes: tuple[int, ...] = (),
) -> SliceInstances:
    """Make instances from dense masks (N, Y, Z).

    Args:
        index: the slice's position along X.
        masks: (N, Y, Z), bool; they may overlap.
        scores: (N,).
        levels: (N,) canonical ids; None = unnamed.
        boxes: (N, 4) half-open in pixels; None = the masks' hulls.
        probabilities: (N, K) over ``classes``.
        classes: level ids of the columns.
    """
    runs = encode_stack(masks)
    return SliceInstances(
        index=index,
        size=(masks.shape[1], masks.shape[2]),
        masks=runs,
        scores=np.asarray(scores, np.float32),
        levels=np.zeros(len(runs), np.int64) if levels is None else np.asarray(levels, np.int64),
        boxes=hulls(runs) if boxes is None else np.asarray(boxes, np.float64),
        probabilities=probabilities,
        classes=classes,
    )


def nms_agnostic(instances: SliceInstances, iou: float = NMS_IOU) -> SliceInstances:
    """Suppress, over all classes, each instance whose box overlaps that of a better one by more than ``iou``.

    Boxes, as in detectors (not masks). The result stands in falling order of score; ties keep their order.
    """
    return instances.take(nms_keep(instances.boxes, instances.scores, iou))


def nms_keep(boxes: Floats, scores: NDArray[np.float32], iou: float = NMS_IOU) -> NDArray[np.int64]:
    """Indices that survive class-agnostic suppression of boxes (N, 4), by falling score; ties keep their order.

    >>> nms_keep(np.array([[0.0, 0, 9, 10], [0, 0, 10, 10], [20, 0, 30, 10]]), np.array([0.5, 0.9, 0.1])).tolist()
    [1, 2]
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    clash = box_iou(boxes[order], boxes[order]) > iou
    kept = np.ones(len(order), bool)
    for i in range(len(order)):
        if kept[i]:
            kept[i + 1 :] &= ~clash[i, i + 1 :]
    return order[kept]


def exclusive(instances: SliceInstances, score_threshold: float, *, named: bool) -> SliceInstances:
    """Make detections an instance map (PROTOCOL 5.6): no pixel belongs to two.

    Class-agnostic suppression at 0.7; detections of at least ``score_threshold`` are pasted by falling score, a pixel
    is given once. A named model keeps a level once, the best. A detection's mask is what it then owns, its box the
    hull of that; what owns nothing goes. Detections of a lower threshold never change those above it.

    Args:
        instances: a detector's output in one slice.
        score_threshold: the t of predictions.json.
        named: whether levels are classes (each once) or there is one class only.
    """
    found = nms_agnostic(instances.take(instances.scores >= score_threshold))
    if named:
        found = found.take(np.sort(np.unique(found.levels, return_index=True)[1]))
    if len(found) < 2:
        return found.with_masks(found.masks)
    free = np.ones(found.size, bool)
    owned = []
    for rle, (y0, z0, y1, z1) in zip(found.masks, hulls(found.masks).astype(int), strict=True):
        crop = decode_box(rle, (y0, z0, y1, z1)) & free[y0:y1, z0:z1]
        free[y0:y1, z0:z1] &= ~crop
        owned.append(encode_crop(crop, (y0, z0), found.size))
    return found.with_masks(owned)
