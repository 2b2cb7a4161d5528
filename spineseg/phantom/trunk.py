"""What surrounds the spine: skin, fat, muscle, lungs, organs and vessels, and the bones that are not labelled."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spineseg.phantom.anatomy import Bone, Part
from spineseg.phantom.shapes import WORLD, Array, Body, Ellipsoid, Frame, Limb, Shape, Vec
from spineseg.phantom.sizes import COLUMN
from spineseg.phantom.subject import Subject
from spineseg.vertebrae import level_id

Profile = NDArray[np.float64]

# Half width and half depth of the trunk, and skin behind the centre of the body, by level; mm for size 1, no fat.
_OUTLINE: dict[str, tuple[float, float, float]] = {
    "C1": (72, 88, 72),
    "C3": (58, 58, 56),
    "C6": (60, 56, 62),
    "C7": (90, 58, 64),
    "T1": (150, 70, 66),
    "T3": (178, 88, 67),
    "T6": (162, 102, 63),
    "T10": (150, 106, 62),
    "L1": (142, 100, 66),
    "L3": (140, 94, 72),
    "L5": (152, 92, 74),
    "S1": (165, 95, 72),
}


@dataclass(frozen=True)
class Trunk:
    """Outline of the trunk by height: arrays over ``z`` (mm, ascending) of centre, half axes and the spine's place."""

    z: Array
    spine_x: Array
    spine_y: Array
    half_width: Array
    half_depth: Array
    back: Array
    apex_z: float  # of the lungs
    dome_z: float  # of the diaphragm
    gutter: Array  # how far the chest cavity reaches behind the spine's front, beside it
    body_radius: Array
    fat: Array  # under the skin

    def at(self, values: Array, z: Array) -> Array:
        """Interpolate one of the outline's arrays to other heights, (1, 1, n)."""
        found: Array = np.interp(z.ravel(), self.z, values).astype(np.float32)[None, None, :]
        return found

    def wall(self, z: float, angle: float, inset: float) -> tuple[float, float]:
        """Point at depth ``inset`` (mm) under the skin, ``angle`` (radians) round from the back to the right."""
        x, width, depth, back = (
            float(np.interp(z, self.z, v)) for v in (self.spine_x, self.half_width, self.half_depth, self.back)
        )
        return x + (width - inset) * math.sin(angle), back + depth - (depth - inset) * math.cos(angle)


def build_trunk(subject: Subject, frames: Mapping[int, Frame]) -> Trunk:
    """Lay the trunk's outline round the spine."""
    heights = np.array([frames[level].origin[2] for level in COLUMN])[::-1]
    places = np.array([frames[level].origin for level in COLUMN])[::-1]
    z = np.arange(heights[0] - 260.0, heights[-1] + 140.0, 4.0)
    rows = {frames[level_id(name)].origin[2]: row for name, row in _OUTLINE.items()}
    known = np.array(sorted(rows))
    table = np.array([rows[height] for height in known]) * subject.size
    width, depth, back = (np.interp(z, known, table[:, i]) for i in range(3))
    spine_y = np.interp(z, heights, places[:, 1])
    thorax = np.interp(z, [frames[level_id(n)].origin[2] for n in ("L2", "T11")], [8.0, 38.0])
    radius = np.interp(z, heights, [subject.sizes[level].width / 2 for level in reversed(COLUMN)])
    skin = _smooth(spine_y - back, 12) - 0.7 * subject.fat_mm

    def plain(values: Profile) -> Array:
        return values.astype(np.float32)

    return Trunk(
        plain(z),
        plain(np.interp(z, heights, places[:, 0])),
        plain(spine_y),
        plain(_smooth(width, 5) + subject.fat_mm),
        plain((_smooth(depth, 5) + 0.8 * subject.fat_mm) * subject.arm_ratio),
        plain(skin),
        frames[level_id("T1")].origin[2] + 12.0,
        frames[level_id("T9")].origin[2],
        plain(thorax * subject.size),
        plain(radius),
        plain(subject.fat_mm * np.interp(z, [frames[level_id(n)].origin[2] for n in ("T10", "C7")], [1.0, 0.4])),
    )


def _smooth(values: Profile, steps: int) -> Profile:
    padded = np.pad(values, steps, mode="edge")
    total = np.concatenate([[0.0], np.cumsum(padded)])
    width = 2 * steps + 1
    smoothed: Profile = (total[width:] - total[:-width]) / width
    return smoothed


