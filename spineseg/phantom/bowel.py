"""Bowel: loops of the small one and the frame of the large one, with wall, fluid, gas, stool or contrast medium."""

import itertools
import math
from collections.abc import Iterator, Mapping

from spineseg.phantom.organ import Map, Organ, between
from spineseg.phantom.outline import Trunk
from spineseg.phantom.shapes import Ellipsoid, Frame, Limb, Vec
from spineseg.phantom.subject import Subject

_LOOPS = range(30, 95)
_STOOL_HU = 25.0


def colon(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk, wall: float) -> Iterator[Organ]:
    """Caecum to rectum as a string of pouches; gas lies in front, stool and gas mix."""
    place, habitus, s = Map(frames, subject.size), trunk.habitus, subject.size
    back = 4.0 * habitus.belly_fat
    path = [place.at("S1", 78, 58, -14), place.at("L4", 92 + back, 38), place.at("L2", 94 + back, 36, -4)]
    path += [place.at("L2", 60, 98, -14), place.at("L3", 0, 108, 8), place.at("L1", -66, 92, -8)]
    path += [place.at("T12", -96 - back, 34, -10), place.at("L3", -98 - back, 22), place.at("L5", -88 - back, 36)]
    path += [place.at("S1", -62, 62, -18), place.at("S1", -6, 60, -50), place.at("S1", 12, 24, -40)]
    path += [place.at("S1", 0, -8, -62), place.at("S1", 0, -16, -110)]
    pouches: list[tuple[Vec, float]] = []
    for leg, (start, end) in enumerate(itertools.pairwise(path)):
        count = max(2, round(math.dist(start, end) / (20.0 * s)))
        for step in range(count):
            u, v, _, _ = habitus.spots[95 + (7 * leg + step) % 35].tolist()
            share = (step + 0.5) / count
            centre = between(start, end, share)
            radius = ((24.0, 22.0, 20.0)[leg] if leg < 3 else 17.0 if leg < 6 else 13.0) * (0.8 + 0.45 * u) * s
            pouches.append(((centre[0], centre[1], centre[2] + 6.0 * (v - 0.5)), radius))
    for centre, radius in pouches:
        yield Organ(Ellipsoid(centre, (radius, radius, 0.95 * radius)), wall, 8.0, within="belly")
    for index, (centre, radius) in enumerate(pouches):
        u, v, w, t = habitus.spots[95 + index % 35].tolist()
        inner = radius - 2.2
        filled = habitus.oral_hu * (0.6 + 0.8 * w) if habitus.oral_hu and t < 0.7 else _STOOL_HU
        surface: Vec = (centre[0], centre[1] + inner * (1.6 * u - 0.9), centre[2])
        # Stool is mixed with gas and with fat of the food: a coarse grain.
        yield Organ(
            Ellipsoid(centre, (inner, inner, inner)),
            filled,
            45.0 if v < 0.5 else 8.0,
            gas_above=surface,
            within="belly",
        )


def small_bowel(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk, wall: float) -> Iterator[Organ]:
    """Loops strewn between colon and spine: tubes of 20 to 30 mm in folds of fat."""
    place, habitus, s = Map(frames, subject.size), trunk.habitus, subject.size
    keep = 1.0 - 0.45 * habitus.belly_fat
    loops: list[tuple[Limb, list[float]]] = []
    for index in _LOOPS:
        u, v, w, t = habitus.spots[index].tolist()
        # Spread by the golden ratio, so that few loops coincide.
        k = index - _LOOPS.start
        if (k * 0.618034) % 1.0 > keep:
            continue
        across, height = (k * 0.754877 + 0.1 * u) % 1.0, (k * 0.569840 + 0.1 * v) % 1.0
        level = ("S1", "L5", "L4", "L3", "L2")[min(4, int(height * 5))]
        depth = 36.0 + 62.0 * w if abs(across - 0.5) < 0.33 else 18.0 + 70.0 * w
        start = place.at(level, 150.0 * (across - 0.5), depth, 16.0 * (v - 0.5) - (16 if level == "S1" else 0))
        turn, rise = 2 * math.pi * t, 0.8 * (u - 0.5)
        length = (16.0 + 26.0 * v) * s
        end: Vec = (
            start[0] + length * math.cos(turn),
            start[1] + 0.7 * length * math.sin(turn),
            start[2] + rise * length,
        )
        radius = (9.5 + 5.0 * u) * s
        loops.append((Limb(start, end, (radius, radius), None, (0.13, 0.31, 0.94)), [u, v, w, t]))
    for limb, (u, v, w, t) in loops:
        yield Organ(limb, wall, 6.0, within="belly")
        inner = limb.radii[0] - 2.0 - 3.5 * float(t > 0.75)
        filled = 22.0 + 20.0 * v
        if habitus.oral_hu and u < 0.75:
            filled = habitus.oral_hu * (0.5 + v)
        middle = between(limb.start, limb.end, 0.5)
        surface: Vec | None = (middle[0], middle[1] + inner * 0.4, middle[2]) if w > 0.8 else None
        lumen = Limb(limb.start, limb.end, (inner, inner), None, limb.up)
        yield Organ(lumen, filled, 7.0, gas_above=surface, within="belly")
