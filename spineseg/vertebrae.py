"""The vocabulary: vertebral levels by name, and what the integers in each data set's masks mean.

Canonical ids are VerSe's: 1-7 C1-C7, 8-19 T1-T12, 20-24 L1-L5, 25 L6, 26 sacrum (S1 where only that is drawn),
27 coccyx, 28 T13.
"""

import colorsys
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from spineseg.errors import ConfigError, DataError

Region = Literal["cervical", "thoracic", "lumbar", "sacral"]

BACKGROUND: Final = 0
T13: Final = 28
L6: Final = 25
SACRUM: Final = 26
COCCYX: Final = 27

# Cranial to caudal; T13 stands between T12 and L1, L6 between L5 and the sacrum.
ORDER: Final[tuple[int, ...]] = (*range(1, 20), T13, *range(20, 28))

_RANK: Final = {level: position for position, level in enumerate(ORDER)}


@dataclass(frozen=True)
class Level:
    """One vertebral level: canonical id, name, region and an sRGB colour (0-255) for overlays."""

    id: int
    name: str
    region: Region
    color: tuple[int, int, int]


def _name_and_region(level: int) -> tuple[str, Region]:
    if level <= 7:
        return f"C{level}", "cervical"
    if level <= 19:
        return f"T{level - 7}", "thoracic"
    if level == T13:
        return "T13", "thoracic"
    if level <= L6:
        return f"L{level - 19}", "lumbar"
    return {SACRUM: "sacrum", COCCYX: "coccyx"}[level], "sacral"