def ribs(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk) -> Iterator[Bone]:
    """Twelve pairs of ribs from beside the discs round the chest wall, not labelled."""
    ends = dict(zip(range(1, 13), (1.9, 2.4, 2.5, 2.5, 2.5, 2.5, 2.5, 2.4, 2.3, 2.1, 1.3, 0.85), strict=True))
    inset = subject.fat_mm + 9.0
    for number, end in ends.items():
        level = level_id("T1") + number - 1
        size, frame = subject.sizes[level], frames[level]
        pillar = -size.depth / 2 - 0.55 * size.canal_depth
        for side in (-1.0, 1.0):
            head = frame.world((side * (size.width / 2 + 2.5), -size.depth / 2 + 2.0, 0.4 * size.height))
            neck = frame.world(
                (side * (size.transverse_reach + 1.0), pillar - size.transverse_back + 6.0, size.transverse_up)
            )
            points, radii = [head, neck], [(4.5, 3.5), (4.5, 3.0)]
            start = 0.36 if number > 1 else 0.5
            for step in range(9):
                angle = start + (end - start) * step / 8
                fall = (18.0 + 2.5 * min(number, 8)) * (angle / 1.57) ** 1.3 * subject.size
                x, y = trunk.wall(neck[2] - fall, angle, inset)
                if side < 0:
                    x = 2 * float(np.interp(neck[2] - fall, trunk.z, trunk.spine_x)) - x
                points.append((x, y, neck[2] - fall))
                radii.append((6.0, 3.6))
            limbs = (Limb(a, b, p, q) for a, b, p, q in zip(points, points[1:], radii, radii[1:], strict=False))
            yield Bone(WORLD, tuple(Part(limb, 1.1, 1.5) for limb in limbs), density=0.8)


def other_bones(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk) -> Iterator[Bone]:
    """Sacrum below S1, hip bones, shoulder blades and breastbone: rough, and not labelled."""
    sacral = level_id("S1")
    size = subject.sizes[sacral]
    frame = frames[sacral]
    lean = math.degrees(math.asin(frame.axes[2][1]))
    origin = frame.origin
    height = size.height
    for step, turn in enumerate((14.0, 8.0, -22.0, -34.0)):
        shrink = 0.82 - 0.15 * step
        lean += turn
        radians = math.radians(lean)
        sine, cosine = math.sin(radians), math.cos(radians)
        across = (height + 20.0 * shrink) / 2 + 0.5
        origin = (origin[0], origin[1] - across * sine, origin[2] - across * cosine)
        height = 20.0 * shrink + 4.0
        own = Frame(origin, ((1.0, 0.0, 0.0), (0.0, cosine, -sine), (0.0, sine, cosine)))
        body = Body(size.width * shrink, size.depth * shrink * 0.8, height, height, 0.5, 0.05)
        wing = Ellipsoid((0.0, -8.0, 0.0), (size.width * (1.02 - 0.16 * step), 9.0 - step, 11.0 - step))
        holes: list[Shape] = [
            Ellipsoid((sign * size.width * 0.42 * shrink, -6.0, -0.5 * height), (3.5, 12.0, 3.0)) for sign in (-1, 1)
        ]
        canal = Ellipsoid((0.0, -0.4 * size.depth * shrink - 6.0, 0.0), (9.0 - 2 * step, 5.0 - step, 14.0))
        crest = Limb(
            (0.0, -0.4 * size.depth * shrink - 10.0, 6.0), (0.0, -0.4 * size.depth * shrink - 13.0, -6.0), (4.0, 4.0)
        )
        parts = (Part(body, 0.8, 0.0), Part(wing, 0.9, 4.0), Part(crest, 1.2, 3.0))
        yield Bone(own, parts, (canal, *holes), density=0.9)
    wings = []
    for side in (-1.0, 1.0):
        inner, outer = frame.world((side * 0.5 * size.width, -12.0, -1.0)), frame.world((side * 50.0, -22.0, -8.0))
        wings.append(Part(Limb(inner, outer, (11.0, 11.0), (14.0, 10.0)), 0.8, 4.0))
    yield Bone(WORLD, tuple(wings), density=0.9)
    crest_z = frames[level_id("L4")].origin[2]
    s = subject.size
    for side in (-1.0, 1.0):
        joint: Vec = (side * 56.0 * s, frame.origin[1] - 22.0 * s, frame.origin[2] - 20.0 * s)
        top: Vec = (side * 112.0 * s, frame.origin[1] + 18.0 * s, crest_z - 2.0)
        low: Vec = (side * 84.0 * s, frame.origin[1] + 22.0 * s, frame.origin[2] - 95.0 * s)
        plates = (
            Limb(joint, top, (34.0 * s, 5.0), (52.0 * s, 4.5), (0.0, 1.0, 0.15)),
            Limb(joint, low, (24.0 * s, 6.0), (26.0 * s, 16.0), (0.0, 1.0, 0.0)),
            Ellipsoid(low, (24.0 * s, 26.0 * s, 26.0 * s)),
        )
        yield Bone(WORLD, tuple(Part(shape, 1.8, 6.0) for shape in plates), density=0.8)
        upper, lower = frames[level_id("T2")].origin[2], frames[level_id("T8")].origin[2]
        ends = [(*trunk.wall(z, angle, 0.6 * subject.fat_mm + 6.0), z) for z, angle in ((upper, 0.62), (lower, 0.8))]
        if side < 0:
            ends = [(2 * float(np.interp(z, trunk.z, trunk.spine_x)) - x, y, z) for x, y, z in ends]
        blade = Limb(ends[0], ends[1], (2.6, 34.0), (2.4, 14.0), (0.4 * side, 1.0, 0.0))
        yield Bone(WORLD, (Part(blade, 1.2, 0.0),), density=0.8)
    ends = []
    for name in ("T3", "T9"):
        z = frames[level_id(name)].origin[2] - 20.0
        ends.append((*trunk.wall(z, math.pi, subject.fat_mm + 10.0), z))
    yield Bone(WORLD, (Part(Limb(ends[0], ends[1], (6.0, 17.0), (5.0, 14.0), (0, 1, 0)), 1.0, 0.0),), density=0.7)


