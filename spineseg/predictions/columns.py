"""Columns that people have: their levels, how often, and how far apart their body centres lie."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spineseg.phantom.variants import NUMERIC, PRIORS, column_of
from spineseg.vertebrae import COCCYX, L6, T13, level_id, rank

Floats = NDArray[np.float64]

# Body centre to the next lower one in adults, sexes pooled, mm: middles of ranges measured on masks of CT scans, as the
# digital spine is held against them; T13 and L6 as the levels beside them. Only ratios matter much: a person's own
# scale is fitted.
_PITCHES: Final = {
    **{"C1": 17.0, "C2": 23.0, "C3": 18.0, "C4": 17.5, "C5": 17.0, "C6": 17.5, "C7": 19.5},
    **{"T1": 21.5, "T2": 22.0, "T3": 21.7, "T4": 22.5, "T5": 22.5, "T6": 21.5, "T7": 22.0, "T8": 23.0, "T9": 24.0},
    **{"T10": 26.0, "T11": 28.0, "T12": 30.0, "T13": 31.5, "L1": 33.5, "L2": 37.0, "L3": 36.5, "L4": 35.5},
    **{"L5": 34.0, "L6": 34.0, "sacrum": 70.0},
}
PITCH_MM: Final[dict[int, float]] = {level_id(name): pitch for name, pitch in _PITCHES.items()}


@dataclass(frozen=True, eq=False)
class Column:
    """One kind of column, as far as a model can name it.

    Attributes:
        levels: (S,) canonical ids, cranial to caudal, of those that the model knows.
        share: of people who have it.
        depth_mm: (S,) expected distance along the spine below the column's first level.
        neighbours: (S, K), whether a name stands for a level beside this one; a name of a level that this column lacks
            stands beside both levels around its place.
    """

    levels: tuple[int, ...]
    share: float
    depth_mm: Floats
    neighbours: NDArray[np.bool_]


def columns(classes: tuple[int, ...], *, variants: bool) -> tuple[Column, ...]:
    """The usual column and, with ``variants``, those with T13, L6, eleven ribs (no T12) or four lumbar levels (no L5).

    Shares are the published frequencies of ``phantom.variants.PRIORS``; a person has one of these variants at most. A
    column with T13 or L6 is left out if that is none of the K ``classes``: the model could not say so.
    """
    found = []
    kinds = [kind for kind in NUMERIC if not {T13, L6} & set(column_of(kind)) - set(classes)] if variants else []
    shares = {kind: PRIORS[kind].published for kind in kinds}
    for kind in (None, *kinds):
        whole = (*column_of(kind), COCCYX)
        depth = np.concatenate([[0.0], np.cumsum([PITCH_MM[level] for level in whole[:-1]])])
        known = [n for n, level in enumerate(whole) if level in classes]
        levels = tuple(whole[n] for n in known)
        place = {level: float(n) for n, level in enumerate(levels)}
        for level in classes:
            above = sum(rank(other) < rank(level) for other in levels)
            place.setdefault(level, above - 0.5)
        rows = [[abs(place[a] - place[b]) for b in classes] for a in levels]
        apart = np.array(rows).reshape(len(levels), len(classes))
        share = shares[kind] if kind is not None else 1 - sum(shares.values())
        found.append(Column(levels, share, depth[known], (apart > 0) & (apart <= 1)))
    return tuple(found)


def expected_mm(column: Column) -> Floats:
    """Expected distance (S, S) between the body centres of two levels; negative where the first is the lower one."""
    return column.depth_mm[None, :] - column.depth_mm[:, None]
