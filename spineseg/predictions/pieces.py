"""Tracks of instances that are parts of one vertebra: pieces, halves, crumbs."""

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from spineseg.predictions.masks import Floats
from spineseg.predictions.overlaps import Ints, Overlaps, PaintedSlice

# A piece is at most this share of the object that it belongs to: a vertebra is half of its neighbour at the least.
PIECE = 0.3
# Or this, if nearly all its ends are covered and it hardly holds together.
LARGE_PIECE = 0.5
# Objects of one vertebra share at most this part of the slices of the smaller; neighbours share most.
SHARED = 0.4
# Of a piece's smaller side, the overlap that joins it to an object with which it shares no slice.
TOUCH = 0.1
# A crumb is at most this share of the object nearest to it, and no farther than so many pixels or slices away.
CRUMB = 0.1
NEAR = 6.0
# Nor so far where it shares a slice with that object: there it was found as one of its own.
NEARER = 3.0


def root(parent: list[int] | dict[int, int], i: int) -> int:
    """The number that ``i`` has in a forest of parents; paths are halved on the way."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def attach(
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
    # What reaches the lower or upper face may be a vertebra that goes on beyond it, unless its host does so too.
    cut = np.zeros((2, n), bool)
    for s in painted:
        z = s.pixels % size[1]
        for side, face in enumerate((0, size[1] - 1)):
            cut[side, tracks[s.first + s.owners[z == face]]] = True
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
            if volume[piece] > LARGE_PIECE * volume[host] or where[piece] >> int(index[other]) & 1:
                continue
            if found.following[row] and common >= overlap * areas[one] and not (cut[:, piece] & ~cut[:, host]).any():
                covered[piece, host] = covered.get((piece, host), 0) + 1
            small = volume[piece] <= PIECE * volume[host]
            if small and not where[piece] & where[host] and share[row] >= TOUCH:
                touched[piece, host] = touched.get((piece, host), 0) + common
    parent = list(range(n))
    hosts: dict[int, list[tuple[int, int, int]]] = {}
    for (piece, host), times in covered.items():
        loose = 4 * times >= 3 * ends[piece] and 2 * times >= where[piece].bit_count()
        if loose or (2 * times >= ends[piece] and volume[piece] <= PIECE * volume[host]):
            hosts.setdefault(piece, []).append((times, touched.get((piece, host), 0), -host))
    for (piece, host), common in touched.items():
        hosts.setdefault(piece, []).append((covered.get((piece, host), 0), common, -host))
    for piece, candidates in hosts.items():
        parent[piece] = -max(candidates)[2]
    return np.array([root(parent, track) for track in tracks.tolist()], np.int64)


def meet(found: Overlaps, share: Floats, tracks: Ints, index: Ints, overlap: float) -> Ints:
    """Join objects that touch end to end along X, or that overlap well and share few slices.

    The tracks' numbers (N,) after that.
    """
    where = [0] * len(tracks)
    for track, x in zip(tracks.tolist(), index.tolist(), strict=True):
        where[track] |= 1 << x
    linked: set[tuple[int, int]] = set()
    common: dict[tuple[int, int], int] = {}
    rows = np.flatnonzero((tracks[found.first] != tracks[found.second]) & (share >= TOUCH))
    for row, a, b in zip(rows.tolist(), tracks[found.first[rows]], tracks[found.second[rows]], strict=True):
        pair = (int(min(a, b)), int(max(a, b)))
        common[pair] = common.get(pair, 0) + int(found.common[row])
        if found.following[row] and share[row] >= overlap:
            linked.add(pair)
    parent = list(range(len(tracks)))
    for pair, _ in sorted(common.items(), key=lambda item: (-item[1], item[0])):
        a, b = (root(parent, track) for track in pair)
        if a == b:
            continue
        shared = (where[a] & where[b]).bit_count()
        fewer = min(where[a].bit_count(), where[b].bit_count())
        # Highest slice of the one below the lowest of the other.
        apart = any(one.bit_length() <= (other & -other).bit_length() - 1 for one, other in _both(where[a], where[b]))
        if apart or (pair in linked and shared <= SHARED * fewer):
            parent[b] = a
            where[a] |= where[b]
    return np.array([root(parent, track) for track in tracks.tolist()], np.int64)


def _both(first: int, second: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (first, second), (second, first)


def adopt(
    painted: Sequence[PaintedSlice], tracks: Ints, areas: Ints, index: Ints, size: tuple[int, int], reach: int
) -> Ints:
    """Give crumbs that overlap nothing, such as the tip of a process, to the nearest object.

    One at the upper or lower face may be the rest of another vertebra, and goes to an object that shares no slice.
    """
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
        cut = bool(np.isin(mine[:, 2], (0, size[1] - 1)).any())
        for s in painted:
            if not max(low[0], mine[:, 0].min() - reach - 1) <= s.index <= min(high[0], mine[:, 0].max() + reach + 1):
                continue
            y, z = np.divmod(s.pixels.astype(np.int64), size[1])
            inside = (y >= low[1]) & (y <= high[1]) & (z >= low[2]) & (z <= high[2])
            own = tracks[s.first + s.owners[inside]]
            apart = np.asarray(tree.query(np.stack([np.full(len(own), s.index), y[inside], z[inside]], axis=1))[0])
            for track in np.unique(own).tolist():
                if track == crumb:
                    continue
                shares, distance = bool(where[track] & where[crumb]), float(apart[own == track].min())
                if shares and (cut or distance > NEARER):
                    continue
                # Two crumbs are one if no slice says otherwise, such as the rest of a cut vertebra.
                if volume[crumb] <= (1 if small[track] and not shares else CRUMB) * volume[track]:
                    nearest = min(nearest, (distance, track))
        if nearest[1] >= 0:
            parent[crumb] = nearest[1]
            where[nearest[1]] = where[nearest[1]] | where[crumb]
    return np.array([root(parent, track) for track in tracks.tolist()], np.int64)
