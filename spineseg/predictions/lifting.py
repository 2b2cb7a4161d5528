"""From instances per sagittal slice to vertebrae: link slices, number the objects, fill the grid."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spineseg.errors import DataError
from spineseg.predictions.filling import Box, fill
from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.linking import link
from spineseg.predictions.overlaps import paint

# Tried on real masks that were eroded, thinned out, merged and split; the table is experiments/lifting's.
OVERLAP = 0.5
GAP = 6
ALIKE = 0.5


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
    gap: int = GAP,
    alike: float = ALIKE,
) -> LiftedVolume:
    """Link the instances of neighbouring slices into objects and fill the grid.

    Two instances are linked when their common area reaches ``overlap`` × the smaller area (IoU breaks at the caps of
    vertebrae). Links join from the nearest and strongest on, and never two objects that both have an instance in some
    slice: one detection over two vertebrae must not weld them. A piece too small for a vertebra joins the object that
    covers its ends (``linking.link``); an object is filled in where slices missed it (``filling.fill``).

    Args:
        slices: instances of different slices, made exclusive before (``exclusive``, ``slice_labels``); where masks of
            a slice share pixels, the better score keeps them.
        shape: (X, Y, Z) of the canonical grid.
        overlap: least common area ÷ smaller area of a link.
        gap: slices without a partner that a link may bridge and that are filled; 0 = neighbours only.
        alike: least intersection over union of an object's outlines around slices in which only others were found, if
            it is to be filled in there.

    Raises:
        DataError: a slice twice, outside the grid, or of another size.
    """
    found = sorted((s for s in slices if len(s)), key=lambda s: s.index)
    _check(found, shape)
    painted = paint(found)
    owner = link(painted, (shape[1], shape[2]), overlap=overlap, gap=gap)
    n_objects = int(owner.max(initial=-1)) + 1
    labels = np.zeros(shape, np.uint16)
    members: list[list[tuple[int, int]]] = [[] for _ in range(n_objects)]
    boxes: dict[int, dict[int, Box]] = {label: {} for label in range(1, n_objects + 1)}
    for s in painted:
        own = owner[s.first : s.first + len(s.boxes)]
        labels[s.index].reshape(-1)[s.pixels] = own[s.owners] + 1
        for n in np.flatnonzero(own >= 0).tolist():
            members[own[n]].append((s.index, n))
            y0, z0, y1, z1 = (int(edge) for edge in s.boxes[n])
            at = boxes[int(own[n]) + 1]
            v0, w0, v1, w1 = at.get(s.index, (y0, z0, y1, z1))
            at[s.index] = (min(y0, v0), min(z0, w0), max(y1, v1), max(z1, w1))
    if gap:
        fill(labels, boxes, (s.index for s in painted), gap=gap, alike=alike)
    order = np.argsort(-_heights(labels, n_objects), kind="stable")
    number = np.zeros(n_objects + 1, np.uint16)
    number[order + 1] = np.arange(1, n_objects + 1)
    kept = owner >= 0
    area = np.concatenate([np.zeros(0), *(s.areas() for s in painted)])[kept]
    score = np.concatenate([np.zeros(0), *(s.scores.astype(np.float64) for s in found)])[kept]
    weights = np.bincount(owner[kept], weights=area, minlength=n_objects)
    classes, votes = _votes(found)
    distributions = np.zeros((n_objects, len(classes)))
    np.add.at(distributions, owner[kept], votes[kept] * (area * score)[:, None])
    total = distributions.sum(axis=1, keepdims=True)
    distributions = np.divide(distributions, total, out=np.zeros_like(distributions), where=total > 0)
    return LiftedVolume(
        labels=number[labels],
        scores=(np.bincount(owner[kept], weights=area * score, minlength=n_objects) / weights)[order],
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


def _heights(labels: NDArray[np.uint16], n_objects: int) -> NDArray[np.float64]:
    """Mean z of each object's voxels (N,); Z runs to superior, so the first object is the one with the largest."""
    total, voxels = np.zeros(n_objects + 1), np.zeros(n_objects + 1)
    for plane in labels:
        here = np.flatnonzero(plane)
        values = plane.reshape(-1)[here]
        total += np.bincount(values, weights=here % plane.shape[1], minlength=n_objects + 1)
        voxels += np.bincount(values, minlength=n_objects + 1)
    return total[1:] / np.maximum(voxels[1:], 1)


def _votes(slices: Sequence[SliceInstances]) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Levels that occur, and the class distribution of each instance (instances, levels)."""
    levels = {int(level) for s in slices for level in s.levels if level} | {c for s in slices for c in s.classes}
    classes = tuple(sorted(levels))
    column = {level: n for n, level in enumerate(classes)}
    votes = np.zeros((sum(len(s) for s in slices), len(classes)))
    start = 0
    for s in slices:
        rows = np.arange(start, start + len(s))
        if s.probabilities is not None:
            votes[rows[:, None], np.array([column[c] for c in s.classes])] = s.probabilities
        else:
            named = s.levels > 0
            votes[rows[named], [column[int(level)] for level in s.levels[named]]] = 1
        start += len(s)
    return classes, votes
