"""From HU to what a network sees, for patches and whole volumes alike."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spineseg.errors import ConfigError


@dataclass(frozen=True)
class Normalization:
    """Clip HU to a range, subtract a mean and divide by a standard deviation.

    Args:
        low: HU below it become it.
        high: HU above it become it.
        mean: subtracted after clipping.
        sd: divided by.
    """

    low: float
    high: float
    mean: float
    sd: float

    def __post_init__(self) -> None:
        """Check that the range is one."""
        if not self.low < self.high or not self.sd > 0:
            raise ConfigError(f"normalization: expected low < high and sd > 0, found {self}")

    def __call__(self, hu: NDArray[np.int16] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalise HU of any shape; a new array."""
        values = hu.astype(np.float32)
        np.clip(values, self.low, self.high, out=values)
        values -= np.float32(self.mean)
        values /= np.float32(self.sd)
        return values

    @property
    def air(self) -> float:
        """What the lowest HU become: the value outside a scan."""
        return (self.low - self.mean) / self.sd
