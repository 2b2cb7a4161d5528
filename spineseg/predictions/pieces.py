"""Tracks of instances that are parts of one vertebra: pieces, halves, crumbs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
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
# Pixels that are looked at together.
_AT_ONCE = 1 << 22


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
    for track, x in zip(tracks.tolist(), index.tolist(), strict=True):
        where.setdefault(track, set()).add(x)
    crumbs = [track for track in where if 0 < volume[track] <= CRUMB * volume.max()]
    small = np.zeros(len(tracks), bool)
    small[crumbs] = True
    parent = {track: track for track in where}
    if not crumbs:
        return tracks.copy()
    around, faced = _neighbours(painted, tracks, small, size, reach)
    for crumb in sorted(crumbs, key=lambda track: (volume[track], track)):
        nearest = (NEAR, -1)
        for distance, track in around.get(crumb, ()):
            shares = not where[track].isdisjoint(where[crumb])
            if shares and (crumb in faced or distance > NEARER):
                continue
            # Two crumbs are one if no slice says otherwise, such as the rest of a cut vertebra.
            if volume[crumb] <= (1 if small[track] and not shares else CRUMB) * volume[track]:
                nearest = min(nearest, (distance, track))
        if nearest[1] >= 0:
            parent[crumb] = nearest[1]
            where[nearest[1]] |= where[crumb]
    return np.array([root(parent, track) for track in tracks.tolist()], np.int64)


def _neighbours(
    painted: Sequence[PaintedSlice], tracks: Ints, small: NDArray[np.bool_], size: tuple[int, int], reach: int
) -> tuple[dict[int, list[tuple[float, int]]], set[int]]:
    """Of each small track, distance (pixels and slices) and number of others less than ``NEAR`` away, as painted.

    Only slices at most ``reach`` + 1 below or above those of the small track count. Second, which of the small tracks
    have a pixel at the upper or lower face.
    """
    none = np.zeros(0, np.int64)
    # Ascending, since slices and their pixels are: what lies in a window is a few runs.
    keys = np.concatenate([none, *(s.pixels.astype(np.int64) + s.index * (size[0] * size[1]) for s in painted)])
    own = np.concatenate([none, *(tracks[s.first + s.owners] for s in painted)])
    places = _places(keys, size)
    mine = np.flatnonzero(small[own])
    mine = mine[np.argsort(own[mine], kind="stable")]
    crumbs, starts, counts = np.unique(own[mine], return_index=True, return_counts=True)
    # A fourth axis keeps crumbs apart, so that one tree holds all of them.
    beyond = 2 * NEAR * np.repeat(np.arange(len(crumbs)), counts)
    tree = cKDTree(np.column_stack([beyond, places[mine]]))
    margin = np.array([min(int(NEAR), reach + 1), int(NEAR), int(NEAR)])
    low = np.maximum(np.minimum.reduceat(places[mine], starts) - margin, 0)
    high = np.maximum.reduceat(places[mine], starts) + margin
    high[:, 1:] = np.minimum(high[:, 1:], np.array(size) - 1)
    around: dict[int, list[tuple[float, int]]] = {}
    # Windows of some million voxels at a time, which bounds memory.
    groups = np.cumsum((high - low + 1).prod(axis=1)) // _AT_ONCE
    for group in np.split(np.arange(len(crumbs)), np.flatnonzero(np.diff(groups)) + 1):
        crumb, pixel = _within(keys, low[group], high[group], size)
        crumb = group[crumb]
        other = own[pixel] != crumbs[crumb]
        crumb, pixel = crumb[other], pixel[other]
        found = tree.query(np.column_stack([2 * NEAR * crumb, places[pixel]]), distance_upper_bound=NEAR)
        apart = np.asarray(found[0])
        near = apart < NEAR
        crumb, track, apart = crumb[near], own[pixel[near]], apart[near]
        order = np.lexsort((apart, track, crumb))
        crumb, track, apart = crumb[order], track[order], apart[order]
        first = (np.diff(crumb, prepend=-1) != 0) | (np.diff(track, prepend=-1) != 0)
        for c, t, d in zip(crumbs[crumb[first]].tolist(), track[first].tolist(), apart[first].tolist(), strict=True):
            around.setdefault(c, []).append((d, t))
    faces = np.isin(places[mine, 2], (0, size[1] - 1))
    return around, set(own[mine[faces]].tolist())


def _places(keys: Ints, size: tuple[int, int]) -> Ints:
    """X, Y and Z (N, 3) of flat positions in a stack of slices."""
    rest, z = np.divmod(keys, size[1])
    x, y = np.divmod(rest, size[0])
    return np.stack([x, y, z], axis=1)


def _within(keys: Ints, low: Ints, high: Ints, size: tuple[int, int]) -> tuple[Ints, Ints]:
    """Which of ascending keys lie in which of windows from ``low`` (N, 3) to ``high``: windows (P,) and keys (P,)."""
    sides = high - low + 1
    window, row = _runs(np.zeros(len(low), np.int64), sides[:, 0] * sides[:, 1])
    x, y = np.divmod(row, sides[window, 1])
    line = ((low[window, 0] + x) * size[0] + low[window, 1] + y) * size[1]
    first = np.searchsorted(keys, line + low[window, 2])
    run, key = _runs(first, np.searchsorted(keys, line + high[window, 2], side="right") - first)
    return window[run], key


def _runs(first: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Runs of consecutive numbers, one after the other: which run (N,) each number is of, and the numbers (N,).

    >>> [part.tolist() for part in _runs(np.array([5, 0]), np.array([2, 3]))]
    [[0, 0, 1, 1, 1], [5, 6, 0, 1, 2]]
    """
    run = np.repeat(np.arange(len(counts)), counts)
    return run, np.arange(len(run)) + (first - (np.cumsum(counts) - counts))[run]