def organs(subject: Subject, frames: Mapping[int, Frame]) -> Iterator[tuple[Shape, float]]:
    """Organs, muscles and vessels beside the lumbar spine with their HU, in painting order, in world mm."""
    s = subject.size
    enhanced = subject.vessel_hu > 100

    def by(level: str, x: float, y: float, z: float = 0.0) -> Vec:
        origin = frames[level_id(level)].origin
        return origin[0] + x * s, origin[1] + y * s, origin[2] + z * s

    def radii(x: float, y: float, z: float) -> Vec:
        return x * s, y * s, z * s

    yield Ellipsoid(by("T11", 72, 72, 4), radii(68, 66, 66)), 105.0 if enhanced else 60.0  # liver
    yield Ellipsoid(by("T11", -95, 20), radii(28, 38, 46)), 115.0 if enhanced else 52.0  # spleen
    for side in (-1, 1):
        yield Ellipsoid(by("L2", side * 62, 2), radii(25, 22, 50)), 170.0 if enhanced else 34.0  # kidney
        for upper, lower, thin, thick in (("T12", "L3", 8, 17), ("L3", "L5", 17, 22)):
            start = by(upper, side * (20 + 1.25 * thin), -6 + 0.4 * thin)
            end = by(lower, side * (20 + 1.25 * thick), -6 + 0.4 * thick)
            psoas = Limb(start, end, (thin * s, thin * s), (thick * s, thick * 0.8 * s), (0, 1, 0))
            yield psoas, subject.muscle_hu
    for x, names, radius in ((-14, ("T4", "T7", "T10", "L1", "L3", "L4"), 11.5), (19, ("T9", "T12", "L2", "L5"), 10.5)):
        path = [
            by(name, x * (1.0 if index else 1.2), subject.sizes[level_id(name)].depth / 2 / s + radius + 3)
            for index, name in enumerate(names)
        ]
        for a, b in itertools.pairwise(path):
            yield Limb(a, b, (radius * s, radius * s)), subject.vessel_hu
    yield Limb(by("T5", 0, 38), by("C5", 0, 26), (9 * s, 9 * s)), -990.0  # windpipe


def canal_path(subject: Subject, frames: Mapping[int, Frame], share: float) -> Iterator[Limb]:
    """The spinal canal as rods from C1 to S1; ``share`` of its radius is filled (the sac inside its fat)."""
    places = []
    for level in COLUMN:
        size = subject.sizes[level]
        back = -30.0 * size.width / 20 / 2 if level == level_id("C1") else -(size.depth + size.canal_depth) / 2 + 1.0
        places.append((frames[level].world((0.0, back, 0.0)), size))
    for (a, first), (b, second) in itertools.pairwise(places):
        radii = [(share * v.canal_depth / 2, share * v.canal_width / 2) for v in (first, second)]
        yield Limb(a, b, radii[0], radii[1], (0.0, 1.0, 0.0))
