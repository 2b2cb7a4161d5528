"""From instances per sagittal slice to vertebrae: link neighbours, number the objects, fill the grid."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spineseg.errors import DataError
from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.masks import areas_px, decode_box, hulls, intersections_px

OVERLAP = 0.5


@dataclass(frozen=True, eq=False)
class LiftedVolume:
    """Objects in the canonical frame, numbered 1..N from cranial to caudal by the z of their centroids.

    Attributes:
        labels: (X, Y, Z) uint16, 0 = background.
        scores: (N,), mean score of the object's instances, weighted by area.
        classes: K level ids, the columns of ``distributions``.
        distributions: (N, K), mean class distribution weighted by area × score (of named instances without a
            distribution: the share of each name); rows sum to 1, or are 0 where nothing is named.
        members: for each object its (slice index, position in that slice's instances).
    """

    labels: NDArray[np.uint16]
    scores: NDArray[np.float64]
    classes: tuple[int, ...]
    distributions: NDArray[np.float64]
    members: tuple[tuple[tuple[int, int], ...], ...]


def lift(
    slices: Iterable[SliceInstances],
    shape: tuple[int, int, int],
    *,
    overlap: float = OVERLAP,
    gap: int = 0,
) -> LiftedVolume:
    """Link the instances of neighbouring slices into objects and fill the grid.

    Two instances are linked when their common area reaches ``overlap`` × the smaller area (IoU breaks at the caps of
    vertebrae). Links join from the strongest down, and never two objects that both have an instance in some slice: one
    detection over two vertebrae must not weld them.

    Args:
        slices: instances of different slices, made exclusive before (``exclusive``, ``slice_labels``); where masks of
            a slice share pixels, the better score keeps them.
        shape: (X, Y, Z) of the canonical grid.
        overlap: least common area ÷ smaller area of a link.
        gap: slices without a partner that a link may bridge; 0 = neighbours only.

    Raises:
        DataError: a slice twice, outside the grid, or of another size.
    """
    found = sorted((s for s in slices if len(s)), key=lambda s: s.index)
    _check(found, shape)
    first = np.concatenate([[0], np.cumsum([len(s) for s in found])]).astype(np.int64)
    areas = [areas_px(s.masks).astype(np.float64) for s in found]
    owner = _join(_links(found, areas, first, overlap, gap), np.repeat([s.index for s in found], np.diff(first)))
    area = np.concatenate([np.zeros(0), *areas])
    score = np.concatenate([np.zeros(0), *(s.scores.astype(np.float64) for s in found)])
    n_objects = int(owner.max()) + 1 if len(owner) else 0
    labels = np.zeros(shape, np.uint16)
    height = np.zeros(n_objects)
    voxels = np.zeros(n_objects)
    for s, start in zip(found, first, strict=False):
        plane = labels[s.index]
        boxes = hulls(s.masks).astype(int)
        for n in np.argsort(-s.scores, kind="stable"):
            y0, z0, y1, z1 = boxes[n]
            free = decode_box(s.masks[n], (y0, z0, y1, z1)) & (plane[y0:y1, z0:z1] == 0)
            plane[y0:y1, z0:z1][free] = owner[start + n] + 1
            columns = free.sum(axis=0)
            height[owner[start + n]] += columns @ np.arange(z0, z1)
            voxels[owner[start + n]] += columns.sum()
    # Z runs to superior: the first object is the one with the largest mean z; what owns no voxel stands last.
    order = np.lexsort((np.arange(n_objects), -height / np.maximum(voxels, 1), voxels == 0))
    order = order[: int((voxels > 0).sum())]
    number = np.zeros(n_objects + 1, np.uint16)
    number[order + 1] = np.arange(1, len(order) + 1)
    classes, votes = _votes(found, area * score)
    weights = np.bincount(owner, weights=area, minlength=n_objects)
    members: list[list[tuple[int, int]]] = [[] for _ in range(n_objects)]
    for s, start in zip(found, first, strict=False):
        for n in range(len(s)):
            members[owner[start + n]].append((s.index, n))
    distributions = np.zeros((n_objects, len(classes)))
    np.add.at(distributions, owner, votes)
    total = distributions.sum(axis=1, keepdims=True)
    distributions = np.divide(distributions, total, out=np.zeros_like(distributions), where=total > 0)
    return LiftedVolume(
        labels=number[labels],
        scores=(np.bincount(owner, weights=area * score, minlength=n_objects) / np.maximum(weights, 1))[order],
        classes=classes,
        distributions=distributions[order],
        members=tuple(tuple(members[i]) for i in order),
    )


def _check(slices: Sequence[SliceInstances], shape: tuple[int, int, int]) -> None:
    for before, s in zip([None, *slices], slices, strict=False):
        if before is not None and before.index == s.index:
            raise DataError(f"slice {s.index} was given twice; expected one list of instances a slice")
        if not 0 <= s.index < shape[0] or s.size != tuple(shape[1:]):
            raise DataError(f"slice {s.index} of size {s.size} does not fit a grid of shape {tuple(shape)}")


def _links(
    slices: Sequence[SliceInstances],
    areas: Sequence[NDArray[np.float64]],
    first: NDArray[np.int64],
    overlap: float,
    gap: int,
) -> list[tuple[int, int]]:
    """Pairs of instances (running numbers) whose overlap suffices: near slices first, then the strongest."""
    links: list[tuple[int, float, int, int]] = []
    for i, s in enumerate(slices):
        for j in range(i + 1, len(slices)):
            step = slices[j].index - s.index
            if step > gap + 1:
                break
            smaller = np.minimum(areas[i][:, None], areas[j][None, :])
            share = intersections_px(s.masks, slices[j].masks) / np.maximum(smaller, 1)
            for a, b in np.argwhere(share >= overlap):
                links.append((step, -float(share[a, b]), int(first[i] + a), int(first[j] + b)))
    return [(a, b) for _, _, a, b in sorted(links)]


def _join(links: Sequence[tuple[int, int]], index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Union-find in the order of ``links``; gives each instance the number (0..) of its object."""
    parent = list(range(len(index)))
    # The slices of an object as bits of one integer, so that a clash is one operation.
    where = [1 << int(x) for x in index]

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in links:
        a, b = root(a), root(b)
        if a != b and not where[a] & where[b]:
            parent[b] = a
            where[a] |= where[b]
    if not parent:
        return np.zeros(0, np.int64)
    return np.unique([root(i) for i in range(len(parent))], return_inverse=True)[1].astype(np.int64)


def _votes(
    slices: Sequence[SliceInstances], weights: NDArray[np.float64]
) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Levels that occur, and the weighted class distribution (instances, levels)."""
    levels = {int(level) for s in slices for level in s.levels if level} | {c for s in slices for c in s.classes}
    classes = tuple(sorted(levels))
    column = {level: n for n, level in enumerate(classes)}
    votes = np.zeros((len(weights), len(classes)))
    start = 0
    for s in slices:
        rows = np.arange(start, start + len(s))
        if s.probabilities is not None:
            votes[rows[:, None], np.array([column[c] for c in s.classes])] = s.probabilities
        else:
            named = s.levels > 0
            votes[rows[named], [column[int(level)] for level in s.levels[named]]] = 1
        start += len(s)
    return classes, votes * weights[:, None]
