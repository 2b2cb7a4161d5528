"""Sizes of the vertebrae by level and the ranges that people differ by: tables only, no geometry.

Heights, end plates, canals and discs pool the morphometric studies that the docstring of ``LevelSize`` names; pedicles
and processes are rounded so that whole vertebrae meet extents and volumes measured on real masks. All lengths in mm.
"""

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np

from spineseg.vertebrae import L6, SACRUM, T13, level_id

# Concavity of an end plate at its centre: mm, and a share of the body's height. Published discs are as high in their
# middle, and published pitches as long, as leaves room for no more.
_CONCAVITY: Final = 0.25
_CONCAVITY_SHARE: Final = 0.02


@dataclass(frozen=True)
class LevelSize:
    """Sizes of one vertebra in mm, in its own frame (x right, y anterior, z cranial; origin = centre of the body).

    Heights at the back and front of the body, end-plate width and depth, canal, middle height of the disc below
    (Panjabi 1991/92; Bonczar 2024; Shin 2024; Tan 2004; Kunkel 2011), pedicle width and height,
    half span of the transverse processes and how far they point back and up, and the tip of the spinous process
    behind the canal and below the centre of the body.
    ``concavity`` is what the end plates are sunk beyond the level's own, ``lateral`` how much higher the body is at
    its right edge than at its left one, ``osteophyte`` how far its rims have grown.
    """

    height_posterior: float
    height_anterior: float
    width: float
    depth: float
    canal_depth: float
    canal_width: float
    disc: float
    pedicle_width: float
    pedicle_height: float
    transverse_reach: float
    transverse_back: float
    transverse_up: float
    spinous_back: float
    spinous_down: float
    concavity: float = 0.0
    lateral: float = 0.0
    osteophyte: float = 0.0

    @property
    def height(self) -> float:
        """Mean height of the body."""
        return (self.height_posterior + self.height_anterior) / 2

    @property
    def end_plate_concavity(self) -> float:
        """Depth of the end plates' concavity at its centre."""
        return _CONCAVITY + _CONCAVITY_SHARE * self.height + self.concavity

    @property
    def rim_gap(self) -> float:
        """Gap between the rims above and below the disc: the disc is higher in its middle, by both concavities.

        Not by the whole of them, so that the discs and the pitch of masks are both met within their spread.
        """
        return max(self.disc - (_CONCAVITY + _CONCAVITY_SHARE * self.height), 0.35 * self.disc)

    @property
    def pedicle_x(self) -> float:
        """Distance of the pedicles' axes from the middle plane."""
        return self.canal_width / 2 + self.pedicle_width / 2

    @property
    def pillar_y(self) -> float:
        """Where the articular pillars stand, front to back."""
        return -self.depth / 2 - 0.55 * self.canal_depth

    @property
    def canal_y(self) -> float:
        """Where the axis of the spinal canal runs, front to back: the canal bites a little into the back of the body.

        C1 has no body; its canal lies in its ring (see ``cervical.atlas``).
        """
        return -(self.depth + self.canal_depth) / 2 + 1.0

    @property
    def canal_back(self) -> float:
        """Where the canal ends at the back: the front of the laminae."""
        return self.canal_y - self.canal_depth / 2

    def scaled(self, factor: float) -> "LevelSize":
        """Multiply every length."""
        return replace(self, **{field.name: getattr(self, field.name) * factor for field in fields(self)})


