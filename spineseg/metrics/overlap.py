"""Overlap of label maps: all pairs of labels counted in one pass, Dice from the counts."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Floats = NDArray[np.float64]
_SLAB = 1 << 22


def dice(common: float, reference: float, prediction: float) -> float:
    """Dice coefficient 2 |A ∩ B| ÷ (|A| + |B|) from voxel counts; NaN where both are empty.

    >>> dice(common=2, reference=4, prediction=4)
    0.5
    """
    return 2 * common / (reference + prediction) if reference + prediction > 0 else float("nan")


@dataclass(frozen=True, eq=False)
class Confusion:
    """Voxels of every pair of labels.

    Attributes:
        reference_ids: (R,) labels that occur in the reference, without 0.
        prediction_ids: (P,) the same of the prediction.
        voxels: (R + 1, P + 1) counts; row and column 0 are the background.
    """

    reference_ids: tuple[int, ...]
    prediction_ids: tuple[int, ...]
    voxels: NDArray[np.int64]

    def dice_matrix(self) -> Floats:
        """Dice (R, P) of every reference label with every predicted one."""
        sizes = self.voxels.sum(axis=1)[1:, None] + self.voxels.sum(axis=0)[None, 1:]
        return cast(Floats, 2 * self.voxels[1:, 1:] / np.maximum(sizes, 1))

    def dice_of(self, label: int) -> float:
        """Dice of one label by its own value; 0 if it is missing on one side, NaN if on both."""
        row = self.reference_ids.index(label) + 1 if label in self.reference_ids else None
        column = self.prediction_ids.index(label) + 1 if label in self.prediction_ids else None
        common = 0 if row is None or column is None else int(self.voxels[row, column])
        in_reference = 0 if row is None else int(self.voxels[row].sum())
        in_prediction = 0 if column is None else int(self.voxels[:, column].sum())
        return dice(common, in_reference, in_prediction)

    def dice_union(self, references: tuple[int, ...], predictions: tuple[int, ...], void: tuple[int, ...]) -> float:
        """Dice of the union of some references with the union of some predictions (``dice_spine``).

        Args:
            references: labels that make the reference.
            predictions: labels that make the prediction.
            void: reference labels whose voxels count for neither side.
        """
        rows = np.isin((0, *self.reference_ids), references)
        valid = ~np.isin((0, *self.reference_ids), void)
        columns = np.isin((0, *self.prediction_ids), predictions)
        rows[0] = columns[0] = False
        return dice(
            int(self.voxels[rows & valid][:, columns].sum()),
            int(self.voxels[rows & valid].sum()),
            int(self.voxels[valid][:, columns].sum()),
        )

    def prediction_voxels(self) -> dict[int, int]:
        """Voxels of each predicted label."""
        return dict(zip(self.prediction_ids, self.voxels.sum(axis=0)[1:].tolist(), strict=True))

    def matching(
        self, references: Collection[int] | None = None, predictions: Collection[int] | None = None
    ) -> dict[int, int]:
        """Reference → predicted label, one to one, so that Σ Dice is largest; pairs without overlap are left out.

        Args:
            references: labels that take part; None = all.
            predictions: the same of the prediction.
        """
        rows = [n for n, label in enumerate(self.reference_ids) if references is None or label in references]
        columns = [n for n, label in enumerate(self.prediction_ids) if predictions is None or label in predictions]
        overlap = self.dice_matrix()[np.ix_(rows, columns)]
        return {
            self.reference_ids[rows[r]]: self.prediction_ids[columns[c]]
            for r, c in zip(*linear_sum_assignment(overlap, maximize=True), strict=True)
            if overlap[r, c] > 0
        }


def confusion(reference: NDArray[np.integer], prediction: NDArray[np.integer]) -> Confusion:
    """Count voxels of every pair of labels in two maps (X, Y, Z) of the same grid.

    >>> found = confusion(np.array([0, 1, 1, 2]), np.array([0, 1, 0, 7]))
    >>> found.dice_of(1), found.matching()
    (0.6666666666666666, {1: 1, 2: 7})
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"label maps of shapes {reference.shape} and {prediction.shape}")
    # Outside the box that holds all labels there is background alone: count that without looking.
    box = content_box(reference, prediction)
    outside = reference.size
    reference, prediction = reference[box], prediction[box]
    outside -= reference.size
    first, rows = _dense(reference)
    second, columns = _dense(prediction)
    total = np.zeros(len(first) * len(second), np.int64)
    step = max(1, _SLAB * len(reference) // max(reference.size, 1))
    for start in range(0, len(reference), step):
        part = rows[reference[start : start + step]] * np.int32(len(second))
        part += columns[prediction[start : start + step]]
        total += np.bincount(part.ravel(), minlength=len(total))
    voxels = total.reshape(len(first), len(second))
    voxels[0, 0] += outside
    return Confusion(first[1:], second[1:], voxels)


def content_box(*maps: NDArray[np.generic]) -> tuple[slice, ...]:
    """Smallest box outside of which all maps (of one shape) are 0; empty where they are 0 everywhere.

    >>> content_box(np.array([0, 0, 1, 0, 5, 0]))
    (slice(2, 5, None),)
    """
    box: list[slice] = []
    for axis in range(maps[0].ndim):
        others = tuple(n for n in range(maps[0].ndim) if n != axis)
        inside = tuple(box)  # axes done before are cut already
        held = np.logical_or.reduce([m[inside].any(axis=others) for m in maps])
        places = np.flatnonzero(held)
        box.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0))
    return tuple(box)


def content_parts(mask: NDArray[np.bool_]) -> list[tuple[slice, ...]]:
    """Boxes that hold all of a mask and that empty planes part; none of them can be shrunk or parted again.

    A voxel far from the rest then costs what it fills, not the volume between.

    >>> content_parts(np.array([0, 1, 1, 0, 1], bool))
    [(slice(1, 3, None),), (slice(4, 5, None),)]
    """
    parts: list[tuple[slice, ...]] = []
    pending = [tuple(slice(0, n) for n in mask.shape)]
    while pending:
        box = pending.pop()
        for axis in range(mask.ndim):
            held = np.asarray(mask[box].any(axis=tuple(n for n in range(mask.ndim) if n != axis)))
            ends = np.flatnonzero(np.diff(held, prepend=False, append=False))
            runs = list(zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True))
            if runs != [(0, len(held))]:
                start = box[axis].start
                pending += [(*box[:axis], slice(start + a, start + b), *box[axis + 1 :]) for a, b in runs]
                break
        else:
            parts.append(box)
    return sorted(parts, key=lambda box: [part.start for part in box])


def _dense(labels: NDArray[np.integer]) -> tuple[tuple[int, ...], NDArray[np.int32]]:
    """Labels that occur (0 first, always), and a look-up table value → position in them."""
    if labels.size and int(labels.min()) < 0:
        raise ValueError("label maps hold no negative values")
    counts = np.zeros(int(labels.max()) + 1 if labels.size else 1, np.int64)
    step = max(1, _SLAB * len(labels) // max(labels.size, 1))
    for start in range(0, len(labels), step):
        counts += np.bincount(labels[start : start + step].ravel(), minlength=len(counts))
    counts[0] = max(counts[0], 1)
    present = np.flatnonzero(counts)
    table = np.zeros(len(counts), np.int32)
    table[present] = np.arange(len(present))
    return tuple(int(value) for value in present), table
