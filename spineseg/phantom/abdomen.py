"""The belly: psoas and loin muscles, aorta and vena cava, liver, spleen, kidneys and stomach."""

import math
from collections.abc import Iterator, Mapping

from spineseg.phantom.organ import Map, Organ, between, chain
from spineseg.phantom.outline import Trunk, landmark
from spineseg.phantom.shapes import Ellipsoid, Frame, Limb, Vec
from spineseg.phantom.subject import Subject


def enhancement(subject: Subject, trunk: Trunk) -> dict[str, float]:
    """HU of the blood and of what it perfuses, by the time since the injection."""
    blood = subject.vessel_hu
    if blood < 100:
        return {"artery": blood, "vein": blood, "liver": 58, "spleen": 50, "cortex": 33, "medulla": 31, "wall": 40}
    if trunk.habitus.venous:
        even = min(blood, 190.0)
        return {
            "artery": even,
            "vein": 0.95 * even,
            "liver": 108,
            "spleen": 118,
            "cortex": 190,
            "medulla": 165,
            "wall": 85,
        }
    return {
        "artery": blood,
        "vein": 0.25 * blood + 35,
        "liver": 70,
        "spleen": 105,
        "cortex": 190,
        "medulla": 75,
        "wall": 90,
    }


def muscles(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk) -> Iterator[Organ]:
    """Psoas from T12 to the hip, quadratus lumborum beside it, and the diaphragm's crura."""
    place, s, hu = Map(frames, subject.size), subject.size, subject.muscle_hu
    for side in (-1.0, 1.0):
        path = [place.at("T12", side * 27, -4), place.at("L2", side * 34, -5), place.at("L4", side * 46, 0)]
        path += [
            place.at("S1", side * 56, 24, 12),
            place.at("S1", side * 76, 52, -50),
            place.at("S1", side * 88, 40, -110),
        ]
        radii = [
            (8 * s, 5 * s),
            (15 * s, 10 * s),
            (22 * s, 17 * s),
            (18 * s, 18 * s),
            (17 * s, 17 * s),
            (14 * s, 14 * s),
        ]
        for limb in chain(path, radii, (0.0, 1.0, 0.0)):
            yield Organ(limb, hu, 6.0, marbled=True)
        loin = [place.at("T12", side * 42, -24), place.at("L3", side * 62, -20), place.at("L5", side * 76, -22, 4)]
        for limb in chain(loin, [(5 * s, 12 * s), (8 * s, 20 * s), (7 * s, 22 * s)], (0.0, 1.0, 0.0)):
            yield Organ(limb, hu, 6.0, marbled=True)
        crus = [place.at("T10", side * 13, 40, -6), place.at("T12", side * 15, 25), place.at("L2", side * 12, 21)]
        for limb in chain(crus, [(7 * s, 3 * s), (7 * s, 3.5 * s), (5 * s, 2.5 * s)], (0.0, 1.0, 0.0)):
            yield Organ(limb, hu)


