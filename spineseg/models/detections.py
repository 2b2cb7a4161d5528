"""From a detector's raw output to detections: suppression, and masks on any grid of pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms

from spineseg.metrics.matching import MAX_DETECTIONS
from spineseg.models.yolo import RawDetections
from spineseg.predictions.instances import NMS_IOU

SCORE_FLOOR = 0.001  # PROTOCOL 5.7: detectors as they are
# Boxes that enter the suppression: an untrained head passes all anchors, and their pairs would fill the memory.
MAX_CANDIDATES = 3000

# A mask on its box's pixels, and the position (y, z) of the first one.
Crop = tuple[NDArray[np.bool_], tuple[int, int]]


@dataclass(frozen=True, eq=False)
class SliceDetections:
    """Detections of one image by falling score, masks not yet drawn.

    Attributes:
        boxes: (N, 4) x0, y0, x1, y1 in network pixels.
        scores: (N,) of the detection's class.
        classes: (N,) int64.
        distributions: (N, C) scores of all classes at the same anchor.
        coefficients: (N, 32) of the prototypes.
        prototypes: (32, h, w), each a quarter of the image.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    distributions: Tensor
    coefficients: Tensor
    prototypes: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, which: Tensor) -> "SliceDetections":
        """Choose detections by a boolean mask or indices (K,)."""
        return SliceDetections(
            self.boxes[which],
            self.scores[which],
            self.classes[which],
            self.distributions[which],
            self.coefficients[which],
            self.prototypes,
        )


@dataclass(frozen=True, eq=False)
class Detections:
    """Drawn detections of one image.

    Attributes:
        boxes: (N, 4) half-open y0, z0, y1, z1 in network pixels.
        scores: (N,).
        classes: (N,) int64.
        masks: (N, Y, Z) bool, network pixels.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    masks: Tensor


@torch.no_grad()
def suppress(
    raw: RawDetections, *, score: float = SCORE_FLOOR, iou: float = NMS_IOU, limit: int = MAX_DETECTIONS
) -> list[SliceDetections]:
    """Class-wise non-maximum suppression, an anchor counting once for each class above ``score``.

    Returns:
        One entry an image of the batch, at most ``limit`` detections each.
    """
    found = []
    for image in range(len(raw.scores)):
        anchors, classes = torch.where(raw.scores[image] > score)
        scores = raw.scores[image][anchors, classes]
        if len(scores) > MAX_CANDIDATES:
            best = scores.argsort(descending=True, stable=True)[:MAX_CANDIDATES]
            anchors, classes, scores = anchors[best], classes[best], scores[best]
        kept = batched_nms(raw.boxes[image][anchors], scores, classes, iou)[:limit]
        anchors = anchors[kept]
        found.append(
            SliceDetections(
                raw.boxes[image][anchors],
                scores[kept],
                classes[kept],
                raw.scores[image][anchors],
                raw.coefficients[image][anchors],
                raw.prototypes[image],
            )
        )
    return found


def mask_logits(detections: SliceDetections) -> Tensor:
    """Mask logits (N, h, w) at the prototypes' size, in float32 also under autocast."""
    prototypes = detections.prototypes
    with torch.autocast(prototypes.device.type, enabled=False):
        return (detections.coefficients @ prototypes.flatten(1)).view(-1, *prototypes.shape[1:])


@torch.no_grad()
def draw(detections: SliceDetections, shape: tuple[int, int]) -> Detections:
    """Draw the masks at network pixels (Y, Z) = ``shape``: bilinear logits, cut at the box, positive inside."""
    boxes = detections.boxes
    if len(detections):
        logits = torch.nn.functional.interpolate(mask_logits(detections)[None], shape, mode="bilinear")[0]
        masks = logits > 0
    else:
        masks = boxes.new_zeros((0, *shape), dtype=torch.bool)
    rows = torch.arange(shape[0], device=boxes.device)
    columns = torch.arange(shape[1], device=boxes.device)
    masks &= ((rows >= boxes[:, 1, None]) & (rows < boxes[:, 3, None]))[:, :, None]
    masks &= ((columns >= boxes[:, 0, None]) & (columns < boxes[:, 2, None]))[:, None, :]
    return Detections(boxes[:, [1, 0, 3, 2]], detections.scores, detections.classes, masks)


@torch.no_grad()
def draw_on(
    detections: SliceDetections, shape: tuple[int, int], step: tuple[float, float]
) -> tuple[NDArray[np.float64], Sequence[Crop]]:
    """Draw the masks on another grid of the same slice, each on its box alone.

    Args:
        detections: of one image whose first pixel's outer corner is that of the grid.
        shape: (Y, Z) of the grid.
        step: network pixels a pixel of the grid along Y and Z (below 1 for a finer grid).

    Returns:
        Boxes (N, 4) y0, z0, y1, z1 in the grid's pixels, cut at its border, and for each detection its mask on the
        box's pixels with the position (y, z) of its first one.
    """
    scale = np.array([step[0], step[1], step[0], step[1]])
    boxes = detections.boxes[:, [1, 0, 3, 2]].cpu().numpy().astype(np.float64) / scale
    boxes = np.clip(boxes, 0, [shape[0], shape[1], shape[0], shape[1]])
    # A pixel belongs to a box that holds its centre.
    return boxes, _crops(detections, np.ceil(boxes - 0.5).astype(int), step)


@torch.no_grad()
def draw_in_boxes(detections: SliceDetections, shape: tuple[int, int]) -> tuple[NDArray[np.float64], Sequence[Crop]]:
    """The masks of ``draw``, each on its box alone: boxes (N, 4) y0, z0, y1, z1 and masks as in ``draw_on``."""
    boxes = detections.boxes[:, [1, 0, 3, 2]].cpu().numpy().astype(np.float64)
    corners = np.clip(np.ceil(boxes), 0, [shape[0], shape[1], shape[0], shape[1]]).astype(int)
    return boxes, _crops(detections, corners, (1.0, 1.0))


def _crops(detections: SliceDetections, corners: NDArray[np.int64], step: tuple[float, float]) -> list[Crop]:
    """Masks (h, w) on the pixels from (y0, z0) up to (y1, z1), excluded, each with its first pixel."""
    logits = mask_logits(detections).cpu().numpy()
    height, width = detections.prototypes.shape[1:]
    crops = []
    for (y0, z0, y1, z1), plane in zip(corners.tolist(), logits, strict=True):
        rows = _between(np.arange(y0, y1), step[0], height)
        columns = _between(np.arange(z0, z1), step[1], width)
        crops.append((rows @ plane @ columns.T > 0, (y0, z0)))
    return crops


def _between(pixels: NDArray[np.int64], step: float, count: int) -> NDArray[np.float32]:
    """Rows (len(pixels), count) of linear interpolation between prototype pixels, the border repeated."""
    position = np.clip((pixels + 0.5) * step / 4 - 0.5, 0, count - 1)
    distance = np.abs(position[:, None] - np.arange(count)[None, :])
    return np.asarray(np.clip(1 - distance, 0, None), np.float32)
