"""Volumes in one coordinate system: arrays (X, Y, Z), affines voxel → mm in RAS+.

Every reader returns the file's own (native) grid with the affine turned to RAS+; ``canonical`` permutes and flips the
axes so that they point right, anterior and superior, ``restore`` takes that back voxel for voxel.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import nibabel as nib
import numpy as np
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from spineseg.errors import DataError

Array = NDArray[Any]
Affine = NDArray[np.float64]
SpacingMm = tuple[float | None, float | None, float | None]
# SciPy extends by as many border voxels before its spline filter in mode `nearest`; the filter's memory is shorter.
_SPLINE_MARGIN: Final = 12


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie: ``shape`` (X, Y, Z) and ``affine`` (4, 4), voxel index → mm in RAS+."""

    shape: tuple[int, int, int]
    affine: Affine

    def __post_init__(self) -> None:
        """Check the shape and that the affine can be inverted."""
        affine = np.asarray(self.affine, np.float64)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise DataError(f"expected a grid of three axes with voxels, found shape {self.shape}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise DataError(
                f"expected an invertible 4×4 affine, found {affine.tolist()}: a zero, negative or missing spacing "
                "in the header; write the file again with its true voxel size"
            )
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "affine", affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along X, Y, Z in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def orientation(self) -> str:
        """Axis codes, for example ``PIR``: the first axis runs to posterior, and so on."""
        return "".join(aff2axcodes(self.affine))

    def distance_mm(self, other: "Grid") -> float:
        """Largest distance in mm between the same corner voxel of the two grids (infinite if the shapes differ)."""
        if self.shape != other.shape:
            return float("inf")
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij")).reshape(3, -1).T
        apart = index_to_mm(self.affine, corners) - index_to_mm(other.affine, corners)
        return float(np.linalg.norm(apart, axis=1).max())


@dataclass(frozen=True, eq=False)
class Volume:
    """An array (X, Y, Z) on its grid; ``affine`` (4, 4) takes voxel indices to mm in RAS+."""

    array: Array
    affine: Affine

    def __post_init__(self) -> None:
        """Check that array and affine make a grid."""
        object.__setattr__(self, "affine", Grid(self.array.shape, self.affine).affine)

    @property
    def grid(self) -> Grid:
        """The grid without the values."""
        return Grid(self.array.shape, self.affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along X, Y, Z."""
        return cast(tuple[int, int, int], self.array.shape)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along X, Y, Z in mm."""
        return self.grid.spacing_mm

    @property
    def orientation(self) -> str:
        """Axis codes, for example ``RAS``."""
        return self.grid.orientation

    def with_array(self, array: Array) -> "Volume":
        """The same grid with other values."""
        if array.shape != self.array.shape:
            raise DataError(f"expected an array of shape {self.array.shape}, found {array.shape}")
        return Volume(array, self.affine)


def index_to_mm(affine: Affine, index: ArrayLike) -> Affine:
    """Voxel indices (..., 3) → positions (..., 3) in mm, RAS+."""
    return cast(Affine, nib.affines.apply_affine(affine, np.asarray(index, np.float64)))


def mm_to_index(affine: Affine, position_mm: ArrayLike) -> Affine:
    """Positions (..., 3) in mm, RAS+ → voxel indices (..., 3), not rounded."""
    return cast(Affine, nib.affines.apply_affine(np.linalg.inv(affine), np.asarray(position_mm, np.float64)))


def canonical_grid(grid: Grid) -> Grid:
    """The grid that ``canonical`` gives a volume on ``grid``."""
    orientation = _orientation(grid.affine)
    shape = [0, 0, 0]
    for axis, (target, _) in enumerate(orientation):
        shape[int(target)] = grid.shape[axis]
    return Grid((shape[0], shape[1], shape[2]), grid.affine @ inv_ornt_aff(orientation, grid.shape))


def canonical(volume: Volume) -> Volume:
    """Permute and flip the axes so that they run to right, anterior and superior; no value changes."""
    array = apply_orientation(volume.array, _orientation(volume.affine))
    return Volume(array, canonical_grid(volume.grid).affine)


def restore(volume: Volume, native: Grid) -> Volume:
    """Undo ``canonical``: bring a volume on ``canonical_grid(native)`` back to ``native``, voxel for voxel.

    The result carries ``native``'s own affine, bit for bit.

    Raises:
        DataError: the volume's shape is not that of the canonical grid of ``native``.
    """
    expected = canonical_grid(native)
    if volume.shape != expected.shape:
        raise DataError(f"expected a canonical volume of shape {expected.shape}, found {volume.shape}")
    orientation = _orientation(native.affine)
    back = nib.orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), orientation)
    return Volume(apply_orientation(volume.array, back), native.affine)


