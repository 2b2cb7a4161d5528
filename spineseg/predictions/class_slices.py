"""Sagittal slices of a network's label map: each class of a slice as one instance.

Class indices: 0 is background, i + 1 the i-th class.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.masks import Crop, encode_crop


class SliceClasses(NamedTuple):
    """The classes of one sagittal slice, each as one instance.

    Attributes:
        classes: (N,) from 0, without background.
        boxes: (N, 4) half-open y0, z0, y1, z1: the hulls.
        crops: N masks on their boxes, each with its first pixel.
    """

    classes: NDArray[np.int64]
    boxes: NDArray[np.int64]
    crops: list[Crop]


def slice_classes(labels: NDArray[np.uint8]) -> SliceClasses:
    """Cut a slice (Y, Z) of class indices into its classes."""
    values = np.flatnonzero(np.bincount(labels.ravel(), minlength=1)[1:]) + 1
    boxes = np.zeros((len(values), 4), np.int64)
    crops: list[Crop] = []
    inside = labels > 0
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    for i, value in enumerate(values):
        part = labels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == value
        y, z = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        crops.append((part[y[0] : y[-1] + 1, z[0] : z[-1] + 1], (int(rows[0] + y[0]), int(columns[0] + z[0]))))
        boxes[i] = (rows[0] + y[0], columns[0] + z[0], rows[0] + y[-1] + 1, columns[0] + z[-1] + 1)
    return SliceClasses(values.astype(np.int64) - 1, boxes, crops)


def class_instances(
    index: int, labels: NDArray[np.uint8], means: NDArray[np.float64], levels: Sequence[int]
) -> SliceInstances:
    """One instance a class of a slice, scored by its mean probability.

    Distributions are the mean ones over the levels, without the background, summing to 1.

    Args:
        index: the slice's position along X.
        labels: (Y, Z).
        means: (K, K), mean class probabilities over the pixels of each class, background included.
        levels: canonical ids of the classes; empty for a network of one class, whose instance has no level.
    """
    found, classes = slice_classes(labels), tuple(int(level) for level in levels)
    own = found.classes + 1
    size = (labels.shape[0], labels.shape[1])
    rows = means[own, 1:]
    return SliceInstances(
        index=index,
        size=size,
        masks=tuple(encode_crop(crop, corner, size) for crop, corner in found.crops),
        scores=np.clip(means[own, own].astype(np.float32), 0, 1),
        levels=np.array([classes[i] for i in found.classes] if classes else np.zeros(len(own)), np.int64),
        boxes=found.boxes.astype(np.float64),
        probabilities=(rows / rows.sum(axis=1, keepdims=True)).astype(np.float32) if classes else None,
        classes=classes,
    )