def vessels(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk) -> Iterator[Organ]:
    """Aorta from the arch down, vena cava, their branches, and plaques in the aorta's wall."""
    place, s, spots = Map(frames, subject.size), subject.size, trunk.habitus.spots
    hu = enhancement(subject, trunk)

    def before(level: str, x: float, radius: float) -> Vec:
        """A vessel of a radius lying on the front of a level's body."""
        size = subject.sizes[landmark(frames, level)]
        across = min(0.95, abs(x) * s / (size.width / 2 + radius * s))
        return place.at(level, x, (size.depth / 2 * math.sqrt(1 - across**2) + radius * s) / s + 2.5)

    aorta = [before("T4", -22, 12), before("T6", -21, 12), before("T8", -18, 12), before("T10", -12, 11)]
    aorta += [before("T12", -5, 10.5), before("L2", -6, 9.5), before("L4", -4, 8.5)]
    width = [13, 12.5, 12, 11.5, 10.5, 9.5, 8.5]
    for limb in chain(aorta, [(r * s, r * s) for r in width], (0.31, 0.95, 0.0)):
        yield Organ(limb, hu["artery"], 3.0)
    cava = [
        place.at("T8", 24, 52),
        place.at("T10", 26, 38),
        before("T12", 24, 12),
        before("L2", 20, 11),
        before("L4", 17, 10),
    ]
    for limb in chain(cava, [(10 * s, 12 * s)] * 5, (0.0, 1.0, 0.0)):
        yield Organ(limb, hu["vein"], 3.0)
    for side in (-1.0, 1.0):
        fork = aorta[-1] if side < 0 else (aorta[-1][0] + 2, aorta[-1][1], aorta[-1][2])
        iliac = [
            fork,
            place.at("S1", side * 30, 34, 6),
            place.at("S1", side * 62, 40, -50),
            place.at("S1", side * 76, 74, -105),
        ]
        for limb in chain(
            iliac, [(6 * s, 6 * s), (5.5 * s, 5.5 * s), (5 * s, 5 * s), (5 * s, 5 * s)], (0.31, 0.95, 0.0)
        ):
            yield Organ(limb, hu["artery"], 3.0)
        vein = [
            cava[-1],
            place.at("S1", side * 32, 26, 0),
            place.at("S1", side * 56, 26, -50),
            place.at("S1", side * 70, 68, -105),
        ]
        for limb in chain(vein, [(7 * s, 7 * s)] * 4, (0.31, 0.95, 0.0)):
            yield Organ(limb, hu["vein"], 3.0)
        for radius, start, shade in ((3.2, aorta[-2], "artery"), (5.0, cava[-2], "vein")):
            for limb in chain([start, place.at("L1", side * 32, 14, -14)], [(radius * s, radius * s)] * 2):
                yield Organ(limb, hu[shade], 3.0)
    gut = [aorta[-3], place.at("L1", -2, 46, -4), place.at("L3", 0, 52), place.at("L4", 4, 56)]
    for limb in chain(gut, [(4 * s, 4 * s)] * 4, (0.31, 0.95, 0.0)):
        yield Organ(limb, hu["artery"], 3.0)
    for u, v, w, t in spots[130:160].tolist():
        if t > trunk.habitus.plaque:
            continue
        # The lower the part of the aorta, the more of them.
        position = (len(aorta) - 1) * math.sqrt(u) * 0.999
        step = int(position)
        share, radius = position - step, width[step] * s
        x, y, z = between(aorta[step], aorta[step + 1], share)
        angle = 2 * math.pi * v
        spot = (x + radius * math.cos(angle), y + radius * math.sin(angle), z)
        yield Organ(Ellipsoid(spot, (1.2 + 2.0 * w, 1.2 + 2.0 * w, 2.0 + 5.0 * v)), 450.0 + 500.0 * w, 0.0)


def upper_organs(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk) -> Iterator[Organ]:
    """Liver, gall bladder, spleen, kidneys with adrenals, pancreas and stomach."""
    place, s, spots = Map(frames, subject.size), subject.size, trunk.habitus.spots
    hu = enhancement(subject, trunk)
    low = 16.0 * float(spots[2, 0])
    yield Organ(
        Limb(place.at("T11", 84, 44, 20), place.at("L2", 98, 40, -low), (88 * s, 70 * s), (40 * s, 26 * s), (0, 1, 0)),
        hu["liver"],
        4.0,
        within="belly",
    )
    yield Organ(
        Limb(place.at("T10", 60, 84, 6), place.at("T11", -34, 96, 4), (50 * s, 44 * s), (20 * s, 22 * s), (0, 1, 0)),
        hu["liver"],
        4.0,
        within="belly",
    )
    for x, y, goal in (
        (50, 62, (96, 20, 18)),
        (50, 66, (104, 66, 22)),
        (44, 66, (40, 104, 24)),
        (46, 62, (70, 36, -30)),
    ):
        ends = [place.at("T12", x, y, -6), place.at("T11", goal[0], goal[1], goal[2])]
        for limb in chain(ends, [(6 * s, 6 * s), (3 * s, 3 * s)], (0.31, 0.2, 0.9)):
            yield Organ(limb, hu["vein"], 3.0, within="belly")
    yield Organ(
        Ellipsoid(place.at("L2", 68, 84, 8), place.radii(14, 22, 16)),
        8.0,
        wall_mm=2.0,
        wall_hu=hu["wall"],
        within="belly",
    )
    yield Organ(
        Limb(place.at("T10", -92, -6, 0), place.at("T12", -108, 16, -6), (36 * s, 22 * s), (32 * s, 17 * s), (0, 1, 0)),
        hu["spleen"],
        4.0,
        within="belly",
    )
    yield from _stomach(subject, place, trunk, hu["wall"])
    pancreas = [
        place.at("L2", 34, 52, 4),
        place.at("L1", 8, 54, -4),
        place.at("L1", -30, 40, 6),
        place.at("T12", -66, 20, -2),
    ]
    for limb in chain(pancreas, [(13 * s, 15 * s), (9 * s, 11 * s), (9 * s, 11 * s), (7 * s, 8 * s)], (0, 1, 0)):
        yield Organ(limb, 0.5 * hu["wall"] + 22.0, 10.0)
    for side in (-1.0, 1.0):
        level, drop = ("L2", 10.0) if side > 0 else ("L1", -12.0)
        yield from _kidney(subject, place, trunk, level, side, drop)
        gland = [place.at("T12", side * 32, 12, 8), place.at("T12", side * 42, 2, -2)]
        for limb in chain(gland, [(9 * s, 2.6 * s), (9 * s, 2.6 * s)], (0.3, 1, 0)):
            yield Organ(limb, 0.6 * hu["wall"] + 5.0)


