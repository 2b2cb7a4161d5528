"""What a level's missing Dice is made of: names, mixed voxels, outlines, misses (PROTOCOL 6)."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from spineseg.metrics.overlap import Confusion, dice
from spineseg.vertebrae import L6, ORDER, T13

MATCHED: Final = 0.1
LEAST_SPURIOUS_ML: Final = 0.5
MIXED_SHARE: Final = 0.2
COHERENT_SHARE: Final = 0.8


@dataclass(frozen=True)
class LevelError:
    """The four terms of one reference level; they sum to 1 − its named Dice.

    Attributes:
        naming: Dice lost because the match bears another name.
        mixed: Dice lost to voxels exchanged with other vertebrae.
        outline: what is left.
        missed: all of it where the match has a Dice below 0.1, or there is none.
        match: predicted label that the matching gives; None without overlap.

    >>> LevelError(naming=0.5, mixed=0.25, outline=0.125, missed=0.0).total
    0.875
    """

    naming: float
    mixed: float
    outline: float
    missed: float
    match: int | None = None

    @property
    def total(self) -> float:
        """1 − named Dice."""
        return self.naming + self.mixed + self.outline + self.missed


def split_errors(pairs: Confusion, levels: Sequence[int], kept: Sequence[int]) -> dict[int, LevelError]:
    """Split 1 − Dice of each reference level into naming, mixed, outline and missed.

    With M the one-to-one matching that maximises Σ Dice, F(g) = D(g, M(g)) and N(g) = D(g, the prediction named g):
    naming = F − N. If F ≥ 0.1, mixed is what F gains when the voxels of g under other predicted labels are given to
    M(g) and its voxels on other reference vertebrae are taken away, and outline is the rest; else missed = 1 − F. Other
    labels and other vertebrae are all that the maps hold, what the field of view took out of the score included.

    Args:
        pairs: confusion of reference and prediction.
        levels: reference labels that count (V).
        kept: predicted labels that count (P).

    >>> import numpy as np
    >>> from spineseg.metrics.overlap import confusion
    >>> pairs = confusion(np.array([20, 20, 20, 20, 0, 21]), np.array([22, 22, 21, 0, 0, 21]))
    >>> error = split_errors(pairs, (20, 21), (21, 22))[20]
    >>> error.match, round(error.naming, 3), round(error.mixed, 3), round(error.outline, 3), error.missed
    (22, 0.667, 0.19, 0.143, 0.0)
    """
    match = pairs.matching(levels, kept)
    return {level: _level_error(pairs, level, match.get(level), level in kept) for level in levels}


def _level_error(pairs: Confusion, level: int, match: int | None, found: bool) -> LevelError:
    by_name = pairs.dice_of(level) if found else 0.0
    if match is None:
        return LevelError(naming=-by_name, mixed=0.0, outline=0.0, missed=1.0)
    row, column = pairs.reference_ids.index(level) + 1, pairs.prediction_ids.index(match) + 1
    common = int(pairs.voxels[row, column])
    size, predicted = int(pairs.voxels[row].sum()), int(pairs.voxels[:, column].sum())
    best = dice(common, size, predicted)
    naming = best - by_name
    if best < MATCHED:
        return LevelError(naming, 0.0, 0.0, 1 - best, match)
    gained = int(pairs.voxels[row, 1:].sum()) - common
    lost = int(pairs.voxels[1:, column].sum()) - common
    mended = dice(common + gained, size, predicted + gained - lost)
    return LevelError(naming, mended - best, 1 - mended, 0.0, match)


def spurious(
    pairs: Confusion, errors: Mapping[int, LevelError], kept: Iterable[int], voxel_ml: float
) -> dict[int, float]:
    """Predicted labels on no vertebra, with their volume in ml.

    Those of at least 0.5 ml that the matching leaves out or gives to a level with a Dice below 0.1.

    Args:
        pairs: confusion of reference and prediction.
        errors: of ``split_errors``.
        kept: predicted labels that count.
        voxel_ml: volume of a voxel.
    """
    placed = {error.match for error in errors.values() if error.match is not None and error.missed == 0}
    volumes = pairs.prediction_voxels()
    return {
        label: volumes[label] * voxel_ml
        for label in kept
        if label not in placed and volumes[label] * voxel_ml >= LEAST_SPURIOUS_ML
    }


def shift(level: int, match: int, levels: Collection[int]) -> int:
    """Steps in the column from a level to the name that its vertebra was given; caudal positive.

    T13 and L6 are steps only in a subject that has them; a name that the subject has not is one step beyond its
    neighbour.

    Args:
        level: reference level.
        match: predicted level.
        levels: all levels of the subject's reference.

    >>> shift(19, 20, {19, 20}), shift(19, 20, {19, 28, 20}), shift(20, 28, {19, 20}), shift(22, 21, {21, 22})
    (1, 2, -1, -1)
    """
    column = [name for name in ORDER if name not in (T13, L6) or name in levels or name in (level, match)]
    return column.index(match) - column.index(level)


def coherently_shifted(shifts: Iterable[int], levels: int) -> bool:
    """Whether at least 80 % of a case's levels share one shift other than 0.

    Args:
        shifts: of the matched levels.
        levels: reference levels that count.

    >>> coherently_shifted([1, 1, 1, 1], 5), coherently_shifted([1, 1, 1], 5), coherently_shifted([0, 0], 2)
    (True, False, False)
    """
    found = list(shifts)
    most = max((found.count(value) for value in set(found) - {0}), default=0)
    return most > 0 and most >= COHERENT_SHARE * levels


def is_mixed(pairs: Confusion, levels: Iterable[int]) -> bool:
    """Whether some reference vertebra lies by at least 20 % of its volume under a second predicted label.

    >>> import numpy as np
    >>> from spineseg.metrics.overlap import confusion
    >>> reference = np.array([20, 20, 20, 20])
    >>> [is_mixed(confusion(reference, np.array(p)), [20]) for p in ([1, 1, 1, 2], [1, 1, 1, 1], [1, 0, 0, 0])]
    [True, False, False]
    """
    for level in levels:
        row = pairs.voxels[pairs.reference_ids.index(level) + 1]
        under = sorted(row[1:].tolist())
        if len(under) > 1 and under[-2] >= MIXED_SHARE * int(row.sum()):
            return True
    return False
