"""Noise in space that tissue is textured with."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from spineseg.phantom.shapes import Array, Box

_TILE = 96


@dataclass(frozen=True)
class Texture:
    """A repeating block of smooth noise, mean 0 and sd 1, looked up by place, so that it costs no whole volume."""

    tile: Array
    step_mm: float

    @classmethod
    def draw(cls, rng: np.random.Generator, sigma: float | tuple[float, float, float], step_mm: float) -> "Texture":
        """Draw a block of ``96³`` cells of ``step_mm``, smoothed by ``sigma`` cells (x, y, z)."""
        tile = gaussian_filter(rng.standard_normal((_TILE,) * 3, dtype=np.float32), sigma, mode="wrap", truncate=3.0)
        return cls(tile / tile.std(), step_mm)

    def on(self, box: Box) -> Array:
        """The noise on a box of voxels."""
        x, y, z = (np.rint(c / self.step_mm).astype(np.int32) % _TILE for c in (box.x, box.y, box.z))
        if x.shape[1] == y.shape[0] == 1:
            # Axis by axis, which is several times faster than a lookup of every voxel.
            upright: Array = self.tile.take(x.ravel(), 0).take(y.ravel(), 1).take(z.ravel(), 2)
            return upright
        found: Array = self.tile.ravel().take((x * _TILE + y) * _TILE + z)
        return found
