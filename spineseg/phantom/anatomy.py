"""Bones as lists of implicit shapes: each vertebra in its own frame, from its row of sizes."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from spineseg.phantom.curves import middle_frame
from spineseg.phantom.shapes import Body, Ellipsoid, Frame, Limb, Shape, Tube, Vec
from spineseg.phantom.sizes import LevelSize, trabecular_factor
from spineseg.phantom.subject import Subject, is_cervical, is_sacral, is_thoracic
from spineseg.vertebrae import level_id


@dataclass(frozen=True)
class Part:
    """A shape of a bone, the thickness of its cortex (mm), and the fillet (mm) with which it joins the others."""

    shape: Shape
    cortex_mm: float = 1.0
    blend_mm: float = 3.0


@dataclass(frozen=True)
class Bone:
    """Parts joined, then holes cut out; ``level`` is the canonical id, or None for a bone that is not labelled."""

    frame: Frame
    parts: tuple[Part, ...]
    holes: tuple[Shape, ...] = ()
    level: int | None = None
    density: float = 1.0  # trabecular HU relative to L1's


@dataclass(frozen=True)
class Disc:
    """A disc between two bodies; its frame is the middle of the gap."""

    frame: Frame
    shape: Body


def _canal(size: LevelSize, length: float) -> Tube:
    # The hole bites a little into the back of the body, which makes that face hollow as it is.
    center = -(size.depth / 2 + size.canal_depth / 2 - 1.0)
    return Tube((0.0, center), (size.canal_width / 2, size.canal_depth / 2), -length, length)


def _pair(shape: Limb) -> tuple[Limb, Limb]:
    """A limb and its mirror image."""

    def mirror(point: Vec) -> Vec:
        return (-point[0], point[1], point[2])

    return shape, Limb(mirror(shape.start), mirror(shape.end), shape.radii, shape.end_radii, mirror(shape.up))


def _arch(size: LevelSize, *, facet_back: float, facet_in: float, lamina_half_height: float) -> list[Part]:
    """Pedicles, articular pillars and laminae around the canal.

    Args:
        size: the level's sizes.
        facet_back: how far the lower facet lies behind the upper one (thoracic facets face forward), mm.
        facet_in: how far it lies nearer the middle than the upper one (lumbar facets face the middle), mm.
        lamina_half_height: half height of the laminae.
    """
    half, back = size.height / 2, -size.depth / 2
    canal_back = back - size.canal_depth + 1.0
    side = size.canal_width / 2 + size.pedicle_width / 2
    lift = half - size.pedicle_height / 2 - 1.0
    pillar_y = back - 0.55 * size.canal_depth
    upper: Vec = (side + 1.5, pillar_y, half + 0.35 * size.disc + 1.0)
    waist: Vec = (side - 0.5, pillar_y - 0.5 * facet_back - 1.0, -0.1 * size.height)
    lower: Vec = (side + 1.5 - facet_in, pillar_y - facet_back - 2.0, -half - 0.5 * size.disc - 3.0)
    thick = 0.12 * size.width + 1.7
    root: Vec = (0.0, canal_back - 2.6, -0.3 * size.height)
    pedicle = Limb(
        (side - 0.5, back + 5.0, lift),
        (side, pillar_y, lift - 1.0),
        (size.pedicle_height / 2, size.pedicle_width / 2),
    )
    limbs = (
        (pedicle, 0.9, 3.0),
        (Limb(waist, upper, (thick, thick), (thick * 0.8, thick), (0, 1, 0)), 1.1, 2.5),
        (Limb(waist, lower, (thick, thick), (thick * 0.75, thick), (0, 1, 0)), 1.1, 2.5),
        (Limb((side - 1.0, pillar_y - 3.0, -0.2 * size.height), root, (lamina_half_height, 3.4)), 1.1, 2.5),
    )
    return [Part(shape, cortex, blend) for limb, cortex, blend in limbs for shape in _pair(limb)]


def _spinous(size: LevelSize, half_height: float, half_width: float, swell: float = 1.0) -> Part:
    canal_back = -size.depth / 2 - size.canal_depth + 1.0
    tip: Vec = (0.0, canal_back - size.spinous_back + half_height * 0.6, -size.spinous_down)
    limb = Limb(
        (0.0, canal_back - 3.5, -0.3 * size.height),
        tip,
        (half_height, half_width),
        (half_height * swell, half_width * 1.1),
    )
    return Part(limb, 0.9, 3.0)


def _typical(level: int, size: LevelSize) -> tuple[list[Part], list[Shape]]:
    """Parts and holes of C3 to S1."""
    scale = size.width / 45
    lumbar = not (is_cervical(level) or is_thoracic(level))
    back = -size.depth / 2
    side = size.canal_width / 2 + size.pedicle_width / 2
    pillar_y = back - 0.55 * size.canal_depth
    half = size.height / 2
    body = Body(
        size.width,
        size.depth,
        size.height_posterior,
        size.height_anterior,
        hollow=0.07 * size.height + 0.7,
        waist=0.06 if is_cervical(level) else 0.13,
        lips=3.0 if is_cervical(level) else 0.0,
        power=2.2 if is_thoracic(level) else 2.5,
    )
    parts = [Part(body, 0.5, 0.0)]
    if is_cervical(level):
        parts += _arch(size, facet_back=4.0, facet_in=0.0, lamina_half_height=4.6)
        parts.append(_spinous(size, 3.6, 2.6, 0.9))
        reach = size.transverse_reach - 3.0
        front = Limb((size.width / 2 - 2, 1.0, -1.0), (reach, -2.0 - size.transverse_back, -2.0), (2.4, 2.2))
        rear = Limb((side, pillar_y, 0.0), (reach, -3.0 - size.transverse_back, -2.0), (3.0, 2.6))
        parts += [Part(shape, 1.2, 2.0) for limb in (front, rear) for shape in _pair(limb)]
    elif not lumbar:
        parts += _arch(size, facet_back=5.5, facet_in=1.0, lamina_half_height=0.42 * size.height)
        parts.append(_spinous(size, 5.0 + 4.0 * scale * (level > 17), 3.1, 0.75))
        reach = size.transverse_reach - 4.0
        tip: Vec = (reach, pillar_y - size.transverse_back, size.transverse_up)
        rod = Limb((side, pillar_y - 2.0, 2.0), tip, (5.4, 4.6), (4.8, 4.4))
        parts += [Part(shape, 0.9, 3.0) for shape in _pair(rod)]
    else:
        parts += _arch(size, facet_back=1.5, facet_in=4.5, lamina_half_height=0.3 * size.height)
        parts.append(_spinous(size, 0.39 * size.height, 3.7, 1.0))
        wing: Vec = (size.transverse_reach - 4.0, back - size.transverse_back - 3.0, half * 0.25 + size.transverse_up)
        stout = 1.6 if level >= level_id("L5") else 1.0
        rod = Limb((side + 1.0, back - 2.0, half * 0.3), wing, (7.2, 4.4 * stout), (5.4, 3.2 * stout))
        parts += [Part(shape, 0.9, 3.0) for shape in _pair(rod)]
    holes: list[Shape] = [_canal(size, size.height)]
    if is_cervical(level):
        center = (size.width / 2 + 3.6, -3.5)
        holes += [Tube((sign * center[0], center[1]), (2.6, 2.6), -10.0, 10.0) for sign in (-1, 1)]
    return parts, holes


def _atlas(size: LevelSize) -> tuple[list[Part], list[Shape]]:
    """C1: a ring of two arches between lateral masses; its origin lies where a body would be, at the dens."""
    scale = size.width / 20
    ring = [(0.0, 9.5), (9.0, 7.5), (16.5, -3.0), (18.0, -14.0), (11.0, -25.0), (0.0, -30.0)]
    radii = [(4.5, 3.2), (4.5, 3.2), (7.5, 6.5), (4.5, 3.5), (4.0, 3.0), (4.5, 3.5)]
    points: list[Vec] = [(x * scale, y * scale, 0.0) for x, y in ring]
    parts = []
    for start, end, first, last in zip(points, points[1:], radii, radii[1:], strict=False):
        parts += [Part(shape, 1.3, 2.0) for shape in _pair(Limb(start, end, first, last))]
    tip: Vec = (size.transverse_reach - 4.0, -9.0 * scale, -1.0)
    wing = Limb((18.0 * scale, -6.0 * scale, 0.0), tip, (5.5, 4.0), (4.0, 3.5))
    parts += [Part(shape, 1.3, 2.0) for shape in _pair(wing)]
    holes: list[Shape] = [Tube((sign * 26.0 * scale, -7.5 * scale), (2.8, 2.8), -10, 10) for sign in (-1, 1)]
    return parts, holes


def _axis(size: LevelSize) -> tuple[list[Part], list[Shape]]:
    """C2: a body with the dens on it, which stands inside the ring of C1."""
    half = size.height / 2
    dens = Limb((0.0, 0.0, 0.0), (0.0, 1.0, half + 12.0 * size.width / 19), (5.0, 5.0), (4.6, 4.6), (0, 1, 0))
    body = Body(size.width, size.depth, size.height_posterior * 0.9, size.height_anterior, 1.0, 0.1, 0.0, 2.2)
    parts = [Part(body, 0.8, 0.0), Part(dens, 1.0, 2.0)]
    shoulder = Ellipsoid((0.0, -1.0, half - 4.0), (size.width / 2 + 6.0, 7.0, 5.0))
    parts.append(Part(shoulder, 1.2, 2.0))
    parts += _arch(size, facet_back=5.0, facet_in=0.0, lamina_half_height=6.0)
    parts.append(_spinous(size, 5.5, 4.5, 0.8))
    wing = Limb((size.width / 2, -6.0, 0.0), (size.transverse_reach - 3.0, -9.0, -4.0), (3.5, 3.0))
    parts += [Part(shape, 1.2, 2.0) for shape in _pair(wing)]
    return parts, [_canal(size, size.height)]


def _first_sacral(size: LevelSize) -> tuple[list[Part], list[Shape]]:
    """S1: the promontory and the wings."""
    half, back = size.height / 2, -size.depth / 2
    parts, holes = _typical(level_id("L5") + 2, size)
    parts = [part for part in parts if isinstance(part.shape, Body)] + _arch(
        size, facet_back=1.0, facet_in=2.0, lamina_half_height=7.0
    )
    parts.append(_spinous(size, 6.0, 3.5, 0.8))
    # Masks draw S1 without its wings, which are part of the bone that is not labelled.
    wing = Limb((size.width / 2 - 6.0, back + 6.0, 0.0), (0.62 * size.width, back - 2.0, -2.0), (0.7 * half, 9.0))
    parts += [Part(shape, 0.8, 5.0) for shape in _pair(wing)]
    return parts, holes


def vertebrae(subject: Subject, frames: Mapping[int, Frame]) -> list[Bone]:
    """Every vertebra from C1 to S1 with its canonical id, cranial to caudal."""
    bones = []
    for level in subject.levels:
        size = subject.sizes[level]
        if level == level_id("C1"):
            parts, holes = _atlas(size)
        elif level == level_id("C2"):
            parts, holes = _axis(size)
        elif is_sacral(level):
            parts, holes = _first_sacral(size)
        else:
            parts, holes = _typical(level, size)
        bones.append(Bone(frames[level], tuple(parts), tuple(holes), level, trabecular_factor(level)))
    return bones


def discs(subject: Subject, frames: Mapping[int, Frame]) -> list[Disc]:
    """The discs below C2 to L5; each fills the gap and is overlaid by the bodies."""
    found = []
    for above, below in itertools.pairwise(subject.levels[1:]):
        upper, lower = subject.sizes[above], subject.sizes[below]
        frame = middle_frame(frames[above], frames[below], upper.height, lower.height)
        thickness = upper.disc + 0.14 * upper.height + 3.0
        width, depth = (upper.width + lower.width) / 2 * 0.99, (upper.depth + lower.depth) / 2 * 0.99
        found.append(Disc(frame, Body(width, depth, thickness, thickness, hollow=0.0, waist=-0.03)))
    return found
