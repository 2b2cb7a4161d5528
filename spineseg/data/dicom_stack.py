"""The geometry of a CT series: its slices in order, on one grid, with the tilt of the gantry taken out.

Positions and directions as in DICOM PS3.3 C.7.6.2.1.1; the grid's axes are a row's pixels, a column's, and the slices.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spineseg.data.dicom_headers import Frame
from spineseg.errors import DataError
from spineseg.geometry import Affine, Grid

AIR_HU: Final = -1024
# Positions are written with one to three decimals; what differs by more from regular is a missing slice.
_SPACING_TOLERANCE: Final = 0.1  # of the spacing
_SAME_MM: Final = 0.01
# A stack that drifts by less over its whole length stands upright.
_DRIFT_PX: Final = 0.25
_LPS_TO_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in the order of the grid's third axis.

    Attributes:
        frames: N slices of one size.
        grid: upright: its third axis is at right angles to the slices.
        shifts: (N, 2), where each slice's first pixel lies on the grid's first two axes, in pixels; 0 without a tilt.
        tilt_degrees: between the third axis and the line through the slices' first pixels.
    """

    frames: tuple[Frame, ...]
    grid: Grid
    shifts: NDArray[np.float64]
    tilt_degrees: float

    def place(self, target: NDArray[np.int16], k: int, plane: NDArray[np.int16]) -> None:
        """Put slice ``k`` (X, Y) in HU on the grid, linearly between its pixels where the tilt moves it."""
        moved: NDArray[Any] = plane
        first = np.floor(self.shifts[k]).astype(int)
        for axis, part in enumerate(self.shifts[k] - first):
            if part > 0:
                pad = [(0, 0), (0, 0)]
                pad[axis] = (1, 1)
                wide = np.pad(np.asarray(moved, np.float32), pad, constant_values=AIR_HU)
                low, high = (wide[1:], wide[:-1]) if axis == 0 else (wide[:, 1:], wide[:, :-1])
                moved = (1 - part) * low + part * high
        i, j = first
        size = moved.shape
        target[i : i + size[0], j : j + size[1], k] = np.rint(moved)

    def to_slices(self, labels: NDArray[np.integer]) -> NDArray[np.integer]:
        """Bring labels (X, Y, N) on the grid back to the slices as they were taken, (N, rows, columns)."""
        rows, columns = self.frames[0].size
        found = np.empty((len(self.frames), rows, columns), labels.dtype)
        for k, (x, y) in enumerate(np.rint(self.shifts).astype(int)):
            found[k] = labels[x : x + columns, y : y + rows, k].T
        return found


def stack(frames: Sequence[Frame], *, what: str) -> Stack:
    """Order slices by their position along the normal of their planes and put them on one grid.

    A tilted gantry shifts each slice against the one before it: the grid is then upright, at right angles to the
    slices and wide enough for all of them, and each slice is moved in its own plane.

    Args:
        frames: of one series, in any order.
        what: the case, for errors.

    Raises:
        DataError: slices of several sizes, spacings or directions, at one position, missing, or not evenly spaced.
    """
    _check_alike(frames, what)
    row, column = frames[0].orientation / np.linalg.norm(frames[0].orientation, axis=1, keepdims=True)
    column = column - (column @ row) * row
    column /= np.linalg.norm(column)
    normal = np.cross(row, column)
    ordered = sorted(frames, key=lambda frame: float(frame.position @ normal))
    positions = np.stack([frame.position for frame in ordered])
    step = _step(positions, normal, what)
    across = np.array([step @ row, step @ column])
    height = float(step @ normal)
    rows, columns = frames[0].size
    pixel = np.array([frames[0].spacing[1], frames[0].spacing[0]])
    drift = across / pixel * (len(frames) - 1)
    tilted = bool(np.abs(drift).max() > _DRIFT_PX)
    shifts = np.arange(len(frames))[:, None] * (across / pixel)[None] if tilted else np.zeros((len(frames), 2))
    # Room on the side to which the slices go; whole pixels, so that the first slice keeps its values.
    before = np.ceil(np.maximum(0, -shifts.min(axis=0)) - 1e-9)
    shifts = shifts + before
    # Noise of the last bits moves nothing.
    shifts = np.where(np.abs(shifts - np.rint(shifts)) < 1e-6, np.rint(shifts), shifts)
    extent = np.ceil(shifts.max(axis=0)).astype(int)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row * pixel[0], column * pixel[1], normal * height
    affine[:3, 3] = positions[0] - affine[:3, :2] @ before
    grid = Grid((columns + int(extent[0]), rows + int(extent[1]), len(frames)), _LPS_TO_RAS @ affine)
    degrees = float(np.degrees(np.arctan2(np.linalg.norm(across), height)))
    return Stack(tuple(ordered), grid, shifts, degrees if tilted else 0.0)


