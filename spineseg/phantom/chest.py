"""The chest: ribs with their cartilage, sternum, heart, great vessels, airways and the lungs' vessels."""

import math
from collections.abc import Iterator, Mapping

from spineseg.phantom.bones import Bone, Part
from spineseg.phantom.organ import Map, Organ, between, chain
from spineseg.phantom.outline import Trunk
from spineseg.phantom.shapes import WORLD, Ellipsoid, Frame, Limb, Vec
from spineseg.phantom.subject import Subject

_CERVICAL = 7
# By rib: angle (radians from the back) where bone gives way to cartilage, and how far it has fallen there, mm.
_RIB_ENDS = (
    (2.25, 26),
    (2.5, 46),
    (2.55, 60),
    (2.55, 72),
    (2.5, 82),
    (2.45, 92),
    (2.35, 100),
    (2.2, 104),
    (2.05, 104),
    (1.9, 98),
    (1.25, 62),
    (0.85, 40),
    (0.6, 24),
)
_STEPS = 10


def rib_levels(subject: Subject) -> tuple[int, ...]:
    """The levels that bear ribs, cranial to caudal: those next below the neck."""
    return subject.levels[_CERVICAL : _CERVICAL + subject.rib_pairs]


def _course(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk, number: int, side: float) -> list[Vec]:
    """Middle line of a rib: head, tubercle, then round the chest wall to its cartilage."""
    level = rib_levels(subject)[number]
    size, frame, s = subject.sizes[level], frames[level], subject.size
    end, fall = _RIB_ENDS[number]
    above = subject.sizes[subject.levels[subject.levels.index(level) - 1]]
    # Heads 2 to 9 meet the disc and both bodies; the first and the last ones their own body alone.
    up = size.height / 2 + 0.4 * above.disc if 0 < number < 9 else 0.22 * size.height
    # Beside the body and the pedicle, which is broad at T1; the lowest ribs meet no transverse process.
    beside = max(size.width / 2 + 6.3 * s, size.canal_width / 2 + size.pedicle_width + 5.7 * s)
    before = (13.0 if number == 0 else 14.0 if number > 9 else 11.0) * s
    head = frame.world((side * beside, -size.depth / 2 + 1.5, up))
    tip_y = size.pillar_y - size.transverse_back
    tubercle = frame.world((side * (size.transverse_reach + 0.5), tip_y + before, size.transverse_up - 1.0))
    half_width = float(trunk.cavity.half_width[abs(trunk.z - tubercle[2]).argmin()])
    start = math.asin(min(0.95, (size.transverse_reach + 14.0 * s) / (half_width + 5.0)))
    end = max(end, start + 0.25)
    points = [head, tubercle]
    for step in range(_STEPS):
        share = step / (_STEPS - 1)
        angle = start + (end - start) * share
        z = tubercle[2] - fall * s * (0.06 + 0.94 * share**1.15)
        points.append(trunk.cavity.point(z, side * angle, 5.0))
    # No jump where the neck meets the wall.
    points[2] = between(tubercle, points[2], 0.6)
    return points


def ribs(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk) -> Iterator[Bone]:
    """Pairs of ribs from the bodies round the chest wall, not labelled."""
    s = subject.size
    for number in range(len(rib_levels(subject))):
        broad = 5.0 if number in (0, 10, 11, 12) else 6.5
        for side in (-1.0, 1.0):
            points = _course(subject, frames, trunk, number, side)
            radii = [(4.2 * s, 3.4 * s), (4.4 * s, 3.2 * s)] + [(broad * s, 3.7 * s)] * _STEPS
            limbs = chain(points, radii, (0.0, 0.0, 1.0))
            yield Bone(WORLD, tuple(Part(limb, 0.23, 1.5) for limb in limbs), density=0.9)


