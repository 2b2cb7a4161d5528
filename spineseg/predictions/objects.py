"""The objects of a network's label map: what one name stands for, a vertebra each."""

from collections.abc import Collection
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from spineseg.metrics.localisation import Box, Parts, moved_box

# A label is looked at on voxels of about so many mm; a body is ten times as high.
CORE_SPACING_MM: Final = 1.5
# A vertebra's body has a core: what lies deeper than half of the label's greatest depth. Of two cores that are two
# bodies, the smaller is at least so much of the larger, and so many ml; an arch is thinner, a crumb smaller.
CORE_SHARE: Final = 0.2
CORE_ML: Final = 0.2
# Bodies of neighbours lie at least 15 mm apart along the spine; both halves of C1 lie at one height.
APART_MM: Final = 12.0
# So many voxels are looked at in case that they are equally near.
_TIES: Final = 6


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
        # The first body keeps the label's number, the others get new ones.
        numbers = np.array([0, table[value], *range(len(owners) + 1, len(owners) + count)], np.uint8)
        places = np.nonzero(mask)
        cells = tuple(place // n for place, n in zip(places, step, strict=True))
        wanted = np.zeros(parts.shape, bool)
        wanted[cells] = True
        objects[box][places] = numbers[_nearest(parts, wanted, np.asarray(spacing_mm) * step)[cells]]
        owners += [value] * (count - 1)
    return objects, np.array(owners, np.int64)


def _bodies(mask: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> NDArray[np.int32]:
    """Cores of a label's bodies, numbered from 1; zeros where it has one body or none."""
    none = np.zeros(mask.shape, np.int32)
    parts = Parts.of(mask, spacing_mm)
    least = CORE_ML * 1000 / float(np.prod(spacing_mm))
    # A part smaller than a core may be has none, and if all are there is none.
    if not (parts.voxels >= least).any():
        return none
    deepest = parts.deepest_mm2()
    found: list[tuple[Box, NDArray[np.bool_]]] = []
    for n in np.flatnonzero((parts.voxels >= least) & (parts.reach_mm**2 >= deepest / 4)).tolist():
        cores, _ = ndimage.label(4 * parts.depth_mm2(n) >= deepest)
        boxes = ndimage.find_objects(cores)
        for core in np.flatnonzero(np.bincount(cores.ravel())[1:] >= least).tolist():
            found.append((moved_box(boxes[core], parts.box(n)), cores[boxes[core]] == core + 1))
    sizes = np.array([np.count_nonzero(core) for _, core in found])
    kept = np.flatnonzero(sizes >= CORE_SHARE * sizes.max(initial=0))
    if len(kept) < 2:
        return none
    heights = np.array([(np.nonzero(found[n][1])[2] + found[n][0][2].start).mean() for n in kept]) * spacing_mm[2]
    order = np.argsort(heights)
    groups = np.cumsum(np.diff(heights[order], prepend=heights[order[0]]) >= APART_MM)
    if not groups[-1]:
        return none
    for n, group in zip(kept[order].tolist(), groups.tolist(), strict=True):
        box, core = found[n]
        none[box][core] = group + 1
    return none


def _nearest(parts: NDArray[np.int32], wanted: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> NDArray[np.int32]:
    """Numbers (X, Y, Z) of the parts nearest to the wanted voxels, as a distance transform of ``parts`` gives them.

    Of equally near voxels (up to rounding) that of least Z counts, then Y, then X. A label scattered over a scan fills
    little of it, so that each of its voxels is looked up in a tree; the transform would take the whole scan for each
    label.
    """
    places = np.argwhere(parts > 0)
    places = places[np.lexsort(places.T)]
    numbers = parts[tuple(places.T)]
    found = parts.copy()
    asked = np.argwhere(wanted & (parts == 0))
    tree = cKDTree(places * spacing_mm)
    k = min(_TIES, len(places))
    while len(asked):
        apart, which = map(np.asarray, tree.query(asked * spacing_mm, k=np.arange(1, k + 1)))
        tied = apart <= apart[:, :1] * (1 + 1e-9)
        found[tuple(asked.T)] = numbers[np.where(tied, which, len(places)).min(axis=1)]
        # Where all are equally near there may be more.
        asked, k = asked[tied.all(axis=1) & (k < len(places))], min(4 * k, len(places))
    return found
