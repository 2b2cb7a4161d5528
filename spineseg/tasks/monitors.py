"""In-loop monitors of instance models: mAP and Dice at network pixels, to choose a checkpoint by, not to publish.

A table's numbers come from ``predict`` and ``evaluate``; these leave out their ignore rules and native pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spineseg.metrics.detection import average_precision, average_precision_by_class, f1_threshold
from spineseg.metrics.matching import match_slice
from spineseg.models.detections import Detections
from spineseg.predictions.instances import nms_keep

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


@torch.no_grad()
def monitor_slice(
    key: tuple[str, int], found: Detections, index_map: Tensor, classes: Tensor, boxes: Tensor
) -> MonitoredSlice:
    """Match one slice's detections with its references.

    Args:
        key: case and slice index.
        found: drawn detections.
        index_map: (Y, Z), i + 1 the i-th reference.
        classes: (G,) of the references.
        boxes: (G, 4) y0, z0, y1, z1 in pixels.
    """
    count = len(classes)
    truth = torch.nn.functional.one_hot(index_map.long().flatten(), count + 1)[:, 1:].float()  # (Y Z, G)
    masks = found.masks.flatten(1).float()  # (D, Y Z)
    # Under autocast the product would be rounded to 8 bits: pixel counts need all of float32's.
    with torch.autocast(masks.device.type, enabled=False):
        shared = masks @ truth
    union = masks.sum(1)[:, None] + truth.sum(0)[None, :] - shared
    mask_iou = (shared / union.clamp(min=1)).cpu().double().numpy()
    box_iou = _box_iou(found.boxes, boxes).cpu().double().numpy()
    scores = found.scores.cpu().double().numpy()
    named, references = found.classes.cpu().numpy(), classes.long().cpu().numpy()
    kept = nms_keep(found.boxes.cpu().double().numpy(), scores.astype(np.float32))
    union_of_good = found.masks[found.scores >= DICE_SCORE].any(0)
    reference = index_map > 0
    return MonitoredSlice(
        key=key,
        scores=scores,
        classes=named,
        agnostic=kept,
        masks=match_slice(mask_iou[kept], scores[kept]),
        boxes=match_slice(box_iou[kept], scores[kept]),
        named_masks=match_slice(mask_iou, scores, classes=named, reference_classes=references),
        references=references,
        overlap=(
            int((union_of_good & reference).sum()),
            int(union_of_good.sum()),
            int(reference.sum()),
        ),
    )


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


def _box_iou(a: Tensor, b: Tensor) -> Tensor:
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(1) for box in (a, b)]
    return shared / (areas[0][:, None] + areas[1][None, :] - shared).clamp(min=1e-9)
