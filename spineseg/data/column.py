"""Whether the levels of a mask make a column: vertebrae mixed, skipped or named twice, names that moved.

Masks that a model began and a person corrected go wrong in such ways. Nothing here knows a person's size: each vertebra
and each distance is held against its neighbours', which differ by a third at most.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from spineseg.data.plausibility import LevelShape
from spineseg.vertebrae import L6, ORDER, T13, level_name, rank

# Bounds of ratios to the median of two neighbours on either side. Widest on whole vertebrae of five real masks and four
# digital spines, C1 to S1: volume 0.79-1.39, distance 0.81-1.37.
_VOLUME: Final = (0.6, 1.7)
_DISTANCE: Final = (0.65, 1.55)
# Share of a level that is no crumb, and the least of it in ml.
_PIECE: Final = 0.1
_PIECE_ML: Final = 0.5
# Contact area against volume to the power 2/3 (4.8 for a ball inside): a piece in another vertebra, and levels that are
# no neighbours. Whole neighbours of the same masks touch over up to 0.7 through their joints.
_EMBEDDED: Final = 1.5
_TOUCHING: Final = 0.05


def check_column(shapes: Mapping[int, LevelShape], cut: Iterable[int], voxel_mm3: float) -> tuple[str, ...]:
    """Hold every level against its neighbours.

    Args:
        shapes: of canonical levels.
        cut: levels that touch a face of the volume; their size and centre tell nothing.
        voxel_mm3: volume of a voxel.

    Returns:
        Findings, each led by its kind: ``mixed`` (a piece of a level lies in another vertebra), ``apart`` (a level in
        two places), ``size`` (far larger or smaller than its neighbours, as when half of it bears another name),
        ``distance`` (a vertebra without a name between two levels, or two names on one), ``shifted`` (names that skip a
        level where no vertebra is left out), ``touch`` (contact of levels that are no neighbours).
    """
    found = sorted(shapes, key=rank)
    whole = set(found) - set(cut)
    distances = _distances(shapes, found, whole)
    return (
        *_pieces(shapes, found, voxel_mm3, distances),
        *_sizes(shapes, found, whole, voxel_mm3),
        *_steps(distances),
        *_touches(shapes, found, voxel_mm3),
    )


def _pieces(
    shapes: Mapping[int, LevelShape], found: list[int], voxel_mm3: float, distances: list[tuple[int, int, int, float]]
) -> Iterable[str]:
    pitch_mm = float(np.median([mm / steps for _, _, steps, mm in distances])) if distances else 25.0
    for level in found:
        piece = shapes[level].second
        if piece is None or piece.voxels * voxel_mm3 / 1000 < _PIECE_ML or piece.voxels < _PIECE * shapes[level].voxels:
            continue
        share = f"{piece.voxels / shapes[level].voxels:.0%}"
        if piece.host is not None and piece.contact_mm2 > _EMBEDDED * (piece.voxels * voxel_mm3) ** (2 / 3):
            yield f"mixed: {share} of {level_name(level)} lies in {level_name(piece.host)}"
        elif piece.apart_mm > 1.5 * pitch_mm:
            yield f"apart: {share} of {level_name(level)} lies {piece.apart_mm:.0f} mm from the rest"


def _sizes(shapes: Mapping[int, LevelShape], found: list[int], whole: set[int], voxel_mm3: float) -> Iterable[str]:
    for number, level in enumerate(found):
        above = [other for other in found[max(0, number - 2) : number] if other in whole]
        below = [other for other in found[number + 1 : number + 3] if other in whole]
        if level not in whole or not above or not below:
            continue
        beside = float(np.exp(np.median(np.log([shapes[other].voxels for other in above + below]))))
        if not _VOLUME[0] <= shapes[level].voxels / beside <= _VOLUME[1]:
            size, around = (voxels * voxel_mm3 / 1000 for voxels in (shapes[level].voxels, beside))
            yield f"size: {level_name(level)} has {size:.1f} ml, its neighbours {around:.1f}"


def _distances(
    shapes: Mapping[int, LevelShape], found: list[int], whole: set[int]
) -> list[tuple[int, int, int, float]]:
    """Neighbours among the whole levels: both ids, how many names apart, how many mm apart."""
    # T13 and L6 are steps only in a person who has them.
    column = [level for level in ORDER if level not in (T13, L6) or level in shapes]
    return [
        (a, b, column.index(b) - column.index(a), float(np.linalg.norm(np.subtract(*_centres(shapes, a, b)))))
        for a, b in itertools.pairwise(found)
        if {a, b} <= whole
    ]


def _centres(shapes: Mapping[int, LevelShape], a: int, b: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return shapes[a].centre_mm, shapes[b].centre_mm


def _steps(distances: list[tuple[int, int, int, float]]) -> Iterable[str]:
    for number, (a, b, steps, mm) in enumerate(distances):
        around = [other for other in distances[max(0, number - 2) : number + 3] if other != distances[number]]
        if len(around) < 2:
            continue
        expected = float(np.median([other_mm / other_steps for _, _, other_steps, other_mm in around]))
        ratio = mm / (steps * expected)
        where = f"{level_name(a)} and {level_name(b)} lie {mm:.0f} mm apart, their neighbours {expected:.0f}"
        if ratio > _DISTANCE[1]:
            yield f"distance: {where} (a vertebra without a name between them?)"
        elif ratio < _DISTANCE[0] and steps > 1:
            yield f"shifted: {where} (no vertebra is missing between them, so names on one side are wrong)"
        elif ratio < _DISTANCE[0]:
            yield f"distance: {where} (two names on one vertebra?)"


def _touches(shapes: Mapping[int, LevelShape], found: list[int], voxel_mm3: float) -> Iterable[str]:
    for position, level in enumerate(found):
        for other in found[position + 2 :]:
            area = shapes[level].contacts.get(other, 0.0)
            smaller = min(shapes[level].voxels, shapes[other].voxels) * voxel_mm3
            if area > _TOUCHING * smaller ** (2 / 3):
                yield f"touch: {level_name(level)} touches {level_name(other)} over {area:.0f} mm²"
