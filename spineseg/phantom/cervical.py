"""The neck: C1 as a ring, C2 with its dens, and C3 to C7."""

from dataclasses import replace

from spineseg.phantom.bones import Part, arch, body, canal, pair, spinous
from spineseg.phantom.shapes import Ellipsoid, Limb, Shape, Tube, Vec
from spineseg.phantom.sizes import LevelSize


def atlas(size: LevelSize) -> tuple[list[Part], list[Shape]]:
    """C1: a ring of two arches between lateral masses; its origin lies where a body would be, at the dens."""
    scale = size.width / 20
    ring = [(0.0, 9.5), (9.0, 7.5), (16.5, -3.0), (18.0, -14.0), (11.0, -25.0), (0.0, -30.0)]
    radii = [(5.2, 4.0), (5.2, 4.0), (9.0, 7.6), (5.2, 4.4), (4.6, 4.2), (4.7, 4.6)]
    points: list[Vec] = [(x * scale, y * scale, 0.0) for x, y in ring]
    parts = []
    for start, end, first, last in zip(points, points[1:], radii, radii[1:], strict=False):
        parts += [Part(shape, 0.34, 2.0) for shape in pair(Limb(start, end, first, last))]
    tip: Vec = (size.transverse_reach - 4.0, -9.0 * scale, -1.0)
    wing = Limb((18.0 * scale, -6.0 * scale, 0.0), tip, (6.2, 5.0), (5.0, 4.4))
    parts += [Part(shape, 0.34, 2.0) for shape in pair(wing)]
    holes: list[Shape] = [Tube((sign * 26.0 * scale, -7.5 * scale), (2.8, 2.8), -10, 10) for sign in (-1, 1)]
    return parts, holes


def axis(size: LevelSize) -> tuple[list[Part], list[Shape]]:
    """C2: a body with the dens on it, which stands inside the ring of C1."""
    half = size.height / 2
    dens = Limb((0.0, 0.0, 0.0), (0.0, 1.0, half + 12.0 * size.width / 19), (5.0, 5.0), (4.6, 4.6), (0, 1, 0))
    drum = replace(body(size, waist=0.1, power=2.2), height_posterior=size.height_posterior * 0.9)
    parts = [Part(drum, 0.3, 0.0), Part(dens, 0.26, 2.0)]
    shoulder = Ellipsoid((0.0, -1.0, half - 4.0), (size.width / 2 + 6.0, 7.0, 5.0))
    parts.append(Part(shoulder, 0.31, 2.0))
    parts += arch(size, facet_back=5.0, facet_in=0.0, lamina_half_height=7.0, bulk=1.7)
    parts.append(spinous(size, 6.6, 4.6, 0.9))
    wing = Limb((size.width / 2, -6.0, 0.0), (size.transverse_reach - 3.0, -9.0, -4.0), (4.2, 3.8))
    parts += [Part(shape, 0.31, 2.0) for shape in pair(wing)]
    return parts, [canal(size, size.height)]


def cervical(size: LevelSize, *, bifid: bool) -> tuple[list[Part], list[Shape]]:
    """C3 to C7: raised rims, stout articular pillars, transverse processes pierced for the vertebral arteries.

    Args:
        size: the level's sizes.
        bifid: whether the spinous process ends in two tips.
    """
    side = size.pedicle_x
    pillar_y = size.pillar_y
    parts = [Part(body(size, waist=0.02, power=2.6, uncinate=3.6), 0.36, 0.0, compact=False)]
    parts += arch(size, facet_back=4.0, facet_in=0.0, lamina_half_height=5.4, bulk=1.6)
    parts.append(spinous(size, 5.2, 3.2, 0.9))
    if bifid:
        root: Vec = (0.0, size.canal_back - size.spinous_back + 6.0, -size.spinous_down + 2.0)
        tip: Vec = (4.6, size.canal_back - size.spinous_back + 0.5, -size.spinous_down)
        parts += [Part(shape, 0.23, 2.0) for shape in pair(Limb(root, tip, (3.8, 3.0), (3.4, 2.8)))]
    reach = size.transverse_reach - 3.0
    front = Limb((size.width / 2 - 2, 1.0, -1.0), (reach, -2.0 - size.transverse_back, -2.0), (3.6, 3.2))
    rear = Limb((side, pillar_y, 0.0), (reach, -3.0 - size.transverse_back, -2.0), (4.4, 3.8))
    parts += [Part(shape, 0.31, 2.0) for limb in (front, rear) for shape in pair(limb)]
    center = (size.width / 2 + 3.6, -3.5)
    artery = [Tube((sign * center[0], center[1]), (2.6, 2.6), -10.0, 10.0) for sign in (-1, 1)]
    return parts, [canal(size, size.height), *artery]
