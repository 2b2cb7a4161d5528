"""Polygons and masks: exact outlines along pixel edges, their inverse, and YOLO's label rows.

Coordinates are (x, y) = (column, row) in pixels from the outer corner of the first pixel, so that a pixel's centre is
at +0.5 and dividing by the width and height gives YOLO's normalised ones.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spineseg.errors import DataError

Points = NDArray[np.float64]
Mask = NDArray[np.bool_]
Corner = tuple[int, int]


def rasterise(points: Points, shape: tuple[int, int]) -> Mask:
    """Fill a polygon by the even-odd rule: the pixels whose centre lies inside.

    Args:
        points: (n, 2) x, y in pixels; the last is joined to the first.
        shape: rows, columns.
    """
    x0, y0 = points.T
    x1, y1 = np.roll(points, -1, axis=0).T
    flips = np.zeros((shape[0], shape[1] + 1), bool)
    low = max(0, math.ceil(float(y0.min()) - 0.5))
    for row in range(low, min(shape[0], math.ceil(float(y0.max()) - 0.5))):
        centre = row + 0.5
        crossing = (y0 <= centre) != (y1 <= centre)
        x = x0[crossing] + (centre - y0[crossing]) / (y1[crossing] - y0[crossing]) * (x1[crossing] - x0[crossing])
        # Centres at or right of the crossing change sides.
        columns = np.clip(np.ceil(x - 0.5), 0, shape[1]).astype(np.int64)
        np.logical_xor.at(flips[row], columns, True)
    return np.logical_xor.accumulate(flips, axis=1)[:, : shape[1]]


def outline(mask: Mask) -> Points:
    """One polygon along the pixel edges of a mask; ``rasterise`` gives the mask back, holes and all parts included.

    Parts and holes are joined by bridges that are walked in both directions, which the even-odd rule does not see.

    Raises:
        ValueError: an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        raise ValueError("an empty mask has no outline")
    crop = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    loops = sorted(_loops(crop), key=len, reverse=True)
    path = np.array(loops[0], np.float64)
    for loop in loops[1:]:
        other = np.array(loop, np.float64)
        gaps = np.square(path[:, None] - other[None]).sum(axis=2)
        here, there = np.unravel_index(int(np.argmin(gaps)), gaps.shape)
        round_trip = np.concatenate((np.roll(other, -there, axis=0), other[there : there + 1], path[here : here + 1]))
        path = np.concatenate((path[: here + 1], round_trip, path[here + 1 :]))
    return path + np.array([columns[0], rows[0]], np.float64)


def _loops(mask: Mask) -> list[list[Corner]]:
    """Closed walks along pixel edges with the mask on the right, corners only."""
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1]
    after: dict[Corner, list[Corner]] = defaultdict(list)
    # Each side of a pixel that has no neighbour there is one directed edge, clockwise in image coordinates.
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    for neighbour, start, end in sides:
        for row, column in np.argwhere(inner & ~neighbour).tolist():
            after[column + start[0], row + start[1]].append((column + end[0], row + end[1]))
    loops = []
    while after:
        first = next(iter(after))
        walk = [first]
        while after.get(walk[-1]):
            corner = walk[-1]
            walk.append(after[corner].pop())
            if not after[corner]:
                del after[corner]
        loops.append(_corners(walk[:-1]))
    return loops


def _corners(walk: list[Corner]) -> list[Corner]:
    """Leave out the points of a closed walk in which it goes straight on."""
    kept = []
    for before, here, following in zip([walk[-1], *walk[:-1]], walk, [*walk[1:], walk[0]], strict=True):
        if (here[0] - before[0], here[1] - before[1]) != (following[0] - here[0], following[1] - here[1]):
            kept.append(here)
    return kept


def to_row(class_index: int, points: Points, shape: tuple[int, int]) -> str:
    """A polygon as a row of a YOLO label file: class, then x and y as shares of width and height.

    >>> to_row(0, np.array([[0.0, 0.0], [2, 0], [2, 4]]), (4, 4))
    '0 0 0 0.5 0 0.5 1'
    """
    shares = points / np.array([shape[1], shape[0]])
    return " ".join([str(class_index), *(f"{value:.8g}" for value in shares.ravel())])


def read_rows(text: str, *, class_count: int, shape: tuple[int, int], what: str) -> list[tuple[int, Points]]:
    """Read a YOLO label file: (class, polygon in pixels) of each row.

    Args:
        text: rows ``<class> x1 y1 … xn yn``, normalised.
        class_count: number of classes in ``data.yaml``.
        shape: rows, columns of the image.
        what: the file's name, for the error.

    Raises:
        DataError: all bad rows: fewer than three points, an odd number of values, NaN, beyond the image, unknown class.
    """
    rows: list[tuple[int, Points]] = []
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = [float(value) for value in line.split()]
        except ValueError:
            problems.append(f"line {number}: not numbers")
            continue
        if problem := _row_problem(values, class_count):
            problems.append(f"line {number}: {problem}")
            continue
        points = np.clip(np.array(values[1:]).reshape(-1, 2), 0, 1) * np.array([shape[1], shape[0]])
        rows.append((int(values[0]), points))
    if problems:
        raise DataError(
            f"{what}: {'; '.join(problems)}. Expected rows '<class> x1 y1 … xn yn' with at least three points, shares "
            f"of the image from 0 to 1, and a class below {class_count}; export the data set again or mend the rows"
        )
    return rows


def _row_problem(values: Sequence[float], class_count: int) -> str | None:
    if len(values) % 2 == 0:
        return f"{len(values) - 1} coordinates, an odd number"
    if len(values) < 7:
        return f"{len(values) // 2} points" + (" (a box, no polygon?)" if len(values) == 5 else "")
    if not all(math.isfinite(value) for value in values):
        return "NaN or infinite values"
    # Exporters round: a thousandth beyond the edge is the edge.
    if min(values[1:]) < -0.001 or max(values[1:]) > 1.001:
        return f"values from {min(values[1:]):g} to {max(values[1:]):g}"
    if values[0] != int(values[0]) or not 0 <= values[0] < class_count:
        return f"class {values[0]:g}"
    return None
