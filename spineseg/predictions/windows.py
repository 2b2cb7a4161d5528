"""Where the windows of a sweep over a volume stand, how much each counts, and what it sees."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spineseg.data.normalization import Normalization

Size = tuple[int, int, int]

SIGMA_SCALE: Final = 1 / 8  # of the Gaussian, in window lengths


def window_starts(size: int, patch: int, overlap: float) -> tuple[int, ...]:
    """First voxels of the windows along one axis: evenly spread, at most ``patch × (1 − overlap)`` apart.

    nnU-Net's rule (Isensee et al. 2021): as few windows as that step allows, none beyond the volume.

    Args:
        size: voxels along the axis, at least ``patch``.
        patch: voxels of a window.
        overlap: 0 to below 1.

    >>> window_starts(110, 64, 0.5)
    (0, 23, 46)
    """
    last = size - patch
    count = math.ceil(last / (patch * (1 - overlap))) + 1
    return tuple(int(np.round(last / max(count - 1, 1) * i)) for i in range(count))


def window_weights(size: int, patch: int, starts: Sequence[int]) -> NDArray[np.float32]:
    """Weight (windows, patch) of each window's voxels along one axis; over the windows of a voxel they sum to 1.

    The Gaussian of a window is an outer product over the axes, so the sum of the weights is one as well: no map of it
    is needed. Its peak is on voxel ``patch // 2`` as in nnU-Net.
    """
    bell = np.exp(-0.5 * ((np.arange(patch) - patch // 2) / (SIGMA_SCALE * patch)) ** 2)
    total = np.zeros(size)
    for start in starts:
        total[start : start + patch] += bell
    return np.stack([bell / total[start : start + patch] for start in starts]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows over a volume.

    Attributes:
        shape: (X, Y, Z) of the volume.
        patch: (x, y, z) of a window.
        before: voxels of air ahead of the volume where it is smaller than a window; otherwise 0.
        padded: the volume's shape with such air on both sides.
        starts: of the windows along each axis, in padded voxels.
        weights: (windows, patch) along each axis.
    """

    shape: Size
    patch: Size
    before: Size
    padded: Size
    starts: tuple[tuple[int, ...], ...]
    weights: tuple[NDArray[np.float32], ...]

    @property
    def count(self) -> int:
        """Number of windows."""
        return math.prod(len(starts) for starts in self.starts)

    def read(
        self, image: NDArray[np.int16], corner: Sequence[int], normalization: Normalization
    ) -> NDArray[np.float32]:
        """What the window at ``corner`` (padded voxels) sees: normalised, air outside the volume."""
        first = [start - pad for start, pad in zip(corner, self.before, strict=True)]
        inside = tuple(
            slice(max(start, 0), min(start + length, size))
            for start, length, size in zip(first, self.patch, self.shape, strict=True)
        )
        values = normalization(image[inside])
        if values.shape == self.patch:
            return values
        padded = np.full(self.patch, normalization.air, np.float32)
        padded[tuple(slice(s.start - f, s.stop - f) for s, f in zip(inside, first, strict=True))] = values
        return padded


def lay_windows(shape: Size, patch: Size, overlap: float) -> Windows:
    """Cover a volume with windows; an axis shorter than the window is padded, half on each side.

    Args:
        shape: (X, Y, Z) of the volume.
        patch: (x, y, z) of a window.
        overlap: of neighbouring windows, 0 to below 1.
    """
    padded = tuple(max(n, p) for n, p in zip(shape, patch, strict=True))
    before = tuple((m - n) // 2 for m, n in zip(padded, shape, strict=True))
    starts = tuple(window_starts(m, p, overlap) for m, p in zip(padded, patch, strict=True))
    weights = tuple(window_weights(m, p, s) for m, p, s in zip(padded, patch, starts, strict=True))
    return Windows(shape, patch, (before[0], before[1], before[2]), (padded[0], padded[1], padded[2]), starts, weights)