def label_counts(labels: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """Voxels of each value from 0 to ``count`` − 1 (count,); plane by plane, since counting takes 8 bytes a voxel.

    >>> label_counts(np.array([[0, 2], [2, 2]]), 4).tolist()
    [1, 0, 3, 0]
    """
    total = np.zeros(count, np.int64)
    for plane in labels:
        total += np.bincount(plane.ravel(), minlength=count)
    return total


def _orientation(affine: Affine) -> NDArray[np.float64]:
    orientation = io_orientation(affine)
    if np.isnan(orientation).any():
        raise DataError(f"an axis of the affine has no direction: {affine.tolist()}")
    return cast(NDArray[np.float64], orientation)


def resampled_grid(grid: Grid, spacing_mm: SpacingMm) -> Grid:
    """The grid of the same field of view at another spacing; None keeps an axis.

    The outer corner of the first voxel stays where it is; an axis keeps at least one voxel, and its length is that of
    the old one to half a new voxel.
    """
    shape, factors = list(grid.shape), np.ones(3)
    for axis, (old, new) in enumerate(zip(grid.spacing_mm, spacing_mm, strict=True)):
        if new is not None and not np.isclose(old, new, rtol=1e-6):
            if new <= 0:
                raise DataError(f"spacing must be positive or null, found {spacing_mm}")
            factors[axis] = new / old
            shape[axis] = max(1, round(grid.shape[axis] / factors[axis]))
    step = np.eye(4)
    step[:3, :3] = np.diag(factors)
    step[:3, 3] = 0.5 * (factors - 1)
    return Grid((shape[0], shape[1], shape[2]), grid.affine @ step)


def resample_image(volume: Volume, spacing_mm: SpacingMm, order: Literal[1, 3] = 1) -> Volume:
    """Resample values to another spacing.

    Order 1: linear, and averaging over the new voxel where voxels get larger, which keeps noise and thin cortical
    shells from aliasing. Order 3: the interpolating cubic B-spline at the new voxels' centres, without averaging, the
    border voxel going on outside: what ``scipy.ndimage`` gives with ``order=3, mode="nearest"`` at these positions, and
    what nnU-Net does to images. Integers are rounded and keep their type; order 3 overshoots at edges.

    Args:
        volume: any real array (X, Y, Z).
        spacing_mm: new spacing along X, Y, Z; None keeps the axis as it is.
        order: of the spline, 1 or 3.
    """
    target = resampled_grid(volume.grid, spacing_mm)
    array = volume.array
    changed = [axis for axis in range(3) if not np.isclose(volume.spacing_mm[axis], target.spacing_mm[axis], rtol=1e-6)]
    if not changed:
        return volume
    weights_of = _averaging_weights if order == 1 else _spline_weights
    # The axes that lose most voxels first: the later ones then have less to do.
    for axis in sorted(changed, key=lambda a: target.shape[a] / array.shape[a]):
        weights = weights_of(array.shape[axis], target.shape[axis], target.spacing_mm[axis] / volume.spacing_mm[axis])
        array = np.moveaxis(np.tensordot(weights, array.astype(np.float32, copy=False), axes=(1, axis)), 0, axis)
    if np.issubdtype(volume.array.dtype, np.integer):
        info = np.iinfo(volume.array.dtype)
        array = np.clip(np.rint(array), info.min, info.max)
    return Volume(np.ascontiguousarray(array, dtype=volume.array.dtype), target.affine)


def resample_labels(volume: Volume, spacing_mm: SpacingMm) -> Volume:
    """Resample labels to another spacing: each new voxel takes the label at its centre (nearest neighbour)."""
    return resample_labels_to(volume, resampled_grid(volume.grid, spacing_mm))


def resample_labels_to(volume: Volume, grid: Grid) -> Volume:
    """Nearest labels on another grid with parallel axes; outside the volume 0.

    Raises:
        DataError: the axes are not parallel (a rotation between the grids needs a general resampler).
    """
    step = np.linalg.inv(volume.affine) @ grid.affine
    direction = step[:3, :3]
    if not np.allclose(direction, np.diag(np.diag(direction)), atol=1e-4):
        raise DataError("labels can only be brought to a grid with parallel axes; make both canonical first")
    if grid.shape == volume.shape and np.allclose(step, np.eye(4), atol=1e-3):
        return Volume(volume.array.copy(), grid.affine)
    picks, inside = [], []
    for axis in range(3):
        index = np.floor(step[axis, axis] * np.arange(grid.shape[axis]) + step[axis, 3] + 0.5).astype(np.int64)
        inside.append((index >= 0) & (index < volume.shape[axis]))
        picks.append(np.clip(index, 0, volume.shape[axis] - 1))
    array = volume.array[np.ix_(*picks)]
    for axis, keep in enumerate(inside):
        if not keep.all():
            array[tuple(~keep if a == axis else slice(None) for a in range(3))] = 0
    return Volume(array, grid.affine)


def _averaging_weights(n_old: int, n_new: int, factor: float) -> NDArray[np.float32]:
    """Rows (n_new, n_old): the linearly interpolated signal, averaged around each new voxel's centre; rows sum to 1.

    A voxel is the mean over its own width already; a box of width √(factor² − 1) on top gives the variance of a box as
    wide as the new voxel, and none where the grid gets no coarser. Linear signals stay exact.
    """
    width = float(np.sqrt(max(factor**2 - 1, 0.0)))
    centres = factor * (np.arange(n_new) + 0.5) - 0.5
    margin = int(np.ceil(factor)) + 2
    old = np.arange(-margin, n_old + margin)
    distance = np.asarray(centres[:, None] - old[None, :], np.float64)
    if width < 1e-3:
        weights = np.clip(1 - np.abs(distance), 0, None)
    else:
        weights = (_hat_integral(distance + width / 2) - _hat_integral(distance - width / 2)) / width
    # The border voxel stands for all that lies outside.
    inner = weights[:, margin : margin + n_old].copy()
    inner[:, 0] += weights[:, :margin].sum(axis=1)
    inner[:, -1] += weights[:, margin + n_old :].sum(axis=1)
    return np.asarray(inner / inner.sum(axis=1, keepdims=True), np.float32)


def _spline_weights(n_old: int, n_new: int, factor: float) -> NDArray[np.float32]:
    """Rows (n_new, n_old): the interpolating cubic spline at each new voxel's centre; rows sum to 1.

    The recursive filter that turns values into coefficients (Unser 1993) and the four B-spline weights of a position
    are both linear, so an axis is one matrix, and a volume three products of matrices.
    """
    extended = np.pad(np.eye(n_old), ((_SPLINE_MARGIN, _SPLINE_MARGIN), (0, 0)), mode="edge")
    coefficients = ndimage.spline_filter1d(extended, order=3, axis=0, mode="nearest")
    centres = factor * (np.arange(n_new) + 0.5) - 0.5 + _SPLINE_MARGIN
    first = np.floor(centres).astype(np.int64) - 1
    weights = np.zeros((n_new, n_old))
    for tap in range(4):
        distance = np.abs(centres - (first + tap))
        share = np.where(
            distance < 1, 2 / 3 - distance**2 * (1 - distance / 2), np.clip(2 - distance, 0, None) ** 3 / 6
        )
        weights += share[:, None] * coefficients[np.clip(first + tap, 0, len(extended) - 1)]
    # Far taps sink below what float32 holds as a normal number, and those make a product thirty times slower.
    return np.where(np.abs(weights) < 1e-8, 0, weights).astype(np.float32)


def _hat_integral(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral of the hat function max(1 − |x|, 0) from −∞ to t."""
    t = np.clip(t, -1, 1)
    return np.where(t < 0, (t + 1) ** 2 / 2, 1 - (1 - t) ** 2 / 2)
