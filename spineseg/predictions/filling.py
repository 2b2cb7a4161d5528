"""Slices in which an object was missed: its outline there, interpolated between the slices around."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Distances are cut off here, and smoothed by so much, both in pixels: far from an outline they say nothing of it, and
# along it they have the pixels' stairs. Chosen on masks of real scans (experiments/lifting).
FAR_PX, SMOOTHING_PX = 3.0, 0.6

Box = tuple[int, int, int, int]
Distances = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Hole:
    """An object that is in the slices ``before`` and ``after`` and in none between.

    ``box`` is half-open (y0, z0, y1, z1) and holds both outlines; ``near`` and ``far`` are their smooth distances in
    it, ``alike`` is their intersection over union; ``slopes`` are the distances' changes a slice at both, or None.
    """

    label: int
    before: int
    after: int
    box: Box
    near: Distances
    far: Distances
    alike: float
    slopes: tuple[Distances, Distances] | None = None

    def at(self, x: int) -> Distances:
        """Signed distances at a slice between, + inside: linear, or cubic (Hermite) where the slopes are known."""
        t = np.float32((x - self.before) / (self.after - self.before))
        if self.slopes is None:
            return (1 - t) * self.near + t * self.far
        first, second = self.slopes
        length = np.float32(self.after - self.before)
        eased = t * t * (3 - 2 * t)
        curve = length * t * (1 - t) * ((1 - t) * first - t * second)
        return (1 - eased) * self.near + eased * self.far + curve


def signed_distances(mask: NDArray[np.bool_]) -> Distances:
    """Distance in pixels to the outline of a mask (Y, Z), + inside; what lies beyond the array is outside.

    >>> signed_distances(np.array([[False, True, True, True]])).round(1).tolist()
    [[-0.5, 0.5, 0.5, 0.5]]
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    inside, outside = (
        cv2.distanceTransform(side, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1] for side in (padded, 1 - padded)
    )
    return np.where(mask, inside - 0.5, 0.5 - outside).astype(np.float32)


def smooth_distances(mask: NDArray[np.bool_]) -> Distances:
    """Signed distances near the outline of a mask (Y, Z), smoothed; what lies beyond the array is outside."""
    margin = int(np.ceil(FAR_PX))
    near = np.clip(signed_distances(np.pad(mask, margin)), -FAR_PX, FAR_PX)
    smooth = cv2.GaussianBlur(near, (0, 0), SMOOTHING_PX)[margin:-margin, margin:-margin]
    return np.asarray(smooth, np.float32)


def fill(
    labels: NDArray[np.uint16], members: Mapping[int, Mapping[int, Box]], used: Iterable[int], *, gap: int, alike: float
) -> None:
    """Fill, in place, the holes of at most ``gap`` slices that objects have along X.

    The outline is that of interpolated signed distances (shape-based interpolation, Raya and Udupa 1990): along the
    cubic through the object's slices around the hole whose slopes are those between the slices beside (Catmull-Rom). In
    a slice without any instance every hole is filled, a pixel going to the object that it lies in deepest. Where other
    instances were found, only an object is filled whose two outlines have an intersection over union of at least
    ``alike``: in free pixels, and in those of an instance that covers as much of it, which are two vertebrae found as
    one and are dealt out to the deeper of both.

    Args:
        labels: (X, Y, Z), 0 = background.
        members: for each label and each slice that it is in, a box that holds it.
        used: slices with instances.
        gap: slices.
        alike: 0 to 1.
    """
    found = set(used)
    spans: dict[int, list[tuple[int, int, int]]] = {}
    for label, boxes in members.items():
        for before, after in itertools.pairwise(sorted(boxes)):
            if 1 < after - before <= gap + 1:
                for x in range(before + 1, after):
                    spans.setdefault(x, []).append((label, before, after))
    holes: dict[tuple[int, int, int], Hole] = {}
    for x in sorted(spans):
        # Distances are kept for as long as the hole lasts.
        holes = {key: hole for key, hole in holes.items() if key[2] > x}
        for key in spans[x]:
            if key not in holes:
                label, before, after = key
                box = _around(members[label][before], members[label][after])
                holes[key] = _hole(labels, label, before, after, box, _beside(members[label], before, after, gap))
        here = [holes[key] for key in spans[x]]
        if x not in found:
            _deepest(labels[x], x, here)
            continue
        similar = [hole for hole in here if hole.alike >= alike]
        _deepest(labels[x], x, similar, taken=labels[x] > 0)
        for hole in similar:
            _divide(labels, members, x, hole, alike)


