"""From a detector's raw output to detections: suppression, and masks on any grid of pixels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from spineseg.metrics.matching import MAX_DETECTIONS
from spineseg.models.yolo import RawDetections
from spineseg.predictions.instances import NMS_IOU
from spineseg.predictions.masks import Crop

SCORE_FLOOR = 0.001  # PROTOCOL 5.7: detectors as they are
# Boxes that enter the suppression: an untrained head passes all anchors, and their pairs would fill the memory.
MAX_CANDIDATES = 3000
# Of the first try: their suppression mostly leaves as many as are asked for, and the rest is never looked at.
FIRST_CANDIDATES = 512


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
    images, anchors, classes = torch.where(raw.scores > score)
    scores = raw.scores[images, anchors, classes]
    order = scores.argsort(descending=True, stable=True)
    order = order[images[order].argsort(stable=True)]
    images, anchors, classes, scores = images[order], anchors[order], classes[order], scores[order]
    boxes = raw.boxes[images, anchors]
    kept, first = [], 0
    for count in torch.bincount(images, minlength=len(raw.scores)).tolist():
        part = slice(first, first + min(count, MAX_CANDIDATES))
        places = boxes[part] if raw.scores.shape[2] == 1 else _apart(boxes[part], classes[part])
        best = _best(places, scores[part].to(places.dtype), iou, limit)
        kept.append(best + first)
        first += count
    lengths, chosen = [len(best) for best in kept], torch.cat(kept)
    images, anchors = images[chosen], anchors[chosen]
    parts = (
        boxes[chosen],
        scores[chosen],
        classes[chosen],
        raw.scores[images, anchors],
        raw.coefficients[images, anchors],
    )
    return [
        SliceDetections(*of_image)
        for of_image in zip(*(torch.split(part, lengths) for part in parts), raw.prototypes, strict=True)
    ]


def _best(boxes: Tensor, scores: Tensor, iou: float, limit: int) -> Tensor:
    """Suppression among boxes by falling score: at most ``limit`` indices.

    What is kept never depends on what scores less, so that a short list's result begins the long one's.
    """
    kept: Tensor = nms(boxes[:FIRST_CANDIDATES], scores[:FIRST_CANDIDATES], iou)
    if len(kept) < limit and len(scores) > FIRST_CANDIDATES:
        kept = nms(boxes, scores, iou)
    return kept[:limit]


def _apart(boxes: Tensor, classes: Tensor) -> Tensor:
    """Boxes (N, 4) moved so that those of different classes never meet; in float64, which loses nothing by the move."""
    if boxes.device.type != "mps":
        boxes = boxes.double()
    if len(boxes) == 0:
        return boxes
    low, high = boxes.min(), boxes.max()
    return boxes + (classes.to(boxes.dtype) * (high - low + 1))[:, None]


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
    return boxes, list(LazyCrops(detections, np.ceil(boxes - 0.5).astype(int), shape, step))


@torch.no_grad()
def draw_in_boxes(detections: SliceDetections, shape: tuple[int, int]) -> tuple[NDArray[np.float64], Sequence[Crop]]:
    """The masks of ``draw``, each on its box alone: boxes (N, 4) y0, z0, y1, z1 and masks as in ``draw_on``.

    They are drawn when asked for.
    """
    boxes = detections.boxes[:, [1, 0, 3, 2]].cpu().numpy().astype(np.float64)
    corners = np.clip(np.ceil(boxes), 0, [shape[0], shape[1], shape[0], shape[1]]).astype(int)
    return boxes, LazyCrops(detections, corners, shape, (1.0, 1.0))


class LazyCrops(Sequence[Crop]):
    """Masks on the pixels of their boxes, each drawn when it is asked for: matching needs few of them.

    Args:
        detections: of one image.
        corners: (N, 4) y0, z0, y1, z1, half-open, in pixels of the grid.
        shape: (Y, Z) of the grid.
        step: network pixels a pixel of the grid along Y and Z.
    """

    def __init__(
        self,
        detections: SliceDetections,
        corners: NDArray[np.int64],
        shape: tuple[int, int],
        step: tuple[float, float],
    ) -> None:
        """Take what the masks are made of to the processor's memory."""
        height, width = detections.prototypes.shape[1:]
        self._rows = _between(shape[0], step[0], height)
        self._columns = _between(shape[1], step[1], width).T
        self._detections, self._corners, self._step = detections, corners, step

    def __len__(self) -> int:
        return len(self._corners)

    @overload
    def __getitem__(self, index: int) -> Crop: ...
    @overload
    def __getitem__(self, index: slice) -> list[Crop]: ...
    def __getitem__(self, index: int | slice) -> Crop | list[Crop]:
        """The mask of one detection, or a list of several."""
        if isinstance(index, slice):
            return list(self.some(range(*index.indices(len(self)))))
        return next(self.some([index]))

    def __iter__(self) -> Iterator[Crop]:
        """All masks in turn."""
        return self.some(range(len(self)))

    def some(self, which: Sequence[int]) -> Iterator[Crop]:
        """The masks of some detections in turn; their logits are one product."""
        if not len(which):
            return
        corners = self._corners[np.asarray(which)]
        reach = self._reach(corners)
        (top, left), (bottom, right) = reach[:, :2].min(axis=0).tolist(), reach[:, 2:].max(axis=0).tolist()
        prototypes = self._detections.prototypes[:, top:bottom, left:right]
        with torch.no_grad():
            chosen = self._detections if len(which) == len(self) else self._detections.take(torch.as_tensor(which))
            logits = mask_logits(replace(chosen, prototypes=prototypes)).cpu().numpy()
        for plane, (y0, z0, y1, z1), (a, c, b, d) in zip(logits, corners.tolist(), reach.tolist(), strict=True):
            if y0 >= y1 or z0 >= z1:
                yield np.zeros((max(y1 - y0, 0), max(z1 - z0, 0)), bool), (y0, z0)
                continue
            upright = self._rows[y0:y1, a:b] @ plane[a - top : b - top, c - left : d - left]
            yield upright @ self._columns[c:d, z0:z1] > 0, (y0, z0)

    def _reach(self, corners: NDArray[np.int64]) -> NDArray[np.int64]:
        """Prototype pixels (N, 4) that the boxes' pixels look at: first along Y and Z, and those after the last."""
        size = np.array(self._detections.prototypes.shape[1:])
        pixels = corners.reshape(-1, 2, 2) - [[0, 0], [1, 1]]
        found = np.floor(np.clip((pixels + 0.5) * self._step / 4 - 0.5, 0, size - 1)).astype(np.int64)
        found[:, 1] = np.minimum(found[:, 1] + 2, size)
        return found.reshape(-1, 4)


@lru_cache(maxsize=16)
def _between(length: int, step: float, count: int) -> NDArray[np.float32]:
    """Rows (length, count) of linear interpolation between prototype pixels, the border repeated."""
    position = np.clip((np.arange(length) + 0.5) * step / 4 - 0.5, 0, count - 1)
    distance = np.abs(position[:, None] - np.arange(count)[None, :])
    return np.asarray(np.clip(1 - distance, 0, None), np.float32)
