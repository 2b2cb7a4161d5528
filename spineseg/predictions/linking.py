"""Which instances of different slices are one vertebra: overlaps, tracks, and pieces that belong to a track."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.masks import Floats, decode_box, hulls

Ints = NDArray[np.int64]

# A piece is at most this share of the object that it belongs to: a vertebra is half of its neighbour at the least.
PIECE = 0.3
# Of a piece's smaller side, the overlap that joins it to an object with which it shares no slice.
TOUCH = 0.1
# A crumb is at most this share of the object nearest to it, and no farther than so many pixels or slices away.
CRUMB = 0.1
NEAR = 6.0


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


def link(painted: Sequence[PaintedSlice], size: tuple[int, int], *, overlap: float, gap: int) -> Ints:
    """Number (0..) of each instance's object; −1 for an instance that owns no pixel.

    Two instances are linked when their common area reaches ``overlap`` × the smaller area. Links join near slices
    first, then the most alike, and never two objects that both have an instance in some slice. What is then too small
    for a vertebra joins the object that covers its ends (a vertebra found in two pieces in some slices), or the one
    that it touches most if the two share no slice.

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
    union = areas[found.first] + areas[found.second] - found.common
    order = np.lexsort((found.second, found.first, -found.common / union, found.step))
    order = order[share[order] >= overlap]
    tracks = _join(found.first[order], found.second[order], index)
    tracks = _attach(painted, found, share, areas, tracks, index, overlap, size)
    tracks = _adopt(painted, tracks, areas, index, size, gap) if gap else tracks
    tracks[areas == 0] = -1
    return np.unique(tracks, return_inverse=True)[1] - int((areas == 0).any())


def _join(first: Ints, second: Ints, index: Ints) -> Ints:
    """Union-find in the order of the links; gives each instance the number of its track."""
    parent = list(range(len(index)))
    # The slices of a track as bits of one integer, so that a clash is one operation.
    where = [1 << int(x) for x in index]
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        a, b = _root(parent, a), _root(parent, b)
        if a != b and not where[a] & where[b]:
            parent[b] = a
            where[a] |= where[b]
    return np.array([_root(parent, i) for i in range(len(parent))], np.int64)


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def _attach(
    painted: Sequence[PaintedSlice],
    found: Overlaps,
    share: Floats,
    areas: Ints,
    tracks: Ints,
    index: Ints,
    overlap: float,
    size: tuple[int, int],
) -> Ints:
    """Join pieces to the objects that they belong to; the tracks' numbers (N,) after that."""
    n = len(tracks)
    volume = np.bincount(tracks, weights=areas, minlength=n)
    cut = np.zeros(n, bool)  # what reaches the upper or lower face may be a vertebra that goes on beyond it
    for s in painted:
        z = s.pixels % size[1]
        cut[tracks[s.first + s.owners[(z == 0) | (z == size[1] - 1)]]] = True
    where = [0] * n
    for track, x in zip(tracks.tolist(), index.tolist(), strict=True):
        where[track] |= 1 << x
    # Ends of a track: its instances beside a slice in which it has none.
    slices = [s.index for s in painted]
    beside = {x: [*slices[max(0, i - 1) : i], *slices[i + 1 : i + 2]] for i, x in enumerate(slices)}
    ends = [0] * n
    for track, x in zip(tracks.tolist(), index.tolist(), strict=True):
        ends[track] += sum(not where[track] >> other & 1 for other in beside[x])
    covered: dict[tuple[int, int], int] = {}
    touched: dict[tuple[int, int], int] = {}
    apart = np.flatnonzero(tracks[found.first] != tracks[found.second])
    for row in apart.tolist():
        a, b, common = int(found.first[row]), int(found.second[row]), int(found.common[row])
        for one, other in ((a, b), (b, a)):
            piece, host = int(tracks[one]), int(tracks[other])
            if volume[piece] > PIECE * volume[host] or where[piece] >> int(index[other]) & 1:
                continue
            if found.following[row] and common >= overlap * areas[one] and not cut[piece]:
                covered[piece, host] = covered.get((piece, host), 0) + 1
            if not where[piece] & where[host] and share[row] >= TOUCH:
                touched[piece, host] = touched.get((piece, host), 0) + common
    parent = list(range(n))
    hosts: dict[int, list[tuple[int, int, int]]] = {}
    for (piece, host), times in covered.items():
        if 2 * times >= ends[piece]:
            hosts.setdefault(piece, []).append((times, touched.get((piece, host), 0), -host))
    for (piece, host), common in touched.items():
        hosts.setdefault(piece, []).append((covered.get((piece, host), 0), common, -host))
    for piece, candidates in hosts.items():
        parent[piece] = -max(candidates)[2]
    return np.array([_root(parent, track) for track in tracks.tolist()], np.int64)


def _adopt(
    painted: Sequence[PaintedSlice], tracks: Ints, areas: Ints, index: Ints, size: tuple[int, int], reach: int
) -> Ints:
    """Give crumbs that overlap nothing, such as the tip of a process, to the nearest object that shares no slice."""
    volume = np.bincount(tracks, weights=areas, minlength=len(tracks))
    where: dict[int, set[int]] = {}
    points: dict[int, list[Ints]] = {}
    for track, x in zip(tracks.tolist(), index.tolist(), strict=True):
        where.setdefault(track, set()).add(x)
    crumbs = [track for track in where if 0 < volume[track] <= CRUMB * volume.max()]
    small = np.zeros(len(tracks), bool)
    small[crumbs] = True
    for s in painted:
        own = tracks[s.first + s.owners]
        for track in np.unique(own[small[own]]).tolist():
            y, z = np.divmod(s.pixels[own == track].astype(np.int64), size[1])
            points.setdefault(track, []).append(np.stack([np.full(len(y), s.index), y, z], axis=1))
    parent = {track: track for track in where}
    for crumb in sorted(crumbs, key=lambda track: (volume[track], track)):
        mine = np.concatenate(points[crumb])
        low, high = mine.min(axis=0) - int(NEAR), mine.max(axis=0) + int(NEAR)
        tree, nearest = cKDTree(mine), (NEAR, -1)
        for s in painted:
            if not max(low[0], mine[:, 0].min() - reach - 1) <= s.index <= min(high[0], mine[:, 0].max() + reach + 1):
                continue
            y, z = np.divmod(s.pixels.astype(np.int64), size[1])
            inside = (y >= low[1]) & (y <= high[1]) & (z >= low[2]) & (z <= high[2])
            own = tracks[s.first + s.owners[inside]]
            apart = np.asarray(tree.query(np.stack([np.full(len(own), s.index), y[inside], z[inside]], axis=1))[0])
            for track in np.unique(own).tolist():
                if track != crumb and not where[track] & where[crumb] and volume[crumb] <= CRUMB * volume[track]:
                    nearest = min(nearest, (float(apart[own == track].min()), track))
        if nearest[1] >= 0:
            parent[crumb] = nearest[1]
            where[nearest[1]] = where[nearest[1]] | where[crumb]
    return np.array([_chain(parent, track) for track in tracks.tolist()], np.int64)


def _chain(parent: dict[int, int], track: int) -> int:
    while parent[track] != track:
        track = parent[track]
    return track
