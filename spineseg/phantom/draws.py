"""Draws that each take exactly one number from the generator, so that one value never moves the next."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

_NORMAL = NormalDist()


class Draws:
    """One 64-bit word a draw, whatever is drawn."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Between two bounds."""
        return low + (high - low) * float(self._rng.random())

    def normal(self, mean: float, deviation: float, low: float, high: float) -> float:
        """Normal, clipped to two bounds."""
        # Inverse of the distribution: NumPy's own rejects, and takes one word or more.
        deviate = _NORMAL.inv_cdf(min(max(self.uniform(), 1e-12), 1 - 1e-12))
        return min(max(mean + deviation * deviate, low), high)

    def happens(self, chance: float) -> bool:
        """True with a probability."""
        return self.uniform() < chance

    def index(self, weights: Sequence[float]) -> int:
        """Position in a list of weights."""
        place = self.uniform(0.0, sum(weights))
        for position, weight in enumerate(weights):
            place -= weight
            if place < 0:
                return position
        return len(weights) - 1
