"""Whether a scan fits into memory, said before it is read."""

import math
from collections.abc import Sequence
from typing import Final

import psutil

from spineseg.errors import DataError

# Held for each voxel of a scan from reading it to writing its prediction: measured at 256 × 256 × 220 int16 voxels, 7
# to read, 14 with the network's slices, 25 for the threshold baseline, the hungriest. What a 3D network needs on top,
# ``predictions.forecast`` says.
BYTES_A_VOXEL: Final = 26


def scan_mb(shape: Sequence[int]) -> float:
    """Memory in MB (10⁶ bytes) to read a scan of that shape and predict on it, without the network."""
    return math.prod(shape) * BYTES_A_VOXEL / 1e6


def check_room(shape: Sequence[int], *, what: str, limit_gb: float | None = None) -> None:
    """Refuse a scan that does not fit.

    Args:
        shape: of the stored array.
        what: the case or file, for the error.
        limit_gb: 10⁹ bytes; None = what the machine has left.

    Raises:
        DataError: says what the scan needs, what there is, and what to do.
    """
    limit_mb = psutil.virtual_memory().available / 1e6 if limit_gb is None else limit_gb * 1e3
    needed = scan_mb(shape)
    if needed > limit_mb:
        there = "the machine has left" if limit_gb is None else f"memory_limit_gb={limit_gb:g} allows"
        raise DataError(
            f"{what}: a scan of {' × '.join(map(str, shape))} voxels needs about {needed / 1e3:.2f} GB, but {there} "
            f"{limit_mb / 1e3:.2f} GB; crop it, or predict it on a larger machine"
        )
