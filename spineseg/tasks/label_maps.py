"""Label maps of networks: agreement counted in whole numbers, and each class of a sagittal slice as an instance.

Class indices: 0 is background, i + 1 the i-th of a task's classes.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spineseg.predictions.class_slices import class_instances, slice_classes
from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.native_grid import axis_between
from spineseg.tasks.monitors import Found, MonitoredSlice, monitor_slice

LabelMap = NDArray[np.uint8]


class Agreement(NamedTuple):
    """What a slice or a volume adds to Dice.

    Attributes:
        key: case and slice index, −1 for a whole volume; what two processes saw counts once.
        counts: (3, K) voxels of each class in both maps, in the prediction, in the reference; background first.
    """

    key: tuple[str, int]
    counts: NDArray[np.int64]


def agreement(key: tuple[str, int], predicted: LabelMap, reference: LabelMap, num_classes: int) -> Agreement:
    """Count a prediction (any shape) against a reference of the same shape.

    >>> agreement(("a", 0), np.array([0, 1, 1], np.uint8), np.array([0, 0, 1], np.uint8), 2).counts.tolist()
    [[1, 1], [1, 2], [2, 1]]
    """
    pairs = reference.ravel().astype(np.uint16) * num_classes + predicted.ravel()
    table = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return Agreement(key, np.stack([table.diagonal(), table.sum(axis=0), table.sum(axis=1)]))


def pooled_dice(parts: Iterable[Agreement], classes: Sequence[str]) -> dict[str, float]:
    """Dice of each class over the voxels of all parts, and their mean.

    Only classes that some reference holds count; a class that is only predicted shows in the others' Dice alone.
    Whole numbers are added up, so order and number of processes do not matter.

    Returns:
        ``dice``, 0 where there is no reference at all, so that a checkpoint is never chosen by NaN; and, of several
        classes, ``dice_<name>``.
    """
    counted = {part.key: part.counts for part in parts}
    if not counted:
        return {"dice": 0.0}
    common, predicted, reference = np.sum(list(counted.values()), axis=0)[:, 1:]
    there = np.flatnonzero(reference).tolist()
    dice = {classes[i]: float(2 * common[i] / (predicted[i] + reference[i])) for i in there}
    named = {f"dice_{name}": value for name, value in dice.items()} if len(classes) > 1 else {}
    return {"dice": float(np.mean(list(dice.values()))) if dice else 0.0, **named}


def monitor_labels(
    key: tuple[str, int], predicted: LabelMap, scores: NDArray[np.float64], reference: LabelMap
) -> MonitoredSlice:
    """Match the classes of one slice with the reference's.

    Args:
        key: case and slice index.
        predicted: (Y, Z).
        scores: (K,) of each class with background, its mean probability in the slice.
        reference: (Y, Z).
    """
    mine, theirs = slice_classes(predicted), slice_classes(reference)
    numbers = np.zeros(256, np.uint8)
    numbers[theirs.classes + 1] = np.arange(1, len(theirs.classes) + 1)
    found = Found(mine.boxes.astype(np.float64), scores[mine.classes + 1], mine.classes, mine.crops)
    return monitor_slice(key, found, numbers[reference], theirs.classes, theirs.boxes.astype(np.float64))


def best_classes(logits: Tensor) -> LabelMap:
    """The most probable class (Y, Z) of each pixel of logits (K, Y, Z)."""
    return np.asarray(logits.argmax(dim=0).to(torch.uint8).cpu().numpy())


def mean_probabilities(labels: LabelMap, logits: Tensor) -> NDArray[np.float64]:
    """Mean class probabilities over the pixels of each class but the background: (K, K), zeros where it has none.

    Args:
        labels: (Y, Z).
        logits: (K, Y, Z).
    """
    means = np.zeros((len(logits), len(logits)))
    # Background is most of the slice, and nobody asks how sure it is.
    spots = np.flatnonzero(labels)
    order = spots[np.argsort(labels.ravel()[spots], kind="stable")]
    if len(order):
        picked = logits.flatten(1).index_select(1, torch.from_numpy(order).to(logits.device)).float().softmax(dim=0)
        values, starts, counts = np.unique(labels.ravel()[order], return_index=True, return_counts=True)
        means[values] = (np.add.reduceat(picked.cpu().numpy().astype(np.float64), starts, axis=1) / counts).T
    return means


def label_instances(index: int, logits: Tensor, levels: tuple[int, ...]) -> SliceInstances:
    """The argmax of a slice as instances (PROTOCOL 5.6).

    Args:
        index: the slice's position along X.
        logits: (K, Y, Z) with background.
        levels: of the classes; empty for a network of one class, whose instance has no level.
    """
    labels = best_classes(logits)
    return class_instances(index, labels, mean_probabilities(labels, logits), levels)


def class_labels(index_map: Tensor, classes: Tensor, batch_index: Tensor) -> Tensor:
    """Class indices (B, 1, Y, Z) uint8 of instance targets.

    Args:
        index_map: (B, Y, Z) uint8, i + 1 the i-th instance of its image.
        classes: (N,) of all images' instances, from 0.
        batch_index: (N,) image of each, rising.
    """
    owners = batch_index.long()
    counts = torch.bincount(owners, minlength=len(index_map))
    place = torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners]
    table = index_map.new_zeros((len(index_map), 256))
    table[owners, place + 1] = (classes + 1).to(torch.uint8)
    return table.gather(1, index_map.flatten(1).long()).view_as(index_map)[:, None]


def on_grid(logits: Tensor, size: tuple[int, int], step: tuple[float, float]) -> Tensor:
    """Logits (K, h, w) between the pixels of another grid: (K, Y, Z), bilinear, the border repeated.

    Args:
        logits: of an image whose first pixel's outer corner is that of the grid.
        size: (Y, Z) of the grid.
        step: network pixels a pixel of the grid along Y and Z.
    """
    for dim, (length, width) in enumerate(zip(size, step, strict=True), start=1):
        logits = axis_between(logits.shape[dim], length, width).resample(logits, dim, 0, length, 0)
    return logits
