"""What instances of different slices have in common, once each pixel of a slice belongs to one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.masks import decode_box, hulls

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PaintedSlice:
    """What each instance of a slice owns, no pixel twice: the better score has it.

    Attributes:
        index: the slice's position along X.
        first: running number, over all slices, of the first instance; the others follow.
        boxes: (N, 4) int, hulls of the masks before they were painted.
        pixels: (P,) flat positions (row-major in (Y, Z)), ascending.
        owners: (P,) instance of each, 0 to N − 1.
    """

    index: int
    first: int
    boxes: Ints
    pixels: NDArray[np.int32]
    owners: NDArray[np.int32]

    def areas(self) -> Ints:
        """(N,) pixels that each instance owns."""
        return np.bincount(self.owners, minlength=len(self.boxes))


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Pairs of instances of two slices with common pixels.

    Attributes:
        step: (L,) slices from one to the other.
        following: (L,) whether no slice with instances lies between them.
        first: (L,) running number of the instance in the earlier slice, ``second`` of that in the later one.
        common: (L,) pixels.
    """

    step: Ints
    following: NDArray[np.bool_]
    first: Ints
    second: Ints
    common: Ints


def paint(slices: Sequence[SliceInstances]) -> list[PaintedSlice]:
    """Give each pixel of each slice to its best instance; slices are sorted by index and hold instances."""
    painted = []
    first = 0
    for s in slices:
        plane = np.full(s.size, -1, np.int32)
        boxes = hulls(s.masks).astype(np.int64)
        for n in np.argsort(-s.scores, kind="stable"):
            y0, z0, y1, z1 = (int(edge) for edge in boxes[n])
            crop = plane[y0:y1, z0:z1]
            crop[decode_box(s.masks[n], (y0, z0, y1, z1)) & (crop < 0)] = n
        pixels = np.flatnonzero(plane.ravel() >= 0).astype(np.int32)
        painted.append(PaintedSlice(s.index, first, boxes, pixels, plane.ravel()[pixels]))
        first += len(s)
    return painted


def overlaps(painted: Sequence[PaintedSlice], pixels: int, reach: int) -> Overlaps:
    """All overlaps of instances whose slices lie at most ``reach`` apart.

    Args:
        painted: sorted by index.
        pixels: of a slice.
        reach: in slices; 1 = neighbours.
    """
    plane = np.full(pixels, -1, np.int32)
    rows: list[Ints] = []
    for i, one in enumerate(painted):
        plane[one.pixels] = one.owners
        for j in range(i + 1, len(painted)):
            other = painted[j]
            if other.index - one.index > reach:
                break
            met = plane[other.pixels]
            both = met >= 0
            width = len(other.boxes)
            counts = np.bincount(met[both] * width + other.owners[both])
            pairs = np.flatnonzero(counts)
            row = np.empty((5, len(pairs)), np.int64)
            row[0], row[1] = other.index - one.index, j == i + 1
            row[2], row[3], row[4] = one.first + pairs // width, other.first + pairs % width, counts[pairs]
            rows.append(row)
        plane[one.pixels] = -1
    step, following, first, second, common = np.concatenate([np.empty((5, 0), np.int64), *rows], axis=1)
    return Overlaps(step, following.astype(bool), first, second, common)
