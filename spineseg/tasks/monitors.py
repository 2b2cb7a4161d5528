"""In-loop monitors of instance models: mAP and Dice at network pixels, to choose a checkpoint by, not to publish.

A table's numbers come from ``predict`` and ``evaluate``; these leave out their ignore rules and native pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

from spineseg.metrics.detection import average_precision, average_precision_by_class, f1_threshold
from spineseg.metrics.matching import IGNORED, IOU_THRESHOLDS, MAX_DETECTIONS, States, match_batch
from spineseg.models.detections import LazyCrops
from spineseg.predictions.instances import NMS_IOU
from spineseg.predictions.masks import Crop, box_iou

DICE_SCORE = 0.25


@dataclass(frozen=True, eq=False)
class MonitoredSlice:
    """What a slice adds to the monitors, small enough to send between processes.

    Attributes:
        key: case and slice index; monitors are computed in this order, whatever process saw the slice.
        scores: (D,) of all detections; classes: (D,).
        agnostic: (K,) indices that survive class-agnostic suppression.
        masks, boxes: (10, K) states of those, one class.
        named_masks: (10, D) states inside classes.
        references: (G,) classes of the reference instances.
        overlap: pixels of the intersection, the prediction and the reference (all instances as one, score ≥ 0.25).
    """

    key: tuple[str, int]
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]
    agnostic: NDArray[np.int64]
    masks: NDArray[np.int8]
    boxes: NDArray[np.int8]
    named_masks: NDArray[np.int8]
    references: NDArray[np.int64]
    overlap: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Found:
    """Detections of one slice, each mask on its box's pixels alone.

    Attributes:
        boxes: (D, 4) half-open y0, z0, y1, z1 in network pixels.
        scores: (D,).
        classes: (D,).
        crops: D masks (h, w) with the position of their first pixel, none beyond its box.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]
    crops: Sequence[Crop]


def monitor_slice(
    key: tuple[str, int],
    found: Found,
    index_map: NDArray[np.uint8],
    classes: NDArray[np.int64],
    boxes: NDArray[np.float64],
) -> MonitoredSlice:
    """Match one slice's detections with its references.

    The work goes with the detections' boxes, not with the slice; and a mask is drawn only where it can matter: a pair
    counts from an IoU of a half on, which takes a box that holds half of the reference.

    Args:
        key: case and slice index.
        found: the detections.
        index_map: (Y, Z), i + 1 the i-th reference.
        classes: (G,) of the references.
        boxes: (G, 4) y0, z0, y1, z1 in pixels, which hold all of the reference's.
    """
    count = len(classes)
    truth = np.bincount(index_map.ravel(), minlength=count + 1)[1:]
    reachable = (_inside(found.boxes, boxes) >= IOU_THRESHOLDS[0] * truth).any(axis=1)
    sure = found.scores >= DICE_SCORE
    shared, areas = np.zeros((len(found.crops), count)), np.zeros(len(found.crops))
    good = np.zeros(index_map.shape, bool)
    drawn = np.flatnonzero(reachable | sure).tolist()
    crops = found.crops.some(drawn) if isinstance(found.crops, LazyCrops) else (found.crops[i] for i in drawn)
    for i, (crop, (y0, z0)) in zip(drawn, crops, strict=True):
        place = (slice(y0, y0 + crop.shape[0]), slice(z0, z0 + crop.shape[1]))
        if reachable[i]:
            areas[i] = np.count_nonzero(crop)
            shared[i] = np.bincount(index_map[place][crop], minlength=count + 1)[1:]
        if sure[i]:
            good[place] |= crop
    mask_iou = shared / np.maximum(areas[:, None] + truth[None, :] - shared, 1)
    scores = torch.from_numpy(found.scores.astype(np.float32)).double()
    kept = nms(torch.from_numpy(found.boxes), scores, NMS_IOU).numpy()
    ranked = np.argsort(-found.scores, kind="stable")
    same = np.where(found.classes[:, None] == classes[None, :], mask_iou, -1.0)
    by_mask, by_box, named = _match([mask_iou[kept], box_iou(found.boxes, boxes)[kept], same[ranked]])
    named_masks = np.empty_like(named)
    named_masks[:, ranked] = named
    return MonitoredSlice(
        key=key,
        scores=found.scores,
        classes=found.classes,
        agnostic=kept,
        masks=by_mask,
        boxes=by_box,
        named_masks=named_masks,
        references=classes,
        overlap=(int(np.count_nonzero(good & (index_map > 0))), int(np.count_nonzero(good)), int(truth.sum())),
    )


