"""A person's column of vertebrae: which levels, how large, and what anatomy and disease made of them."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from spineseg.phantom import variants
from spineseg.phantom.curves import Bend, tilts
from spineseg.phantom.draws import Draws
from spineseg.phantom.sizes import LevelSize
from spineseg.phantom.variants import Fracture, Variant
from spineseg.vertebrae import ORDER, level_id, rank

_BODIES: Final = 0.4  # share of a scoliosis that lies in the bodies; the discs have the rest
# End vertebrae of a scoliosis from below, on which side it is convex (share to the right), and how often it occurs.
_PATTERNS: Final[tuple[tuple[float, float, tuple[str, ...]], ...]] = (
    (0.35, 0.9, ("T12", "T5")),
    (0.2, 0.5, ("L3", "T10")),
    (0.2, 0.3, ("L4", "T12")),
    (0.25, 0.1, ("L4", "T11", "T5")),  # lumbar mostly to the left, thoracic opposite
)


@dataclass(frozen=True)
class Factors:
    """What a level's typical sizes are multiplied by: all of them, beyond that the disc below and the canal."""

    size: float
    disc: float
    canal: float

    def scaled(self, typical: LevelSize) -> LevelSize:
        """A person's own sizes of the level."""
        own = typical.scaled(self.size)
        return replace(
            own,
            disc=own.disc * self.disc,
            canal_depth=own.canal_depth * self.canal,
            canal_width=own.canal_width * self.canal,
        )


@dataclass(frozen=True)
class Column:
    """The part of ``Subject`` that concerns his vertebrae; see there."""

    levels: tuple[int, ...]
    sizes: Mapping[int, LevelSize]
    fused: frozenset[int]
    vacuum: frozenset[int]
    sacralised: float
    fractures: Mapping[int, Fracture]
    hemivertebra: int | None
    scoliosis: tuple[Bend, ...]


def draw_column(draws: Draws, found: frozenset[Variant], largest_deg: float, factors: Mapping[int, Factors]) -> Column:
    """Draw a column; all is drawn, and what the person does not have is thrown away.

    Args:
        draws: source of the draws.
        found: the person's variants and diseases.
        largest_deg: Cobb angle of the largest scoliosis.
        factors: on the typical sizes, by level.
    """
    levels = variants.column_of(next((name for name in variants.NUMERIC if name in found), None))
    typical = variants.typical_sizes(levels)
    sizes = {level: factors[level].scaled(typical[level]) for level in levels}
    sizes, vacuum = variants.degenerate(draws, sizes, "degeneration" in found, "vacuum" in found)
    fused = variants.draw_fusions(draws, levels, "block" in found, "ankylosis" in found)
    for level in ORDER:
        thin = draws.uniform(1.0, 2.0)
        if level in fused:
            sizes[level] = replace(sizes[level], disc=thin)
    joined = draws.uniform(0.5, 1.0)
    sacralised = joined if "sacralised" in found else 0.0
    sizes[levels[-2]] = replace(sizes[levels[-2]], disc=sizes[levels[-2]].disc * (1 - 0.5 * sacralised))
    halved, half = variants.draw_hemivertebra(draws, sizes)
    bends = _draw_bends(draws, levels, largest_deg)
    spared = set[int]()
    if "hemivertebra" in found:
        # A scoliosis of its own, as sharp as the body is wedged, in place of the other.
        place = levels.index(halved)
        bends = (Bend(levels[place - 1], levels[place + 1], variants.lateral_deg(half), 0.3),)
        sizes[halved] = half
        spared = {halved}
    else:
        sizes = _lean_bodies(levels, sizes, bends)
    whole = {level: row for level, row in sizes.items() if level not in spared}
    broken = variants.draw_fractures(draws, whole, "fracture" in found)
    return Column(
        levels,
        sizes | {level: row for level, (row, _) in broken.items()},
        fused,
        vacuum - fused,
        sacralised,
        {level: fracture for level, (_, fracture) in broken.items()},
        halved if spared else None,
        bends,
    )


def _draw_bends(draws: Draws, levels: tuple[int, ...], largest_deg: float) -> tuple[Bend, ...]:
    """Draw a scoliosis of up to ``largest_deg``, small ones more often; none when that is 0."""
    # Squared: half of the subjects have less than a quarter of the largest.
    cobb = largest_deg * draws.uniform() ** 2
    _, rightward, names = _PATTERNS[draws.index([share for share, *_ in _PATTERNS])]
    sign = 1.0 if draws.happens(rightward) else -1.0
    minor = draws.uniform(0.6, 1.0)
    shifts = [draws.index((1.0, 2.0, 1.0)) - 1 for _ in range(3)]
    turns = [draws.uniform(0.3, 0.5) for _ in range(2)]
    if cobb <= 0.0:
        return ()
    ends = []
    for name, shift in zip(names, shifts, strict=False):
        place = next(i for i, level in enumerate(levels) if rank(level) >= rank(level_id(name)))
        ends.append(levels[min(place + shift, len(levels) - 2)])
    sizes = (cobb,) if len(names) == 2 else (cobb * minor, -cobb)
    return tuple(
        Bend(upper, lower, sign * size, turn)
        for (lower, upper), size, turn in zip(itertools.pairwise(ends), sizes, turns, strict=False)
    )


def _lean_bodies(
    levels: tuple[int, ...], sizes: Mapping[int, LevelSize], bends: tuple[Bend, ...]
) -> dict[int, LevelSize]:
    """Make bodies in a scoliosis higher on its convex side: a growing spine's bodies take part in the curve."""
    tilt = tilts(levels, bends)
    found = dict(sizes)
    for above, level, below in zip(levels[2:], levels[3:], levels[4:], strict=False):
        angle = _BODIES * (tilt[below][0] - tilt[above][0]) / 2
        found[level] = replace(sizes[level], lateral=sizes[level].width * math.tan(math.radians(angle)))
    return found
