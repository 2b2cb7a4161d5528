"""Slices for tests of DICOM, and the one series of a folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from spineseg.data.dicom import Series, find_series

Write = Callable[..., list[Path]]
SHAPE = (10, 12, 6)


def values(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1500, shape).astype(np.int16)


def only(where: Path) -> Series:
    found = find_series(where)
    assert not found.broken
    (series,) = found.series
    return series
