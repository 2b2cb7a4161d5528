"""Published sizes of vertebrae by level, in the table's columns; which cells bind is said by their marks.

Marks: V = read in a published source, M = measured on real masks, R = remembered (shown, does not bind). Where two
values or series are given, a cell is a range. The standard deviations are the lower ends of those across people.
"""

import math
from dataclasses import dataclass
from typing import Final

COLUMNS: Final = (
    "height_posterior",
    "height_anterior",
    "width",
    "depth",
    "canal_depth",
    "canal_width",
    "disc",
    "pitch",
    "volume",
)
# Allowed distance of a mean from the published value (mm), or from the range's ends: one standard deviation across
# people. Pitch is given 2.5 mm and volume 15 %; a disc's depends on the region. Means of 40 people vary by a sixth of
# that, so that a cell may meet it with a bias in it: hence the narrow tolerance beside it.
SD_MM: Final = {
    "height_posterior": 2.0,
    "height_anterior": 2.0,
    "width": 3.0,
    "depth": 2.5,
    "canal_depth": 1.2,
    "canal_width": 2.0,
    "pitch": 2.5,
}
DISC_SD_MM: Final = {"C": 1.0, "T": 0.7, "L": 1.2}
VOLUME_SHARE: Final = 0.15
# The narrow tolerance: as much, or twice the mean's standard error where that is more.
NARROW_MM: Final = 1.0
NARROW_SHARE: Final = 0.05  # of a volume


@dataclass(frozen=True)
class Published:
    """A published cell: ``low`` = ``high`` where one value is given; mm, volume in ml."""

    low: float
    high: float
    mark: str

    @property
    def binds(self) -> bool:
        """Whether a phantom has to meet it."""
        return self.mark in "VM"

    @property
    def text(self) -> str:
        """The value or the range as printed."""
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g}–{self.high:g}"

    def tolerance(self, column: str, level: str) -> tuple[float, float]:
        """How far below ``low`` and above ``high`` a mean may lie."""
        if column == "volume":
            return VOLUME_SHARE * self.low, VOLUME_SHARE * self.high
        allowed = DISC_SD_MM[level[0]] if column == "disc" else SD_MM[column]
        return allowed, allowed

    def meets(self, value: float, column: str, level: str) -> bool:
        """Whether a mean lies in the range, widened by the tolerance."""
        below, above = self.tolerance(column, level)
        return self.low - below <= value <= self.high + above

    def meets_narrowly(self, value: float, column: str, sd: float, n: int) -> bool:
        """Whether a mean of ``n`` people with standard deviation ``sd`` lies in the range but for chance."""
        chance = 2.0 * sd / math.sqrt(n) if n > 1 else 0.0
        below, above = (NARROW_SHARE * end if column == "volume" else NARROW_MM for end in (self.low, self.high))
        return self.low - max(below, chance) <= value <= self.high + max(above, chance)

    def bias(self, value: float) -> float:
        """How far a mean lies above the middle of the range."""
        return value - (self.low + self.high) / 2


# In the order of COLUMNS; a mark a cell. C1's heights are those of its arches, its width that of the whole bone; C2's
# anterior height is body and dens.
_ROWS: Final = {
    "C1": ("9 10 71-82 - 29 27 - 17 15", "V V V - V V - V M"),
    "C2": ("- 38 - - 15-19 23 4 23 19", "- R - - V V M M M"),
    "C3": ("13 13 20-22 14.7 14.6 21 4.1 17-19 13.6", "V V V V V V V M M"),
    "C4": ("13 12.5 21-23 15 14.5 20.4 4.1 17-18 13.3", "V V V V V V V M M"),
    "C5": ("12.5 12 22-23.6 15.5 14.5 21 4.1 17 14.8", "V V V V V V V M M"),
    "C6": ("12.5 12 23.8-24.7 15.7 15 22 4.3 17-18 15.9", "V V V V V V V M M"),
    "C7": ("14 13.5 25 17 15.5 22 4.5 18.5-20.5 12-19", "R R R R R R R M M"),
    "T1": ("16 15.5 24.5 18.5 16.1 21.8 4 19.5-23.6 19-24", "R R V R V R R R R"),
    "T2": ("17.5 16.9 24.9 19.6 15.5 19.5 3.3 20-24 20-24", "V V R R R R R R R"),
    "T3": ("17.5 16.8 24.6 22.7 15.3 18 3 20-23.4 18-24", "R R R R R R R R R"),
    "T4": ("18 17 24.5 23.3 15 17 2.7 20.5-25.4 19-27", "R R R R R R V R R"),
    "T5": ("18 17 24.9 24.3 15 17.3 3 21-25 20-29", "R R R R R R R R R"),
    "T6": ("18.5 17.3 26.2 26 15 17.3 3.3 21-22 22", "R R R R R R R R R"),
    "T7": ("19 17.6 27.8 27.4 14.8 17.2 3.6 21-23 26", "R R R R R R R R R"),
    "T8": ("19.5 18 29.5 27.9 14.6 17.7 4 22-24 26", "R R R R V R R R R"),
    "T9": ("20.5 18.8 30.6 29.3 15 17.9 4.6 23-25 28", "V V R R R R R R R"),
    "T10": ("21.5 20 31.9 30.5 15.5 18.2 5.3 25-27 31", "R R R R R R V R R"),
    "T11": ("22.5 20.5 35.2 31.9 16 19.4 5.3 28 34", "R R V R V V R R R"),
    "T12": ("23.5 21.5 39.2 32.8 16.7-18.1 22.2 5.2 30 39-48", "V V V V V V V V V"),
    "L1": ("26.6 24.5 41.1 34.1 16 22 6.6 31-36 40-58", "V V V R V V V V V"),
    "L2": ("27 25.8 43 34.6 15.1 22.2 7.9 36-38 51-60", "V V V R V V V V V"),
    "L3": ("26.7 26.8 44.8 35.2 14.7 22.6 8.8 36-37 55-63", "V V V R V V V V V"),
    "L4": ("25.8 26.9 47.5 35.5 15.1 23.2 9.3 33-38 57-65", "V V V R V V V V V"),
    "L5": ("24.1-26.3 27.4-30.3 48.8 35.7 15.7 26.5 8.1 34 56-66", "V V V V V V V V V"),
    "S1": ("- 30 50 34 17.4 31 - - -", "- R R R V R - - -"),
}


def _cells(values: str, marks: str) -> dict[str, Published]:
    cells = {}
    for column, value, mark in zip(COLUMNS, values.split(), marks.split(), strict=True):
        if value != "-":
            low, _, high = value.partition("-")
            cells[column] = Published(float(low), float(high or low), mark)
    return cells


PUBLISHED: Final[dict[str, dict[str, Published]]] = {name: _cells(*row) for name, row in _ROWS.items()}

# Boxes of whole vertebrae on real masks, left–right × front–back × head–foot in mm, by group of levels [M].
EXTENTS: Final[dict[str, tuple[tuple[float, float], ...]]] = {
    "C3–C6": ((55, 60), (43, 56), (29, 30)),
    "C7–T1": ((69, 77), (64, 66), (34, 38)),
    "T2–T5": ((66, 71), (70, 79), (39, 48)),
    "T6–T12": ((52, 64), (63, 69), (50, 60)),
    "L1–L5": ((72, 103), (80, 93), (42, 63)),
}