def sternum(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk) -> Iterator[Bone]:
    """Manubrium, body and xiphoid process."""
    place, s = Map(frames, subject.size), subject.size
    tops = [place.at("T3", 0, 0, 8)[2], place.at("T5", 0, 0, 8)[2], place.at("T5", 0, 0, 3)[2]]
    tops += [place.at("T9", 0, 0, 6)[2], place.at("T9", 0, 0, 1)[2], place.at("T10", 0, 0, 4)[2]]
    points = [trunk.cavity.point(z, math.pi, 7.0 * s) for z in tops]
    radii = [(6.0, 26.0), (5.0, 17.0), (5.0, 15.0), (5.0, 18.0), (3.5, 8.0), (2.5, 4.0)]
    for k in (0, 2, 4):
        limb = chain(points[k : k + 2], [(a * s, b * s) for a, b in radii[k : k + 2]], (0.0, 1.0, 0.0))[0]
        yield Bone(WORLD, (Part(limb, 0.23, 0.0),), density=0.6)


def cartilages(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk) -> Iterator[Organ]:
    """Costal cartilages from the ribs' ends to the sternum or to the cartilage above."""
    s = subject.size
    for side in (-1.0, 1.0):
        ends = [_course(subject, frames, trunk, k, side)[-1] for k in range(min(10, len(rib_levels(subject))))]
        for number, end in enumerate(ends):
            rise = (6.0, 4.0, 4.0, 10.0, 20.0, 32.0, 44.0)[min(number, 6)] * s
            front = trunk.cavity.point(end[2] + rise, side * (math.pi - 0.16), 6.0)
            goal = front if number < 7 else ends[number - 1]
            bow = trunk.cavity.point((end[2] + goal[2]) / 2 - 4.0, side * (2.85 if number < 7 else 2.3), 5.0)
            bow = between(between(end, goal, 0.5), bow, 1 / 3)
            for limb in chain((end, bow, goal), [(6.0 * s, 4.0 * s)] * 3, (0.0, 0.0, 1.0)):
                yield Organ(limb, 95.0, 12.0)