def _inside(boxes: NDArray[np.float64], references: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels (D, G) that each box shares with each reference's, at least: both are rounded outwards."""
    slack = np.array([-1e-2, -1e-2, 1e-2, 1e-2])  # boxes of references come as float32 shares of the image
    (y0, z0, y1, z1), (v0, w0, v1, w1) = (
        [np.floor(low) for low in edges[:2]] + [np.ceil(high) for high in edges[2:]]
        for edges in (boxes.T[:, :, None], (references + slack).T)
    )
    rows = np.maximum(np.minimum(y1, v1) - np.maximum(y0, v0), 0)
    return np.asarray(rows * np.maximum(np.minimum(z1, w1) - np.maximum(z0, w0), 0), np.float64)


def _match(pairs: Sequence[NDArray[np.float64]]) -> list[States]:
    """States (10, D) of several sets of detections with the same references, in one matching; IoU by falling score."""
    limit = max(min(len(iou), MAX_DETECTIONS) for iou in pairs)
    padded = np.full((len(pairs), limit, pairs[0].shape[1]), -1.0)
    for rows, iou in zip(padded, pairs, strict=True):
        rows[: len(iou)] = iou[:limit]
    # Nothing is ignored: what is matched is true, and the rest false.
    found = match_batch(padded, np.zeros((len(pairs), pairs[0].shape[1]), bool)) >= 0
    states = [np.full((found.shape[1], len(iou)), IGNORED, np.int8) for iou in pairs]
    for mine, theirs in zip(states, found, strict=True):
        mine[:, :limit] = theirs[:, : mine.shape[1]]
    return states


def monitors(slices: Sequence[MonitoredSlice], *, num_classes: int) -> dict[str, float]:
    """Pool the slices: mAP50 and mAP50-95 of masks and boxes, Dice, and the score with the best F1.

    A slice that two processes saw counts once. Without a reference instance every mAP is 0, so that a checkpoint is
    never chosen by NaN. ``score_threshold`` is left out where nothing was found that it could be chosen by.
    """
    ordered = sorted({item.key: item for item in slices}.values(), key=lambda item: item.key)
    total = sum(len(item.references) for item in ordered)
    if not total:
        return {"mask_map50": 0.0, "box_map50": 0.0, "mask_map50_95": 0.0, "box_map50_95": 0.0, "dice": 0.0}
    scores = np.concatenate([item.scores[item.agnostic] for item in ordered])
    masks = np.concatenate([item.masks for item in ordered], axis=1)
    boxes = np.concatenate([item.boxes for item in ordered], axis=1)
    mask_ap, box_ap = average_precision(scores, masks, total), average_precision(scores, boxes, total)
    shared, predicted, reference = np.sum([item.overlap for item in ordered], axis=0)
    values = {
        "mask_map50": float(mask_ap[0]),
        "box_map50": float(box_ap[0]),
        "mask_map50_95": float(mask_ap.mean()),
        "box_map50_95": float(box_ap.mean()),
        "dice": float(2 * shared / max(predicted + reference, 1)),
    }
    threshold, best_f1 = f1_threshold(scores, masks[0], total)
    if best_f1 > 0:
        values["score_threshold"] = threshold
    if num_classes > 1:
        counts = np.bincount(np.concatenate([item.references for item in ordered]), minlength=num_classes)
        named = average_precision_by_class(
            np.concatenate([item.scores for item in ordered]),
            np.concatenate([item.named_masks for item in ordered], axis=1)[:1],
            np.concatenate([item.classes for item in ordered]),
            {level: int(n) for level, n in enumerate(counts)},
        )
        values["mask_map50_named"] = float(np.mean([value[0] for value in named.values()]))
    return values
