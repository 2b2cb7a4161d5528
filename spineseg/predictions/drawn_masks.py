"""How a detector's mask comes back to native pixels: bilinear from pixels of its own, cut at its box. No torch here."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

# A network's image is padded to this at the far ends (the detectors' stride), so that mask pixels cover it.
STRIDE: Final = 32


def drawn_mask(
    plane: NDArray[np.bool_], ratio: int, steps: Sequence[float], size: Sequence[int]
) -> tuple[NDArray[np.bool_], tuple[int, int]] | None:
    """A mask of network pixels as a perfect detector draws it on native ones.

    Args:
        plane: (y, z) mask of one instance in network pixels; its first pixel's outer corner is that of the slice.
        ratio: network pixels a mask pixel; 1 = drawn from the network pixels themselves.
        steps: network pixels a native pixel along Y and Z.
        size: (Y, Z) of the native slice.

    Returns:
        The mask on the native pixels whose centre lies in its box, and the first of them; None if nothing is left.

    >>> square = np.zeros((8, 8), bool)
    >>> square[2:4, 2:4] = True
    >>> mask, corner = drawn_mask(square, 1, (0.5, 0.5), (16, 16))
    >>> mask.astype(int).tolist(), corner
    ([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]], (4, 4))
    """
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if not len(rows):
        return None
    ends = ((int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1))
    low = [max(0, int(np.ceil(first / step - 0.5))) for (first, _), step in zip(ends, steps, strict=True)]
    high = [min(n, int(np.ceil(last / step - 0.5))) for (_, last), step, n in zip(ends, steps, size, strict=True)]
    if low[0] >= high[0] or low[1] >= high[1]:
        return None
    # Mask pixels that touch the box, and no others: the work goes with the instance.
    starts = [first // ratio * ratio for first, _ in ends]
    part = plane[starts[0] : ends[0][1], starts[1] : ends[1][1]]
    mask = part.astype(np.float32) if ratio == 1 else _mask_pixels(part, ratio)
    weights = []
    for axis in (0, 1):
        count = plane.shape[axis] if ratio == 1 else (plane.shape[axis] + -plane.shape[axis] % STRIDE) // ratio
        position = np.clip((np.arange(low[axis], high[axis]) + 0.5) * steps[axis] / ratio - 0.5, 0, count - 1)
        own = starts[axis] // ratio + np.arange(mask.shape[axis])
        weights.append(np.clip(1 - np.abs(position[:, None] - own), 0, None).astype(np.float32))
    crop = np.asarray(weights[0] @ mask @ weights[1].T > 0.5)
    return (crop, (low[0], low[1])) if crop.any() else None


def _mask_pixels(plane: NDArray[np.bool_], ratio: int) -> NDArray[np.float32]:
    """A mask at 1 / ratio, as trained on: set where two of the four pixels around a mask pixel's middle are."""
    padded = np.pad(plane, [(0, -side % ratio) for side in plane.shape])
    first, second = ratio // 2 - 1, ratio // 2
    corners = [padded[y::ratio, z::ratio] for y in (first, second) for z in (first, second)]
    return np.asarray(np.sum(corners, axis=0, dtype=np.int64) >= 2, np.float32)
