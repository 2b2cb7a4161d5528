"""The head above and before the neck: skull base, mandible with teeth, hyoid; throat and brain."""

from collections.abc import Iterator, Mapping

from spineseg.phantom.bones import Bone, Part
from spineseg.phantom.organ import Map, Organ, chain
from spineseg.phantom.shapes import WORLD, Ellipsoid, Frame, Limb, Vec
from spineseg.phantom.subject import Subject
from spineseg.vertebrae import level_id


def _base(subject: Subject, frames: Mapping[int, Frame]) -> tuple[Frame, float]:
    """C1's frame, and how far above its origin the condyles' lower faces lie."""
    level = level_id("C1")
    return frames[level], 9.5 * subject.size


def skull(subject: Subject, frames: Mapping[int, Frame]) -> Iterator[Bone]:
    """Back of the head round the foramen magnum, condyles, clivus and temporal bones; jaws, teeth, hyoid."""
    s, place = subject.size, Map(frames, subject.size)
    atlas, up = _base(subject, frames)
    scale = subject.sizes[level_id("C1")].width / 20

    def at(x: float, y: float, z: float) -> Vec:
        """In C1's frame, from the condyles' lower faces up."""
        return atlas.world((x * s, y * s, up + z * s))

    hole_y = -11.0 * scale / s
    vault, inner = at(0, -4, 74), (66 * s, 84 * s, 62 * s)
    shell = Part(Ellipsoid(vault, (inner[0] + 6.5, inner[1] + 7.0, inner[2] + 6.0)), 0.52, 0.0)
    parts = [shell, Part(Limb(at(0, 8, 12), at(0, 24, 42), (7 * s, 14 * s), (9 * s, 18 * s), (0, 1, 0)), 0.39, 6.0)]
    for side in (-1.0, 1.0):
        condyle = Limb(at(side * 14, hole_y + 13, 5.5), at(side * 21, hole_y + 1, 6.5), (5.5 * s, 5.0 * s))
        ear = Limb(at(side * 24, 0, 26), at(side * 56, -12, 26), (15 * s, 12 * s), (17 * s, 12 * s))
        mastoid = Limb(at(side * 54, -14, 22), at(side * 52, -9, -2), (12 * s, 10 * s), (5 * s, 5 * s), (0, 1, 0))
        parts += [Part(condyle, 0.39, 5.0), Part(ear, 0.91, 6.0), Part(mastoid, 0.39, 5.0)]
    parts.append(Part(Limb(at(-20, -46, 14), at(20, -46, 14), (9 * s, 6 * s)), 0.65, 6.0))
    holes = (
        Ellipsoid(vault, inner),
        Limb(at(0, hole_y - 5, -2), at(0, hole_y - 5, 30), (17.5 * s, 15 * s), None, (0, 1, 0)),
    )
    yield Bone(WORLD, tuple(parts), holes, density=2.0)
    palate = chain([at(-24, 34, 4), at(-19, 66, 2), at(0, 78, 2), at(19, 66, 2), at(24, 34, 4)], [(6 * s, 4.5 * s)] * 5)
    yield Bone(WORLD, tuple(Part(limb, 0.26, 3.0) for limb in palate), density=1.5)
    chin = [place.at("C3", -44, 30, 10), place.at("C3", -30, 62, -2), place.at("C3", -8, 84, -6)]
    bow = [*chin, *((2 * place.at("C3", 0, 0)[0] - x, y, z) for x, y, z in reversed(chin))]
    jaw = chain(bow, [(14 * s, 5 * s)] * 6)
    rami = [
        Limb(place.at("C3", side * 45, 28, 8), at(side * 49, 14, 22), (5 * s, 15 * s), (5 * s, 8 * s), (1, 0, 0))
        for side in (-1.0, 1.0)
    ]
    yield Bone(WORLD, tuple(Part(limb, 0.57, 3.0) for limb in (*jaw, *rami)), density=1.5)
    for rows, z in ((bow, 17.0), (bow, 25.0)):
        teeth = [(0.92 * (x - bow[2][0] - 8 * s) + bow[2][0] + 8 * s, y - 2.0, zz + z * s) for x, y, zz in rows[1:5]]
        # Thicker than a tooth: dense nearly all through.
        yield Bone(WORLD, tuple(Part(limb, 9.0, 1.0) for limb in chain(teeth, [(4.5 * s, 3.5 * s)] * 4)))
    hyoid = [place.at("C4", x, y, -2) for x, y in ((-17, 24), (-10, 40), (10, 40), (17, 24))]
    yield Bone(WORLD, tuple(Part(limb, 0.31, 1.0) for limb in chain(hyoid, [(2.6 * s, 2.4 * s)] * 4)))


def head_organs(subject: Subject, frames: Mapping[int, Frame]) -> Iterator[Organ]:
    """Brain, throat and nose with air in them, the glands of the neck."""
    s, place = subject.size, Map(frames, subject.size)
    atlas, up = _base(subject, frames)
    yield Organ(Ellipsoid(atlas.world((0, -4 * s, up + 74 * s)), place.radii(66, 84, 62)), 33.0, 4.0)
    throat = [
        atlas.world((0, 26 * s, up + 16 * s)),
        place.at("C2", 0, 22, 0),
        place.at("C4", 0, 24, 0),
        place.at("C5", 0, 27, 0),
    ]
    radii = [(6 * s, 14 * s), (5 * s, 11 * s), (6 * s, 11 * s), (7 * s, 7 * s)]
    for limb in chain(throat, radii, (0, 1, 0)):
        yield Organ(limb, -985.0, 4.0)
    for x in (-8.0, 8.0):
        yield Organ(
            Limb(atlas.world((x * s, 32 * s, up + 24 * s)), atlas.world((x * s, 68 * s, up + 26 * s)), (15 * s, 5 * s)),
            -985.0,
            4.0,
        )
    for side in (-1.0, 1.0):
        yield Organ(
            Limb(
                place.at("C6", side * 20, 26),
                place.at("T1", side * 18, 33, 4),
                (11 * s, 9 * s),
                (9 * s, 7 * s),
                (0, 1, 0),
            ),
            110.0,
            6.0,
        )
        yield Organ(Ellipsoid(place.at("C4", side * 22, 32, 0), place.radii(3, 12, 12)), 140.0, 30.0)
