"""Vertebrae as lists of implicit shapes: each in its own frame, from its row of sizes."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from spineseg.phantom.bones import Bone, Part, arch, body, canal, pair, spinous
from spineseg.phantom.cervical import atlas, axis, cervical
from spineseg.phantom.curves import middle_frame
from spineseg.phantom.shapes import Body, Frame, Limb, Shape, Tube, Vec
from spineseg.phantom.sizes import LevelSize, trabecular_factor
from spineseg.phantom.subject import Subject, is_cervical, is_sacral, is_thoracic
from spineseg.vertebrae import level_id


@dataclass(frozen=True)
class Disc:
    """A disc between two bodies; its frame is the middle of the gap."""

    frame: Frame
    shape: Body


def _thoracic(size: LevelSize, *, low: bool) -> tuple[list[Part], list[Shape]]:
    """T1 to T12: sloping laminae, transverse processes that point back, a spinous process that points down."""
    side = size.pedicle_x
    pillar_y = size.pillar_y
    parts = [Part(body(size, waist=0.11, power=2.15), 0.36, 0.0, compact=False)]
    parts += arch(size, facet_back=5.5, facet_in=1.0, lamina_half_height=0.46 * size.height, bulk=1.12)
    parts.append(spinous(size, 6.2 + 4.2 * size.width / 45 * low, 3.7, 0.72))
    reach = size.transverse_reach - 4.0
    tip: Vec = (reach, pillar_y - size.transverse_back, size.transverse_up)
    rod = Limb((side, pillar_y - 2.0, 2.0), tip, (6.4, 5.4), (5.6, 5.0))
    parts += [Part(shape, 0.23, 3.0) for shape in pair(rod)]
    return parts, [canal(size, size.height)]


def _lumbar(size: LevelSize, *, stout: float) -> tuple[list[Part], list[Shape]]:
    """L1 to L6: facets that face the middle, slender wings, a spinous process like a hatchet.

    Args:
        size: the level's sizes.
        stout: how thick the transverse processes are; those of the lowest level are, more so where it joins the sacrum.
    """
    half, back = size.height / 2, -size.depth / 2
    side = size.pedicle_x
    parts = [Part(body(size, waist=0.12, power=2.5), 0.36, 0.0, compact=False)]
    parts += arch(size, facet_back=1.5, facet_in=4.5, lamina_half_height=0.34 * size.height, bulk=1.1)
    parts.append(spinous(size, 0.41 * size.height, 4.3, 1.0))
    wing: Vec = (size.transverse_reach - 4.0, back - size.transverse_back - 3.0, half * 0.25 + size.transverse_up)
    rod = Limb((side + 1.0, back - 2.0, half * 0.3), wing, (7.4, 4.8 * stout), (5.6, 3.6 * stout))
    parts += [Part(shape, 0.23, 3.0) for shape in pair(rod)]
    return parts, [canal(size, size.height)]


def _first_sacral(size: LevelSize) -> tuple[list[Part], list[Shape]]:
    """S1: the promontory and the wings."""
    half, back = size.height / 2, -size.depth / 2
    parts = [Part(body(size, waist=0.1, power=2.5), 0.36, 0.0, compact=False)]
    parts += arch(size, facet_back=1.0, facet_in=4.0, lamina_half_height=7.0, bulk=1.15)
    parts.append(spinous(size, 6.0, 3.5, 0.8))
    # Masks draw S1 without its wings, which are part of the bone that is not labelled.
    wing = Limb((size.width / 2 - 6.0, back + 6.0, 0.0), (0.62 * size.width, back - 2.0, -2.0), (0.7 * half, 9.0))
    parts += [Part(shape, 0.3, 5.0) for shape in pair(wing)]
    return parts, [canal(size, size.height)]


def _bridges(subject: Subject, level: int) -> list[Part]:
    """Bone in place of a fused disc: each of the two bodies has its half of it."""
    size, place = subject.sizes[level], subject.levels.index(level)
    section = (0.46 * size.width, 0.46 * size.depth)
    found = []
    if level in subject.fused:
        end = -size.height / 2
        found.append(Tube((0.0, 0.0), section, end - size.rim_gap / 2, end + 4.0))
    if place and subject.levels[place - 1] in subject.fused:
        gap = subject.sizes[subject.levels[place - 1]].rim_gap
        found.append(Tube((0.0, 0.0), section, size.height / 2 - 4.0, size.height / 2 + gap / 2))
    return [Part(tube, 0.36, 1.0, compact=False) for tube in found]


def vertebrae(subject: Subject, frames: Mapping[int, Frame]) -> list[Bone]:
    """Every vertebra from C1 to S1 with its canonical id, cranial to caudal."""
    bones = []
    for level in subject.levels:
        size = subject.sizes[level]
        if level == level_id("C1"):
            parts, holes = atlas(size)
        elif level == level_id("C2"):
            parts, holes = axis(size)
        elif is_sacral(level):
            parts, holes = _first_sacral(size)
        elif is_cervical(level):
            parts, holes = cervical(size, bifid=level < level_id("C7"))
        elif is_thoracic(level):
            parts, holes = _thoracic(size, low=level >= level_id("T11"))
        else:
            lowest = level == subject.levels[-2]
            parts, holes = _lumbar(size, stout=1.6 + 1.6 * subject.sacralised if lowest else 1.0)
        parts += _bridges(subject, level)
        bones.append(Bone(frames[level], tuple(parts), tuple(holes), level, trabecular_factor(level)))
    return bones


def discs(subject: Subject, frames: Mapping[int, Frame]) -> list[Disc]:
    """The discs below C2 to L5; each fills the gap and is overlaid by the bodies."""
    found = []
    for above, below in itertools.pairwise(subject.levels[1:]):
        upper, lower = subject.sizes[above], subject.sizes[below]
        frame = middle_frame(frames[above], frames[below], upper.height, lower.height)
        thickness = upper.disc + upper.concavity + lower.concavity + 3.0
        width, depth = (upper.width + lower.width) / 2 * 0.99, (upper.depth + lower.depth) / 2 * 0.99
        found.append(Disc(frame, Body(width, depth, thickness, thickness, concavity=0.0, waist=-0.03)))
    return found