def _color(position: int) -> tuple[int, int, int]:
    # Steps of the golden angle in hue keep neighbouring levels far apart; three brightnesses tell distant ones apart.
    hue = (position * 0.381966) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, (1.0, 0.85, 0.7)[position % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


LEVELS: Final[dict[int, Level]] = {
    level: Level(level, *_name_and_region(level), _color(position)) for position, level in enumerate(ORDER)
}
_BY_NAME: Final = {level.name: level.id for level in LEVELS.values()} | {"S1": SACRUM}


def level_id(name: str) -> int:
    """Canonical id of a level's name; ``S1`` is the sacrum's id.

    >>> level_id("T12"), level_id("S1")
    (19, 26)
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise ConfigError(f"'{name}' is no vertebral level; expected one of {', '.join(_BY_NAME)}") from None


def level_name(level: int) -> str:
    """Name of a canonical id.

    >>> level_name(28)
    'T13'
    """
    try:
        return LEVELS[level].name
    except KeyError:
        raise ConfigError(f"{level} is no canonical vertebra id; expected 1 to 28 (VerSe's)") from None


def rank(level: int) -> int:
    """Position of a level in the column from C1 (0) down; T13 lies between T12 and L1.

    >>> rank(19) < rank(28) < rank(20)
    True
    """
    return _RANK[level]


@dataclass(frozen=True)
class Convention:
    """What the values of a data set's masks mean: ``table`` takes each value to its canonical id.

    ``other`` holds values that the convention knows and that are no vertebra, such as TotalSegmentator's organs.
    """

    name: str
    table: Mapping[int, int]
    other: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Check that the table is one to one onto known levels."""
        unknown = sorted(set(self.table.values()) - set(LEVELS))
        if unknown or len(set(self.table.values())) != len(self.table) or BACKGROUND in self.table:
            raise ConfigError(f"convention '{self.name}' must map distinct values ≠ 0 to distinct levels: {self.table}")


def csi2014_convention(anchor_label: int = 100, anchor_level: str = "L5") -> Convention:
    """CSI 2014's hundreds: ``anchor_label`` is ``anchor_level`` and each further hundred is one level more cranial.

    Which vertebra is 100 is not documented, hence the anchor; levels above C1 or below L5 are not in the table.
    """
    if anchor_label % 100:
        raise ConfigError(f"the anchor's label must be a multiple of 100, found {anchor_label}")
    column = list(range(1, 25))  # C1..L5: the set labels neither T13, L6 nor the sacrum
    if level_id(anchor_level) not in column:
        raise ConfigError(f"the anchor must be one of C1 to L5, found {anchor_level}")
    anchor = column.index(level_id(anchor_level))
    labels = {anchor_label + 100 * (anchor - position): level for position, level in enumerate(column)}
    return Convention("csi2014", {label: level for label, level in labels.items() if label > 0})


CONVENTIONS: Final[dict[str, Convention]] = {
    convention.name: convention
    for convention in (
        Convention("verse", {level: level for level in LEVELS}),
        # The Kaggle set's 25 is S1, where VerSe's is L6.
        Convention("kaggle", {**{level: level for level in range(1, 25)}, 25: SACRUM}),
        # 26 (S1) and 25 (the rest of the sacrum) cannot both be vertebrae: S1 is the one drawn as a vertebra.
        Convention(
            "totalsegmentator_v2",
            {**{51 - level: level for level in range(1, 25)}, 26: SACRUM},
            frozenset(range(1, 118)) - set(range(26, 51)),
        ),
        Convention(
            "totalsegmentator_v1",
            {**{42 - level: level for level in range(1, 25)}, 92: SACRUM},
            frozenset(range(1, 105)) - set(range(18, 42)) - {92},
        ),
        csi2014_convention(),
    )
}


@dataclass(frozen=True)
class ConventionMap:
    """A map between two conventions: values to values, and by name the levels that the target cannot express."""

    table: Mapping[int, int]
    lost: tuple[str, ...]


def convention(name: str) -> Convention:
    """Look a label convention up by name."""
    try:
        return CONVENTIONS[name]
    except KeyError:
        raise ConfigError(f"unknown label convention '{name}'; expected one of {', '.join(CONVENTIONS)}") from None


def convention_map(source: str, target: str) -> ConventionMap:
    """Map label values of one convention to another's, and say what gets lost.

    >>> convention_map("verse", "kaggle").lost
    ('T13', 'L6', 'coccyx')
    >>> convention_map("totalsegmentator_v2", "kaggle").table[26]
    25
    """
    back = {level: value for value, level in convention(target).table.items()}
    levels = convention(source).table
    lost = sorted((level for level in levels.values() if level not in back), key=rank)
    table = {value: back[level] for value, level in levels.items() if level in back}
    return ConventionMap(table, tuple(level_name(level) for level in lost))


def relabel(
    array: NDArray[np.generic], table: Mapping[int, int], *, what: str, drop: Iterable[int] = ()
) -> NDArray[np.uint8]:
    """Replace label values by ``table``; 0 stays 0, values in ``drop`` become 0.

    Args:
        array: labels of any shape, integers or whole-numbered floats.
        table: value → new value (0-255).
        what: the file's name, for the error.
        drop: values to clear, for example a convention's whole sacrum.

    Raises:
        DataError: a value that is neither in the table nor dropped, or is not a whole number. Nothing ever wraps.
    """
    if not np.issubdtype(array.dtype, np.integer):
        whole = np.round(array.astype(np.float64))
        if not np.array_equal(whole, array):
            raise DataError(
                f"{what}: labels are not whole numbers (an interpolated mask?); expected one integer a vertebra. "
                "Export the mask again with nearest-neighbour interpolation."
            )
        array = whole.astype(np.int64)
    cleared = set(drop)
    low = int(array.min()) if array.size else 0
    span = (int(array.max()) - low + 1) if array.size else 1
    if span <= 1 << 16:
        # A dense look-up is an order faster than sorting the values of a whole scan.
        offsets = np.subtract(array, low, dtype=np.int64).astype(np.uint16, copy=False)
        values = [int(value) + low for value in np.flatnonzero(np.bincount(offsets.ravel(), minlength=span))]
    else:
        values = [int(value) for value in np.unique(array)]
    unknown = [value for value in values if value != BACKGROUND and value not in table and value not in cleared]
    if unknown:
        raise DataError(
            f"{what}: unknown label {', '.join(map(str, unknown))}; expected {_ranges(table)}. "
            "Check the label convention: the source's config in prepare, prediction_convention= or "
            "reference_convention= in evaluate."
        )
    if span <= 1 << 16:
        lookup = np.zeros(span, np.uint8)
        for value in values:
            lookup[value - low] = table.get(value, BACKGROUND) if value not in cleared else BACKGROUND
        return np.asarray(lookup[offsets])
    result = np.zeros(array.shape, np.uint8)
    for value in values:
        if value in table and value not in cleared:
            result[array == value] = table[value]
    return result


def in_convention(levels: NDArray[np.integer], name: str, *, what: str) -> NDArray[np.unsignedinteger]:
    """Label values of a convention for an array of canonical level ids of any shape; 0 stays 0.

    >>> in_convention(np.array([0, 20, 24]), "csi2014", what="a scan").tolist()
    [0, 500, 100]

    Args:
        levels: canonical ids.
        name: of the convention.
        what: the case's name, for the error.

    Returns:
        uint8, or uint16 where a value is above 255.

    Raises:
        DataError: a level that the convention has no value for.
    """
    table = convention_map("verse", name).table
    known = np.isin(np.arange(max(LEVELS) + 1), [BACKGROUND, *table])
    if not known[levels].all():
        lost = sorted({int(level) for level in np.unique(levels) if not known[level]}, key=rank)
        raise DataError(
            f"{what}: {', '.join(map(level_name, lost))} cannot be written as convention={name}, which has no value "
            "for it; convention=verse has one for every level"
        )
    values = np.zeros(max(LEVELS) + 1, np.uint16 if max(table.values()) > np.iinfo(np.uint8).max else np.uint8)
    for level, value in table.items():
        values[level] = value
    return np.asarray(values[levels])


def _ranges(values: Iterable[int]) -> str:
    """Short form of a set of integers: ``1-24, 26``; equal steps stay together (``100-2400 in steps of 100``)."""
    ordered = sorted(values)
    steps = {b - a for a, b in itertools.pairwise(ordered)}
    if len(steps) == 1 and steps != {1}:
        return f"{ordered[0]}-{ordered[-1]} in steps of {steps.pop()}"
    runs: list[list[int]] = []
    for value in ordered:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