def _check_alike(frames: Sequence[Frame], what: str) -> None:
    sizes = Counter(frame.size for frame in frames)
    if len(sizes) > 1:
        listed = ", ".join(f"{n} of {rows} × {columns}" for (rows, columns), n in sizes.most_common())
        raise DataError(f"{what}: slices of several sizes (rows × columns): {listed}; take those of one size alone")
    first = frames[0]
    for frame in frames:
        if not np.allclose(frame.spacing, first.spacing, rtol=1e-4):
            raise DataError(
                f"{what}: slices of several pixel spacings, {first.spacing} mm and {frame.spacing} mm "
                f"({frame.file.name}); take those of one spacing alone"
            )
        if np.abs(frame.orientation - first.orientation).max() > 1e-3:
            raise DataError(
                f"{what}: slices in several directions, {first.orientation.ravel().tolist()} and "
                f"{frame.orientation.ravel().tolist()} ({frame.file.name}); take those of one direction alone"
            )


def _step(positions: Affine, normal: NDArray[np.float64], what: str) -> NDArray[np.float64]:
    """The vector (3,) in mm from a slice to the next."""
    if len(positions) < 2:
        raise DataError(f"{what}: one slice only; a volume needs two or more")
    heights = positions @ normal
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    if gaps.min() < _SAME_MM:
        k = int(gaps.argmin())
        raise DataError(
            f"{what}: {int((gaps < _SAME_MM).sum())} slices lie where another does, the first at z = "
            f"{positions[k][2]:.2f} mm; the series mixes several acquisitions: take the slices of one alone"
        )
    odd = np.flatnonzero(np.abs(gaps - usual) > max(_SPACING_TOLERANCE * usual, _SAME_MM))
    if len(odd):
        k = int(odd[0])
        places = ", ".join(f"{positions[i][2]:.2f}" for i in odd[:5]) + (", …" if len(odd) > 5 else "")
        if (gaps[odd] > 1.5 * usual).all():
            missing = int(np.rint(gaps[odd] / usual - 1).sum())
            raise DataError(
                f"{what}: gap at z = {places} mm: the next slice is {gaps[k]:.2f} mm away, where others are "
                f"{usual:.2f} mm apart: {missing} missing; copy the whole series"
            )
        raise DataError(
            f"{what}: irregular spacing at z = {places} mm: slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart, "
            f"most of them {usual:.2f}; expected even distances. Resample the series, or take its even part"
        )
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(positions) - 1)
    # As above for distances: sideways, each slice has to lie on the line through the first and the last.
    aside = positions - positions[0] - np.arange(len(positions))[:, None] * step
    aside = aside - (aside @ normal)[:, None] * normal
    worst = int(np.linalg.norm(aside, axis=1).argmax())
    if np.linalg.norm(aside[worst]) > max(0.2 * usual, 0.1):
        raise DataError(
            f"{what}: the slice at z = {positions[worst][2]:.2f} mm lies {np.linalg.norm(aside[worst]):.2f} mm beside "
            "the line of the others; expected one straight stack"
        )
    return step
