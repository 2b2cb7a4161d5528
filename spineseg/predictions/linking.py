"""Which instances of different slices are one vertebra."""

from collections.abc import Sequence

import numpy as np

from spineseg.predictions.overlaps import Ints, PaintedSlice, overlaps
from spineseg.predictions.pieces import adopt, attach, meet, root

# Outlines as alike as this are one vertebra's, however many slices lie between: two found as one are not.
SAME = 0.7


def link(painted: Sequence[PaintedSlice], size: tuple[int, int], *, overlap: float, gap: int) -> Ints:
    """Number (0..) of each instance's object; −1 for an instance that owns no pixel.

    Two instances are linked when their common area reaches ``overlap`` × the smaller area. Links join what is most
    certainly one vertebra first (an intersection over union of 0.7), then near slices, then the most alike, and never
    two objects that both have an instance in some slice: vertebrae keep their own past slices in which two are one
    instance, or one is two. What is then too small for a vertebra joins the object that covers its ends (a vertebra
    found in two pieces in some slices), or the one that it touches most if the two share no slice. Last, objects that
    touch end to end, or overlap and share few slices, are parts of one.

    Args:
        painted: sorted by index.
        size: (Y, Z) of a slice.
        overlap: least common area ÷ smaller area.
        gap: slices without a partner that a link may bridge.
    """
    index = np.concatenate([np.zeros(0, np.int64), *(np.full(len(s.boxes), s.index) for s in painted)])
    areas = np.concatenate([np.zeros(0, np.int64), *(s.areas() for s in painted)])
    found = overlaps(painted, size[0] * size[1], gap + 1)
    share = found.common / np.minimum(areas[found.first], areas[found.second])
    # Those that are alike before those of which one only holds the other, as a whole vertebra holds a piece.
    alike = found.common / (areas[found.first] + areas[found.second] - found.common)
    order = np.lexsort((found.second, found.first, -alike, found.step, alike < SAME))
    order = order[share[order] >= overlap]
    tracks = _join(found.first[order], found.second[order], index)
    tracks = attach(painted, found, share, areas, tracks, index, overlap, size)
    tracks = meet(found, share, tracks, index, overlap)
    tracks = adopt(painted, tracks, areas, index, size, gap) if gap else tracks
    tracks[areas == 0] = -1
    return np.unique(tracks, return_inverse=True)[1] - int((areas == 0).any())


def _join(first: Ints, second: Ints, index: Ints) -> Ints:
    """Union-find in the order of the links; gives each instance the number of its track."""
    parent = list(range(len(index)))
    # The slices of a track as bits of one integer, so that a clash is one operation.
    where = [1 << int(x) for x in index]
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        a, b = root(parent, a), root(parent, b)
        if a != b and not where[a] & where[b]:
            parent[b] = a
            where[a] |= where[b]
    return np.array([root(parent, i) for i in range(len(parent))], np.int64)