def chest_organs(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk) -> Iterator[Organ]:
    """Heart, great vessels, oesophagus and trachea."""
    place, habitus, s = Map(frames, subject.size), trunk.habitus, subject.size
    left = subject.vessel_hu
    right = left * (0.9 if habitus.venous else 0.5 + 1.2 * float(habitus.spots[0, 0])) if left > 100 else left
    muscle = 0.35 * left + 45.0 if left > 100 else 44.0
    # Chambers in a wall of muscle; the apex points left and forward.
    base: Vec = place.at("T7", -4, 66, 0)
    apex: Vec = place.at("T9", -46, 88, 2)
    yield Organ(Limb(base, apex, (44 * s, 44 * s), (24 * s, 26 * s), (0, 1, 0)), muscle, within="chest")
    yield Organ(Ellipsoid(place.at("T8", -34, 76, 4), place.radii(20, 22, 30)), left, 4.0, within="chest")
    yield Organ(Ellipsoid(place.at("T7", -2, 46, -4), place.radii(32, 16, 20)), left, 4.0, within="chest")
    yield Organ(Ellipsoid(place.at("T8", 16, 84, 6), place.radii(24, 26, 34)), right, 4.0, within="chest")
    yield Organ(Ellipsoid(place.at("T8", -8, 100, -6), place.radii(24, 14, 24)), right, 4.0, within="chest")
    trunk_artery = [place.at("T6", -14, 76, 0), place.at("T5", -18, 62, -4)]
    yield from _vessel(trunk_artery, 14 * s, right)
    for side, far in ((-1.0, "T5"), (1.0, "T6")):
        yield from _vessel(
            [trunk_artery[1], place.at(far, side * 34, 36, 0), place.at("T7", side * 50, 24, 0)], 9 * s, right
        )
    # Upper vena cava with the veins of the arms, one of which the injection has filled.
    brighter = right if left < 100 or habitus.venous else right + 250.0 * float(habitus.spots[0, 1])
    yield from _vessel(
        [place.at("T7", 24, 62), place.at("T5", 26, 54), place.at("T3", 22, 46), place.at("T2", 34, 36)],
        9 * s,
        brighter,
    )
    yield from _vessel([place.at("T4", 22, 50), place.at("T3", -4, 54, -6), place.at("T2", -34, 36)], 7 * s, right)
    # Ascending aorta, arch, and three arteries from it.
    arch = [place.at("T7", 2, 66), place.at("T6", 14, 70), place.at("T5", 8, 62), place.at("T4", -2, 48)]
    arch += [place.at("T4", -14, 30, 2), place.at("T4", -19, 20, -6)]
    yield from _vessel(arch, 14 * s, left)
    for x, y, goal in ((4, 48, (26, 22)), (-8, 40, (-20, 18)), (-14, 30, (-38, 18))):
        ends = [place.at("T4", x, y, 8), place.at("T2", x * 1.4, y * 0.8, 0), place.at("C7", goal[0], goal[1])]
        yield from _vessel(ends, 5 * s, left)
    for side in (-1.0, 1.0):
        for x, y, radius, hu in ((20, 20, 3.6, left), (27, 24, 6.0, right)):
            ends = [place.at(name, side * x, y) for name in ("C7", "C5", "C3", "C1")]
            yield from _vessel(ends, radius * s, hu)
    oesophagus = [
        place.at(name, x, y)
        for name, x, y in (("C6", 0, 17), ("T2", -5, 18), ("T5", -4, 25), ("T8", -6, 30), ("T10", -12, 38))
    ]
    for limb in chain(oesophagus, [(5 * s, 8 * s)] * 5, (0, 1, 0)):
        yield Organ(limb, 42.0)
    yield Organ(Ellipsoid(place.at("T3", -5, 20), place.radii(3, 2, 12)), -700.0, 0.0)
    yield from _vessel([place.at("T4", 8, 20), place.at("T7", 7, 20), place.at("T11", 6, 22)], 3.5 * s, right)
    trachea = [place.at("C5", 0, 26), place.at("T1", 0, 31), place.at("T5", 3, 40)]
    # The walls of all airways before the air of any: no wall stands inside.
    for shrink, hu in ((0.0, 60.0), (1.6, -985.0)):
        for points, radius in (
            (trachea, 8.5),
            ([trachea[-1], place.at("T6", 28, 36)], 6.0),
            ([trachea[-1], place.at("T6", -30, 34, -6)], 6.0),
        ):
            inner = radius * s - shrink
            for limb in chain(points, [(inner, inner)] * len(points), (0, 1, 0)):
                yield Organ(limb, hu, 4.0)


def _vessel(points: list[Vec], radius: float, hu: float) -> Iterator[Organ]:
    for limb in chain(points, [(radius, radius)] * len(points), (0.31, 0.95, 0.0)):
        yield Organ(limb, hu, 4.0)


def lung_vessels(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk) -> Iterator[Organ]:
    """Branches from each hilum outwards, thinner by the step; the finest are left out."""
    place, spots, s = Map(frames, subject.size), trunk.habitus.spots, subject.size
    hu = subject.vessel_hu * 0.9
    for index in range(26):
        u, v, w, t = (float(n) for n in spots[index])
        side = 1.0 if index % 2 else -1.0
        hilum = place.at("T6", side * 42, 28 + 14 * (u - 0.5), 20 * (v - 0.5))
        angle, rise = math.pi * (0.25 + 0.6 * (index // 2 + u) / 13), 1.6 * (w - 0.55)
        points = [hilum]
        for step, bend in ((26.0, 0.25 * (t - 0.5)), (24.0, 0.5 * (v - 0.5)), (18.0, 0.6 * (u - 0.5))):
            x, y, z = points[-1]
            a = angle + bend
            # Outwards, from the back (angle 0) over the side to the front.
            points.append((x + side * step * s * math.sin(a), y - step * s * math.cos(a), z + rise * step * s))
        for limb in chain(points, [(r * s, r * s) for r in (3.6, 2.4, 1.5, 0.9)], (0.31, 0.2, 0.95)):
            yield Organ(limb, hu, 0.0, within="chest")
