"""Crumbs go to the object nearest to them: against all distances, pixel by pixel."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from spineseg.predictions.overlaps import Ints, PaintedSlice
from spineseg.predictions.pieces import CRUMB, NEAR, NEARER, adopt, root


def random_tracks(seed: int) -> tuple[list[PaintedSlice], Ints, Ints, Ints, tuple[int, int]]:
    """Components of random slices, each an instance; those of a volume's component are one track."""
    random = np.random.default_rng(seed)
    shape = tuple(int(n) for n in random.integers(4, 22, 3))
    field = ndimage.gaussian_filter(random.normal(size=shape), random.uniform(0, 1.5))
    mask = field > np.quantile(field, random.uniform(0.7, 0.99))
    mask[: shape[0] // 2, : shape[1] // 2] |= random.random() < 0.7  # something that crumbs are small beside
    mask[random.random(shape[0]) < random.choice([0, 0.3])] = False
    volume, _ = ndimage.label(mask)
    painted: list[PaintedSlice] = []
    tracks: list[int] = []
    first = {0: -1}
    for x in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        instances, count = ndimage.label(mask[x])
        pixels = np.flatnonzero(mask[x]).astype(np.int32)
        owners = (instances.ravel()[pixels] - 1).astype(np.int32)
        painted.append(PaintedSlice(x, len(tracks), np.zeros((count, 4), np.int64), pixels, owners))
        for owner in range(count):
            number = int(volume[x].ravel()[pixels[owners == owner][0]])
            tracks.append(first.setdefault(number, len(tracks)))
    areas = np.concatenate([np.zeros(0, np.int64), *(s.areas() for s in painted)])
    index = np.concatenate([np.zeros(0, np.int64), *(np.full(len(s.boxes), s.index) for s in painted)])
    return painted, np.array(tracks, np.int64), areas, index, (shape[1], shape[2])


def adopt_plainly(painted: list[PaintedSlice], tracks: Ints, size: tuple[int, int], reach: int) -> Ints:
    """The rule, from all distances between all pixels of two tracks."""
    points: dict[int, Ints] = {track: np.zeros((0, 3), np.int64) for track in tracks.tolist()}
    for s in painted:
        own = tracks[s.first + s.owners]
        for track in set(own.tolist()):
            y, z = np.divmod(s.pixels[own == track].astype(np.int64), size[1])
            points[track] = np.concatenate([points[track], np.stack([np.full(len(y), s.index), y, z], axis=1)])
    where = {track: set(p[:, 0].tolist()) for track, p in points.items()}
    volume = {track: len(p) for track, p in points.items()}
    crumbs = [track for track in points if volume[track] <= CRUMB * max(volume.values())]
    parent = {track: track for track in points}
    for crumb in sorted(crumbs, key=lambda track: (volume[track], track)):
        mine, best = points[crumb], (NEAR, -1)
        for track, theirs in points.items():
            low, high = mine[:, 0].min() - reach - 1, mine[:, 0].max() + reach + 1
            seen = theirs[(theirs[:, 0] >= low) & (theirs[:, 0] <= high)]
            if track == crumb or not len(seen):
                continue
            shares, distance = bool(where[track] & where[crumb]), float(cdist(mine, seen).min())
            if shares and (distance > NEARER or mine[:, 2].min() == 0 or mine[:, 2].max() == size[1] - 1):
                continue
            if volume[crumb] <= (1 if track in crumbs and not shares else CRUMB) * volume[track]:
                best = min(best, (distance, track))
        if best[1] >= 0:
            parent[crumb] = best[1]
            where[best[1]] |= where[crumb]
    return np.array([root(parent, track) for track in tracks.tolist()], np.int64)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_crumbs_are_adopted_as_the_rule_says(seed: int, reach: int) -> None:
    painted, tracks, areas, index, size = random_tracks(seed)
    found = adopt(painted, tracks, areas, index, size, reach)
    np.testing.assert_array_equal(found, adopt_plainly(painted, tracks, size, reach))


def test_nothing_is_adopted_of_nothing() -> None:
    none = np.zeros(0, np.int64)
    assert adopt([], none, none, none, (5, 5), 1).tolist() == []
