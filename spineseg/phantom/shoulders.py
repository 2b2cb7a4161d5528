"""Clavicles, scapulae and arms, beside the head or beside the trunk."""

from collections.abc import Iterator, Mapping

from spineseg.phantom.bones import Bone, Part
from spineseg.phantom.organ import Map, Organ, between, chain
from spineseg.phantom.outline import Trunk
from spineseg.phantom.shapes import WORLD, Ellipsoid, Frame, Limb, Vec
from spineseg.phantom.subject import Subject


def _joint(place: Map, trunk: Trunk, side: float) -> Vec:
    """Centre of the head of the humerus."""
    if trunk.habitus.arms_down:
        return place.at("T2", side * 164, -4, 6)
    return place.at("T1", side * 148, 4, 10)


def _elbow(place: Map, trunk: Trunk, side: float) -> Vec:
    if trunk.habitus.arms_down:
        return place.at("L2", side * (205 + 0.8 * float(trunk.fat.max())), -10, 0)
    return place.at("C1", side * 190, 40, 120)


def shoulders(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk) -> Iterator[Bone]:
    """Clavicles, scapulae, and the bones of the upper arms."""
    place, s = Map(frames, subject.size), subject.size
    down = trunk.habitus.arms_down
    for side in (-1.0, 1.0):
        head = _joint(place, trunk, side)
        inner = trunk.cavity.point(place.at("T3", 0, 0, 12)[2], 3.14159, 8.0 * s)
        inner = (inner[0] + side * 24.0 * s, inner[1] - 2.0, inner[2])
        roof: Vec = (head[0] + side * 2.0, head[1] - 8.0 * s, head[2] + (30.0 if down else 18.0) * s)
        bend: Vec = (
            0.5 * (inner[0] + roof[0]),
            0.6 * inner[1] + 0.4 * roof[1] + 8.0 * s,
            0.5 * (inner[2] + roof[2]) + 2.0,
        )
        clavicle = chain((inner, bend, roof), [(8.0 * s, 8.0 * s), (5.5 * s, 5.5 * s), (5.0 * s, 8.0 * s)])
        yield Bone(WORLD, tuple(Part(limb, 0.42, 2.0) for limb in clavicle), density=0.8)
        socket: Vec = (head[0] - side * 28.0 * s, head[1] - 6.0 * s, head[2] - 4.0 * s)
        # The blade lies on the ribs' backs; raised arms turn its lower corner outwards.
        upper = trunk.cavity.point(place.at("T2", 0, 0, 4)[2], side * 0.95, 27.0 * s)
        lower = trunk.cavity.point(place.at("T7", 0, 0, 4)[2], side * (0.72 if down else 1.05), 20.0 * s)
        border = trunk.cavity.point(place.at("T3", 0, 0, -4)[2], side * 0.6, 20.0 * s)
        blade = (
            Part(Limb(upper, lower, (2.2, 34.0 * s), (2.0, 12.0 * s), _outwards(upper, trunk)), 0.29, 0.0),
            Part(Limb(socket, lower, (6.0 * s, 6.0 * s), (3.5, 3.5)), 0.34, 4.0),
            Part(Limb(socket, upper, (9.0 * s, 7.0 * s), (2.2, 3.0)), 0.31, 4.0),
            Part(Ellipsoid(socket, (7.0 * s, 12.0 * s, 17.0 * s)), 0.31, 4.0),
        )
        behind = 0.5 * (border[1] + roof[1]) + (-3.0 if down else 4.0) * s
        ridge: Vec = (0.6 * border[0] + 0.4 * roof[0], behind, roof[2] - 10.0 * s)
        spine = chain(
            (border, ridge, roof),
            [(2.4, 3.5), (2.6, 9.0 * s), (5.0, 9.0 * s)],
        )
        beak = Limb(socket, (socket[0] - side * 2.0, head[1] + 26.0 * s, head[2] + 12.0 * s), (7.0, 7.0), (5.0, 5.0))
        yield Bone(WORLD, (*blade, *(Part(v, 0.31, 2.0) for v in spine), Part(beak, 0.31, 3.0)), density=0.8)
        elbow = _elbow(place, trunk, side)
        neck = between(head, elbow, 0.22)
        arm = (
            Part(Ellipsoid(head, (22.0 * s, 22.0 * s, 22.0 * s)), 0.31, 0.0),
            Part(Limb(head, neck, (20.0 * s, 18.0 * s), (12.0 * s, 12.0 * s), (0.0, 1.0, 0.0)), 0.52, 4.0),
            Part(Limb(neck, elbow, (11.5 * s, 11.5 * s), (11.0 * s, 13.0 * s), (0.0, 1.0, 0.0)), 1.09, 4.0),
        )
        yield Bone(WORLD, arm, density=0.6)


def _outwards(point: Vec, trunk: Trunk) -> Vec:
    row = abs(trunk.z - point[2]).argmin()
    middle = float(trunk.cavity.back[row] + trunk.cavity.half_depth[row])
    x, y = point[0] - float(trunk.cavity.x[row]), point[1] - middle
    length = (x * x + y * y) ** 0.5
    return x / length, y / length, 0.0


def arms(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk) -> Iterator[Organ]:
    """Skin, fat and muscle of the upper arms; painted before the trunk's organs."""
    place, s, fat = Map(frames, subject.size), subject.size, 0.45 * subject.fat_mm
    for side in (-1.0, 1.0):
        head, elbow = _joint(place, trunk, side), _elbow(place, trunk, side)
        for inset, hu, marbled in (
            (0.0, 20.0, False),
            (2.0, subject.fat_hu, False),
            (2.0 + fat, subject.muscle_hu, True),
        ):
            radii = (44.0 * s + fat - inset, 38.0 * s + fat - inset)
            yield Organ(
                Limb(head, elbow, (radii[0], radii[0]), (radii[1], radii[1]), (0.0, 1.0, 0.0)),
                hu,
                marbled=marbled,
                within="outside",
            )
