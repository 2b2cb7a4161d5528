"""Whether a mask lies on the bone of its image: what is wrong although the two grids agree.

A set whose images were given the geometry of their masks, or whose masks were paired with other images, passes every
comparison of headers. The voxels tell: no shift or flip of a right mask finds denser tissue than the mask itself.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spineseg.geometry import Volume

_SAMPLES: Final = 40_000
# Up to about half a vertebra; a whole one further the mask lies on bone again.
_REACH_MM: Final = 10.0
_STEP_MM: Final = 2.0
# On scans with right masks every shift loses, the smallest 7 HU; what is gained here is no noise: it is a mean of
# thousands of voxels.
_GAIN_HU: Final = 20.0
_SIDES: Final = ("left-right", "front-back", "head-foot")


def check_alignment(image: Volume, labels: Volume) -> tuple[str, ...]:
    """Compare the mean HU inside the mask with the means inside the mask flipped, or shifted by up to 10 mm.

    Args:
        image: int16 HU, canonical.
        labels: the mask on the same grid.

    Returns:
        At most one finding, ``flipped`` or ``displaced``: where the mask would lie on bone that is denser by 20 HU.
    """
    where = np.flatnonzero(labels.array)
    if not where.size:
        return ()
    where = where[:: max(1, where.size // _SAMPLES)]
    index = np.stack(np.unravel_index(where, labels.shape))
    here = _mean(image.array, index)
    flips = [(_mean(image.array, _flipped(index, axis, image.shape)), _SIDES[axis]) for axis in range(3)]
    shifts = [(_mean(image.array, index + offset[:, None]), offset) for offset in _offsets(image)]
    flip, shift = max(flips), max(shifts, key=lambda pair: pair[0])
    if max(flip[0], shift[0]) < here + _GAIN_HU:
        return ()
    if flip[0] > shift[0]:
        return (f"flipped: mean inside the mask {here:.0f} HU, {flip[0]:.0f} with it turned {flip[1]}",)
    moved = " ".join(f"{value:+.0f}" for value in shift[1] * image.spacing_mm)
    return (f"displaced: mean inside the mask {here:.0f} HU, {shift[0]:.0f} with it moved by {moved} mm (x y z)",)


def _offsets(image: Volume) -> Iterator[NDArray[np.int64]]:
    for axis, spacing_mm in enumerate(image.spacing_mm):
        voxels = {round(mm / spacing_mm) for mm in np.arange(_STEP_MM, _REACH_MM + 0.1, _STEP_MM)} - {0}
        for distance in sorted(voxels):
            for sign in (-1, 1):
                offset = np.zeros(3, np.int64)
                offset[axis] = sign * distance
                yield offset


def _flipped(index: NDArray[np.int64], axis: int, shape: tuple[int, int, int]) -> NDArray[np.int64]:
    turned = index.copy()
    turned[axis] = shape[axis] - 1 - turned[axis]
    return turned


def _mean(array: NDArray[np.int16], index: NDArray[np.int64]) -> float:
    """Mean at voxels (3, N), which stay inside at the border."""
    inside = [np.clip(part, 0, length - 1) for part, length in zip(index, array.shape, strict=True)]
    return float(array[tuple(inside)].mean(dtype=np.float64))
