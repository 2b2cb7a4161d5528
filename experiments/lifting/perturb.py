"""What goes wrong with the instances of slices, done to exact ones: each gives the slices and the truth to score by."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spineseg.predictions.instances import SliceInstances, from_masks

Labels = NDArray[np.integer]
Perturbed = tuple[list[SliceInstances], Labels]
Perturb = Callable[[Labels, np.random.Generator], Perturbed]
Plane = list[NDArray[np.bool_]]

CLASSES = (19, 20)
ERODED_PX, DROPPED, MISSED, MERGED, SPLIT = 1, 3, 0.1, 0.1, 0.2


def planes(labels: Labels) -> list[Plane]:
    """The masks of each sagittal slice, one a level."""
    return [[plane == value for value in np.unique(plane[plane > 0])] for plane in labels]


def instances(masks: list[Plane], keep: NDArray[np.bool_] | None = None) -> list[SliceInstances]:
    """Instances without a name: every class distribution is uniform, every score the same but for ties."""
    found = []
    for index, plane in enumerate(masks):
        if keep is not None and not keep[index]:
            continue
        size = plane[0].shape if plane else (1, 1)
        stack = np.stack(plane) if plane else np.zeros((0, *size), bool)
        if len(plane):
            uniform = np.full((len(plane), len(CLASSES)), 1 / len(CLASSES), np.float32)
            scores = np.full(len(plane), 0.9)
            found.append(from_masks(index, stack, scores, probabilities=uniform, classes=CLASSES))
    return found


def eroded(labels: Labels) -> Labels:
    """Each level's mask in each slice smaller by a pixel (4 neighbours); the border of the slice erodes nothing."""
    result = np.zeros_like(labels)
    cross = ndimage.generate_binary_structure(2, 1)[None]
    for value in np.unique(labels[labels > 0]):
        result[ndimage.binary_erosion(labels == value, cross, iterations=ERODED_PX, border_value=1)] = value
    return result


def dropped(slices: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which slices are left when three of every ten are lost, at random places."""
    keep = np.ones(slices, bool)
    for first in range(0, slices, 10):
        lost = first + rng.permutation(10)[:DROPPED]
        keep[lost[lost < slices]] = False
    return keep


def merged(masks: list[Plane], rng: np.random.Generator) -> list[Plane]:
    """In a tenth of the slices, in runs of up to three, two that touch or lie next to each other are one instance."""
    result = [list(plane) for plane in masks]
    x = 0
    while x < len(masks):
        if rng.random() < MERGED / 2 and len(masks[x]) > 1:
            # By height, so that neighbours are neighbours.
            for here in range(x, min(x + int(rng.integers(1, 4)), len(masks))):
                plane = sorted(result[here], key=lambda mask: float(np.nonzero(mask)[1].mean()))
                if len(plane) > 1:
                    first = int(rng.integers(0, len(plane) - 1))
                    plane[first : first + 2] = [plane[first] | plane[first + 1]]
                    result[here] = plane
                x = here
        x += 1
    return result


def split(masks: list[Plane], rng: np.random.Generator) -> list[Plane]:
    """A fifth of the instances that have several parts come as one instance a part."""
    result: list[Plane] = []
    for plane in masks:
        found: Plane = []
        for mask in plane:
            parts, count = ndimage.label(mask, np.ones((3, 3)))
            if count > 1 and rng.random() < SPLIT:
                found += [parts == n for n in range(1, count + 1)]
            else:
                found.append(mask)
        result.append(found)
    return result


def missed(masks: list[Plane], rng: np.random.Generator) -> list[Plane]:
    """A tenth of the instances is not found."""
    return [[mask for mask in plane if rng.random() >= MISSED] for plane in masks]


def _everything(labels: Labels, rng: np.random.Generator) -> Perturbed:
    small = eroded(labels)
    masks = missed(split(merged(planes(small), rng), rng), rng)
    return instances(masks, dropped(len(labels), rng)), small


PERTURBATIONS: dict[str, Perturb] = {
    "clean": lambda labels, rng: (instances(planes(labels)), labels),
    "eroded": lambda labels, rng: (instances(planes(eroded(labels))), eroded(labels)),
    "dropped": lambda labels, rng: (instances(planes(labels), dropped(len(labels), rng)), labels),
    "missed": lambda labels, rng: (instances(missed(planes(labels), rng)), labels),
    "merged": lambda labels, rng: (instances(merged(planes(labels), rng)), labels),
    "split": lambda labels, rng: (instances(split(planes(labels), rng)), labels),
    "all": _everything,
}