def _stomach(subject: Subject, place: Map, trunk: Trunk, wall: float) -> Iterator[Organ]:
    s, habitus = subject.size, trunk.habitus
    path = [
        place.at("T10", -58, 44, 6),
        place.at("T12", -62, 80, 6),
        place.at("L2", -34, 98, 6),
        place.at("L2", 26, 88, 14),
    ]
    full = 0.55 + 0.6 * float(habitus.spots[3, 0])
    # One level in all its parts.
    surface: Vec = (path[1][0], path[1][1] + 30.0 * s * (float(habitus.spots[3, 1]) - 0.4), path[1][2])
    radii = [
        (34 * s * full, 34 * s * full),
        (30 * s * full, 32 * s * full),
        (22 * s * full, 22 * s * full),
        (13 * s, 13 * s),
    ]
    content = habitus.oral_hu if habitus.oral_hu else 18.0
    limbs = chain(path, radii, (0, 1, 0))
    for limb in limbs:
        yield Organ(limb, wall, 6.0, within="belly")
    for limb in limbs:
        # The lumen of all parts over the walls of all: no wall stands inside.
        inner = [(max(2.0, a - 3.5), max(2.0, b - 3.5)) for a, b in (limb.radii, limb.end_radii or limb.radii)]
        yield Organ(
            Limb(limb.start, limb.end, inner[0], inner[1], limb.up), content, 8.0, gas_above=surface, within="belly"
        )


def _kidney(subject: Subject, place: Map, trunk: Trunk, level: str, side: float, drop: float) -> Iterator[Organ]:
    """Cortex, pyramids, the sinus of fat that opens to the middle, and the pelvis with urine in it."""
    s, hu = subject.size, enhancement(subject, trunk)
    # The upper pole lies nearer the spine and further back.
    top, bottom = place.at(level, side * 54, -10, 34 - drop), place.at(level, side * 68, 2, -26 - drop)
    middle = between(top, bottom, 0.5)
    yield Organ(Limb(top, bottom, (27 * s, 24 * s), (27 * s, 24 * s), (0.5 * side, 1, 0)), hu["cortex"], 5.0)
    yield Organ(Limb(top, bottom, (20 * s, 17 * s), (20 * s, 17 * s), (0.5 * side, 1, 0)), hu["medulla"], 8.0)
    hilum: Vec = (middle[0] - side * 12.0 * s, middle[1] + 5.0 * s, middle[2])
    yield Organ(Ellipsoid(hilum, place.radii(17, 10, 22)), subject.fat_hu + 25.0, 12.0)
    urine = 500.0 if trunk.habitus.excreted else 8.0
    yield Organ(Ellipsoid((hilum[0] - side * 2.0, hilum[1], hilum[2]), place.radii(8, 5, 11)), urine, 3.0)
    ureter = [hilum, place.at("L4", side * 44, 16), place.at("S1", side * 40, 40, -10)]
    for limb in chain(ureter, [(2.2 * s, 2.2 * s)] * 3, (0.31, 0.95, 0.0)):
        yield Organ(limb, urine if urine > 100 else 30.0)
    spot = trunk.habitus.spots[4 + (side > 0)].tolist()
    if spot[0] < 0.12:  # a stone
        stone = (hilum[0] + side * 10.0 * (spot[1] - 0.2), hilum[1], hilum[2] + 30.0 * (spot[2] - 0.5))
        yield Organ(Ellipsoid(stone, (2.0 + 3.0 * spot[3],) * 3), 700.0, 0.0)