def _beside(boxes: Mapping[int, Box], before: int, after: int, gap: int) -> tuple[int, int]:
    """The object's slices next to a hole's on either side, as far as a hole may reach; else the hole's own."""
    first = max((x for x in boxes if before - gap - 1 <= x < before), default=before)
    return first, min((x for x in boxes if after < x <= after + gap + 1), default=after)


def _hole(
    labels: NDArray[np.uint16],
    label: int,
    before: int,
    after: int,
    box: Box,
    beside: tuple[int, int] | None = None,
) -> Hole:
    y0, z0, y1, z1 = box
    near, far = (labels[x, y0:y1, z0:z1] == label for x in (before, after))
    alike = float((near & far).sum() / max(1, (near | far).sum()))
    ends = smooth_distances(near), smooth_distances(far)
    if beside is None:
        return Hole(label, before, after, box, *ends, alike)
    first = ends[0] if beside[0] == before else smooth_distances(labels[beside[0], y0:y1, z0:z1] == label)
    last = ends[1] if beside[1] == after else smooth_distances(labels[beside[1], y0:y1, z0:z1] == label)
    slopes = (ends[1] - first) / np.float32(after - beside[0]), (last - ends[0]) / np.float32(beside[1] - before)
    return Hole(label, before, after, box, *ends, alike, slopes)


def _around(first: Box, second: Box) -> Box:
    return min(first[0], second[0]), min(first[1], second[1]), max(first[2], second[2]), max(first[3], second[3])


def _deepest(plane: NDArray[np.uint16], x: int, holes: Sequence[Hole], taken: NDArray[np.bool_] | None = None) -> None:
    """Paint outlines in a slice; a pixel goes to the one that it lies in deepest, none where ``taken`` is set."""
    if not holes:
        return
    depth = np.zeros(plane.shape, np.float32)
    if taken is not None:
        depth[taken] = np.inf
    for hole in holes:
        y0, z0, y1, z1 = hole.box
        distances = hole.at(x)
        deeper = distances > depth[y0:y1, z0:z1]
        depth[y0:y1, z0:z1][deeper] = distances[deeper]
        plane[y0:y1, z0:z1][deeper] = hole.label


def _divide(
    labels: NDArray[np.uint16], members: Mapping[int, Mapping[int, Box]], x: int, hole: Hole, share: float
) -> None:
    """Take back what the instance of another object covers of this one in a slice."""
    y0, z0, y1, z1 = hole.box
    inside = hole.at(x) > 0
    owners, counts = np.unique(labels[x, y0:y1, z0:z1][inside], return_counts=True)
    other = int(owners[counts.argmax()]) if len(owners) else 0
    if other in (0, hole.label) or counts.max() < share * inside.sum() or x not in members[other]:
        return
    sides = [side for side in (hole.before, hole.after) if side in members[other]]
    box = _around(hole.box, members[other][x])
    for side in sides:
        box = _around(box, members[other][side])
    y0, z0, y1, z1 = box
    crop = labels[x, y0:y1, z0:z1]
    mine = _hole(labels, hole.label, hole.before, hole.after, box).at(x)
    if len(sides) == 2:
        theirs = _hole(labels, other, hole.before, hole.after, box).at(x)
    elif sides:
        theirs = smooth_distances(labels[sides[0], y0:y1, z0:z1] == other)
    else:
        theirs = np.zeros_like(mine)
    crop[(crop == other) & (mine > theirs)] = hole.label
