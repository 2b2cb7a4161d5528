"""The objects of a network's label map: what one name stands for, a vertebra each."""

from collections.abc import Collection
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# A label is looked at on voxels of about so many mm; a body is ten times as high.
CORE_SPACING_MM: Final = 1.5
# A vertebra's body has a core: what lies deeper than half of the label's greatest depth. Of two cores that are two
# bodies, the smaller is at least so much of the larger, and so many ml; an arch is thinner, a crumb smaller.
CORE_SHARE: Final = 0.2
CORE_ML: Final = 0.2
# Bodies of neighbours lie at least 15 mm apart along the spine; both halves of C1 lie at one height.
APART_MM: Final = 12.0


def separate(
    labels: NDArray[np.uint8], spacing_mm: tuple[float, float, float], whole: Collection[int] = ()
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Number the objects of a label map.

    All voxels of a label are one object, however many parts they have, unless the label has several bodies: cores
    (6-connected components of the voxels deeper than half of the label's greatest depth, each at least 0.2 ml and 20 %
    of the largest) whose heights differ by 12 mm or more. Then each core, with those less than 12 mm above or below it,
    is an object, and a voxel goes to the nearest. A vertebra that bears two names is two objects, to which labelling
    may give one name.

    Args:
        labels: (X, Y, Z) in the canonical frame, 0 = background.
        spacing_mm: of a voxel.
        whole: labels that are one object whatever they look like, such as a sacrum of several bodies.

    Returns:
        Objects (X, Y, Z), numbered from 1, and the label (N,) of each. At most 255: of what exceeds them, labels stay
        whole. The array is new.
    """
    step = np.maximum(1, np.rint(CORE_SPACING_MM / np.asarray(spacing_mm))).astype(int)
    found = [(value, box) for value, box in enumerate(ndimage.find_objects(labels), start=1) if box is not None]
    table = np.zeros(256, np.uint8)
    table[[value for value, _ in found]] = np.arange(1, len(found) + 1)
    objects, owners = table[labels], [value for value, _ in found]
    for value, box in found:
        if value in whole:
            continue
        mask = labels[box] == value
        thin = mask[tuple(slice(None, None, n) for n in step)]
        parts = _bodies(thin, np.asarray(spacing_mm) * step)
        count = int(parts.max(initial=0))
        if count < 2 or len(owners) + count - 1 > 255:
            continue
        near = np.asarray(
            ndimage.distance_transform_edt(
                parts == 0, np.asarray(spacing_mm) * step, return_distances=False, return_indices=True
            )
        )
        # The first body keeps the label's number, the others get new ones.
        numbers = np.array([0, table[value], *range(len(owners) + 1, len(owners) + count)], np.uint8)
        nearest = numbers[parts[tuple(near)]]
        for axis, n in enumerate(step):
            nearest = np.repeat(nearest, n, axis=axis).take(range(mask.shape[axis]), axis=axis)
        objects[box][mask] = nearest[mask]
        owners += [value] * (count - 1)
    return objects, np.array(owners, np.int64)


def _bodies(mask: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> NDArray[np.int32]:
    """Cores of a label's bodies, numbered from 1; zeros where it has one body or none."""
    none = np.zeros(mask.shape, np.int32)
    if not mask.any():
        return none
    # What lies beyond the box is outside.
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), spacing_mm)[1:-1, 1:-1, 1:-1]
    cores, count = ndimage.label(mask & (depth >= depth.max() / 2))
    sizes = np.bincount(cores.ravel(), minlength=count + 1)
    sizes[0] = 0
    least = max(CORE_SHARE * sizes.max(), CORE_ML * 1000 / float(np.prod(spacing_mm)))
    kept = np.flatnonzero(sizes >= least)
    if len(kept) < 2:
        return none
    heights = np.array(ndimage.center_of_mass(cores > 0, cores, kept))[:, 2] * spacing_mm[2]
    order = np.argsort(heights)
    groups = np.cumsum(np.diff(heights[order], prepend=heights[order[0]]) >= APART_MM)
    if not groups[-1]:
        return none
    number = np.zeros(count + 1, np.int32)
    number[kept[order]] = groups + 1
    return np.asarray(number[cores])
