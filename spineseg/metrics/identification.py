"""Whether vertebrae bear their right name (PROTOCOL 1), from body centres alone."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from spineseg.vertebrae import SACRUM, T13, level_id

NEAR_MM: Final = 20.0
CRUMB_ML: Final = 0.5
CRUMB_SHARE: Final = 0.05
_ROUNDING_MM: Final = 1e-9


def crumbs(volumes_ml: Mapping[int, float]) -> frozenset[int]:
    """Predicted levels that are too small to say where a vertebra is: below max(0.5 ml, 5 % of the median level).

    Args:
        volumes_ml: of all predicted levels that count.

    >>> sorted(crumbs({20: 40.0, 21: 44.0, 22: 1.9, 23: 50.0})), sorted(crumbs({20: 0.4}))
    ([22], [20])
    """
    if not volumes_ml:
        return frozenset()
    least = max(CRUMB_ML, CRUMB_SHARE * float(np.median(list(volumes_ml.values()))))
    return frozenset(level for level, volume in volumes_ml.items() if volume < least)


def identified(
    reference_mm: Mapping[int, ArrayLike], predicted_mm: Mapping[int, ArrayLike], levels: Iterable[int]
) -> dict[int, bool]:
    """Whether each level is identified: predicted, less than 20 mm off, and nearest to the reference of its own name.

    Args:
        reference_mm: body centres (3,) of ALL reference levels, those that are ignored included. An equal distance to
            another of them is no identification.
        predicted_mm: body centres of the predicted levels that count and are no crumbs.
        levels: the reference levels that count.

    >>> reference = {20: (0, 0, 60), 21: (0, 0, 30), 22: (0, 0, 0)}
    >>> identified(reference, {20: (0, 0, 59), 21: (0, 0, 14), 23: (0, 0, 0)}, [20, 21, 22])
    {20: True, 21: False, 22: False}
    """
    return {level: level in predicted_mm and _nearest(level, reference_mm, predicted_mm[level]) for level in levels}


def _nearest(level: int, reference_mm: Mapping[int, ArrayLike], point_mm: ArrayLike) -> bool:
    away = {
        other: float(np.linalg.norm(np.asarray(place, np.float64) - np.asarray(point_mm, np.float64)))
        for other, place in reference_mm.items()
    }
    own = away.pop(level)
    return own < NEAR_MM - _ROUNDING_MM and all(own < other - _ROUNDING_MM for other in away.values())


@dataclass(frozen=True)
class Identification:
    """Counts of a case, a subject or a set, and the rates made of them (NaN for 0 ÷ 0).

    Attributes:
        identified: levels.
        levels: reference levels that count.
        predicted: predicted levels that count and are no crumbs.

    >>> counts = Identification(identified=3, levels=4, predicted=6)
    >>> counts.id, counts.id_precision, counts.id_f1
    (0.75, 0.5, 0.6)
    """

    identified: float
    levels: float
    predicted: float

    @property
    def id(self) -> float:
        """Identified ÷ reference levels."""
        return _ratio(self.identified, self.levels)

    @property
    def id_precision(self) -> float:
        """Identified ÷ predicted levels."""
        return _ratio(self.identified, self.predicted)

    @property
    def id_f1(self) -> float:
        """2 × identified ÷ (reference + predicted levels)."""
        return _ratio(2 * self.identified, self.levels + self.predicted)


def all_right(found: Mapping[int, bool], spurious: Collection[int], small: Collection[int]) -> bool:
    """Whether every level is identified and no predicted level is spurious.

    Args:
        found: of ``identified``.
        spurious: predicted levels on no vertebra (``error_split.spurious``).
        small: crumbs, which count on neither side.
    """
    return all(found.values()) and not set(spurious) - set(small)


def anchored(levels: Collection[int], cut: Collection[int]) -> bool:
    """Whether a scan shows from where to count: C2, the sacrum, or the last rib.

    Judged by the labels of the reference: C2 and the sacrum if any of them is in view; the rib if the last thoracic
    level (T12, or T13 in who has one) and L1 are both there and not cut.

    >>> anchored([20, 21, 22], []), anchored([19, 20, 21], []), anchored([19, 20, 21], [19]), anchored([24, 26], [26])
    (False, True, False, True)
    """
    whole = set(levels) - set(cut)
    rib = level_id("L1") in whole and bool(whole & {level_id("T12"), T13})
    return rib or bool({level_id("C2"), SACRUM} & set(levels))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")
