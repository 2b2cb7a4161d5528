"""A simulated column of named vertebrae and what a model might say of it: the case that both sides are given."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Labels = NDArray[np.uint8]
SPACING_MM = (1.5, 1.5, 1.5)
# C1 to L5 and the sacrum: VerSe's ids.
LEVELS = (*range(1, 25), 26)


def column(shape: tuple[int, int, int], seed: int) -> tuple[Labels, Labels]:
    """Reference and prediction (X, Y, Z): body, arch and processes of each level, on a bent column.

    The prediction is the reference bent by a smooth field of about a voxel, with a rough outline, and with the crumbs
    and the exchanged voxels that networks leave; no level is missing, so that every surface is measured.
    """
    random = np.random.default_rng(seed)
    reference = np.zeros(shape, np.uint8)
    pitch = (shape[2] - 8) / len(LEVELS)
    for n, level in enumerate(LEVELS):
        z = shape[2] - 4 - pitch * (n + 0.5)
        middle = np.array([shape[0] / 2, shape[1] / 2 + 12 * np.sin(4 * z / shape[2]), z])
        grown = 0.75 + 0.5 * n / len(LEVELS)
        for offset, radii in (
            ((0, 8, 0), (13 * grown, 10 * grown, 0.42 * pitch)),  # body
            ((9, -5, 0), (3, 8, 0.25 * pitch)),  # pedicles and laminae
            ((-9, -5, 0), (3, 8, 0.25 * pitch)),
            ((0, -13, 0), (9, 3, 0.3 * pitch)),
            ((0, -22, -2), (2.2, 9, 0.25 * pitch)),  # spinous process
            ((17, -6, 0), (8, 2.5, 0.2 * pitch)),  # transverse processes
            ((-17, -6, 0), (8, 2.5, 0.2 * pitch)),
        ):
            _paint(reference, middle + np.array(offset) * [grown, grown, 1], np.array(radii), level)
    return reference, _predicted(reference, random)


def _paint(labels: Labels, middle: NDArray[np.float64], radii: NDArray[np.float64], level: int) -> None:
    """Fill a rounded box where nothing else lies."""
    low = np.maximum(np.floor(middle - radii).astype(int), 0)
    high = np.minimum(np.ceil(middle + radii).astype(int) + 1, labels.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    axes = np.ogrid[box]
    inside = sum(((axis - m) / r) ** 4 for axis, m, r in zip(axes, middle, radii, strict=True)) <= 1
    part = labels[box]
    part[inside & (part == 0)] = level


def _predicted(reference: Labels, random: np.random.Generator) -> Labels:
    coarse = random.normal(0, 1.2, (3, 6, 6, 16))
    place = np.indices(reference.shape, np.float32)
    for axis in range(3):
        zoom = [n / c for n, c in zip(reference.shape, coarse[axis].shape, strict=True)]
        place[axis] += ndimage.zoom(coarse[axis].astype(np.float32), zoom, order=1)[tuple(map(slice, reference.shape))]
    place += random.normal(0, 0.35, place.shape).astype(np.float32)
    bent: Labels = ndimage.map_coordinates(reference, place, order=0, mode="nearest")
    # Where two levels meet some voxels change hands.
    grown = ndimage.grey_dilation(bent, (1, 1, 3))
    swapped = (random.random(bent.shape, np.float32) < 0.3) & (bent > 0)
    bent[swapped] = grown[swapped]
    for level in LEVELS[::5]:
        corner = [int(random.integers(4, n - 4)) for n in reference.shape]
        crumb = bent[tuple(slice(c, c + 2) for c in corner)]
        crumb[crumb == 0] = level
    return bent