# One row a level, in the order of LevelSize's fields. Heights, end plates, canals and discs are the published ones, the
# middle where a range is published.
_ROWS: Final[dict[str, tuple[float, ...]]] = {
    "C1": (10, 10, 20, 10, 29, 27, 3.0, 6, 8, 38, 2, 0, 6, 0),
    "C2": (22, 22, 19, 15, 17, 23, 4.0, 7, 8, 28, 2, -4, 20, 9),
    "C3": (13, 13, 21, 14.7, 14.6, 21, 4.1, 5.5, 7, 27, 4, -1, 17, 10.5),
    "C4": (13, 12.5, 22, 15, 14.5, 20.4, 4.1, 5.5, 7, 27.5, 4, -1, 17, 10.5),
    "C5": (12.5, 12, 22.8, 15.5, 14.5, 21, 4.1, 6, 7, 30.3, 4, -1, 20, 10.5),
    "C6": (12.5, 12, 24.25, 15.7, 15, 22, 4.3, 6, 7, 31.8, 5, -1, 25, 11.5),
    "C7": (14, 13.5, 25, 17, 15.5, 22, 4.5, 6.5, 8, 34, 9, 0, 30, 14),
    "T1": (16, 15.5, 24.5, 18.5, 16.1, 21.8, 4.0, 8.5, 9, 37.5, 13, 2, 33, 18),
    "T2": (17.5, 16.9, 24.9, 19.6, 15.5, 19.5, 3.3, 7, 11, 34, 14, 3, 30, 20),
    "T3": (17.5, 16.8, 24.6, 22.7, 15.3, 18, 3.0, 5.5, 11, 32, 15, 4, 28, 24),
    "T4": (18, 17, 24.5, 23.3, 15, 17, 2.7, 5, 11, 32, 16, 4, 26, 28),
    "T5": (18, 17, 24.9, 24.3, 15, 17.3, 3.0, 5, 11.5, 32, 17, 4, 24, 32),
    "T6": (18.5, 17.3, 26.2, 26, 15, 17.3, 3.3, 5, 11.5, 31.5, 17, 4, 22, 38),
    "T7": (19, 17.6, 27.8, 27.4, 14.8, 17.2, 3.6, 5.5, 12, 31, 17, 4, 22, 39),
    "T8": (19.5, 18, 29.5, 27.9, 14.6, 17.7, 4.0, 6, 12.5, 30.5, 17, 4, 22, 38),
    "T9": (20.5, 18.8, 30.6, 29.3, 15, 17.9, 4.6, 7, 13.5, 29.5, 16, 4, 22, 35),
    "T10": (21.5, 20, 31.9, 30.5, 15.5, 18.2, 5.3, 7.5, 14.5, 28, 15, 4, 22, 31),
    "T11": (22.5, 20.5, 35.2, 31.9, 16, 19.4, 5.3, 8.5, 16, 26, 13, 4, 23, 26),
    "T12": (23.5, 21.5, 39.2, 32.8, 16.7, 22.2, 5.2, 8.5, 16, 24.5, 10, 2, 25, 22),
    "L1": (26.6, 24.5, 41.1, 34.1, 16, 22, 6.6, 8, 15, 37, 5, 0, 35, 16),
    "L2": (27, 25.8, 43, 34.6, 15.1, 22.2, 7.9, 8.5, 15, 41, 5, 0, 37, 15),
    "L3": (26.7, 26.8, 44.8, 35.2, 14.7, 22.6, 8.8, 10, 14.5, 48, 4, 0, 38, 15),
    "L4": (25.8, 26.9, 47.5, 35.5, 15.1, 23.2, 9.3, 12.5, 14.5, 44, 3, 1, 36, 14),
    "L5": (24.1, 27.4, 48.8, 35.7, 15.7, 26.5, 8.1, 16, 14, 46, 2, 2, 29, 12),
    "S1": (24, 30, 50, 34, 17.4, 31, 1.0, 16, 16, 46, 4, 2, 14, 8),
}
# What is added to the published sizes, mm, so that masks measure as published: rounded edges and the arch take from
# bodies and canals, and with the published heights the lower levels' pitches and volumes come out short.
_TUNED: Final[dict[str, dict[str, float]]] = {
    "C4": {"canal_depth": 0.3},
    "C5": {"width": 0.2, "canal_depth": 0.3},
    "C6": {"height_posterior": 0.2, "height_anterior": 0.2, "width": 0.55, "depth": 0.5, "canal_depth": 0.2},
    "T1": {"depth": 0.5},
    "T11": {"height_posterior": 0.6, "height_anterior": 0.6},
    "T12": {"height_posterior": 0.8, "height_anterior": 0.8, "canal_depth": 0.3, "disc": -0.2},
    "L1": {"depth": 0.7, "canal_depth": 0.4},
    "L2": {"height_posterior": 0.8, "height_anterior": 0.8},
    "L3": {"height_posterior": 0.7, "height_anterior": 0.7},
    "L5": {"height_posterior": 0.5, "height_anterior": 0.4},
}


def _tuned(name: str) -> LevelSize:
    row = LevelSize(*_ROWS[name])
    return replace(row, **{key: round(getattr(row, key) + mm, 2) for key, mm in _TUNED.get(name, {}).items()})


SIZES: Final[dict[int, LevelSize]] = {level_id(name): _tuned(name) for name in _ROWS}

# Cranial to caudal; every case is built with all of them and the field of view decides what is seen.
COLUMN: Final[tuple[int, ...]] = (*range(1, 25), SACRUM)

# Trabecular HU relative to L4's: C2, C5 and T12 by QCT (n = 50), the middle of the range; T1 twice L1's, as one chest
# scan has it; T6 and S1 remembered.
_DENSITY_AT: Final = {"C2": 1.55, "C5": 1.75, "T1": 2.04, "T6": 1.2, "T12": 1.03, "L4": 1.0, "S1": 1.0}
# T13 and L6 stand between the levels that everybody has, and move none of them.
_PLACES: Final = {level: float(place) for place, level in enumerate(COLUMN)} | {
    T13: COLUMN.index(level_id("T12")) + 0.5,
    L6: COLUMN.index(level_id("L5")) + 0.5,
}


def trabecular_factor(level: int) -> float:
    """Trabecular HU of a level relative to L1's, interpolated along the column; C1 has C2's.

    >>> trabecular_factor(20), round(trabecular_factor(8), 1)
    (1.0, 2.0)
    """
    places = [_PLACES[level_id(name)] for name in _DENSITY_AT]
    own, first_lumbar = np.interp([_PLACES[level], _PLACES[level_id("L1")]], places, list(_DENSITY_AT.values()))
    return float(own / first_lumbar)
