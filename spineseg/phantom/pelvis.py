"""The pelvis: hip bones, the upper ends of the femora, bladder."""

from collections.abc import Iterator, Mapping

from spineseg.phantom.bones import Bone, Part
from spineseg.phantom.organ import Map, Organ, chain
from spineseg.phantom.outline import Trunk
from spineseg.phantom.shapes import WORLD, Ellipsoid, Frame, Limb, Shape, Vec
from spineseg.phantom.subject import Subject


def hips(subject: Subject, frames: Mapping[int, Frame]) -> Iterator[Bone]:
    """Hip bones with wing, socket, pubis and ischium, and the upper ends of the femora."""
    place, s = Map(frames, subject.size), subject.size

    def scaled(up: float, across: float) -> tuple[float, float]:
        return up * s, across * s

    def wide(*radii: tuple[float, float]) -> list[tuple[float, float]]:
        return [scaled(*pair) for pair in radii]

    for side in (-1.0, 1.0):

        def at(x: float, y: float, z: float, side: float = side) -> Vec:
            return place.at("S1", side * x, y, z)

        # The wing, back to front, as upright plates; its rim, the crest, is thicker.
        wing = [at(46, -50, -14), at(64, -27, -8), at(88, 4, 2), at(108, 32, -2), at(117, 54, -24)]
        plates = chain(wing, wide((26, 8), (34, 8.5), (36, 4), (32, 4.5), (12, 6.5)), (0.0, 0.0, 1.0))
        crest_path = [at(48, -54, 8), at(74, -30, 30), at(103, 6, 42), at(121, 36, 30), at(122, 58, -12)]
        crest = chain(crest_path, wide((7, 6), (7, 6), (7, 6), (7, 6.5), (7, 6)))
        socket = at(90, 26, -92)
        neck = Limb(at(80, 0, -26), at(88, 18, -76), scaled(30, 8), scaled(26, 16), (0.0, 1.0, 0.2))
        cup = Ellipsoid(socket, place.radii(29, 32, 32))
        ischium = chain([at(86, 6, -104), at(68, -22, -142), at(56, -14, -160)], wide((15, 12), (17, 14), (12, 12)))
        pubis = chain([at(76, 50, -88), at(40, 68, -104), at(11, 74, -116)], wide((9, 10), (8, 7), (17, 7)))
        ramus = chain([at(11, 70, -128), at(32, 52, -146), at(54, -8, -162)], wide((10, 5), (8, 5), (9, 8)))
        shapes: list[Shape] = [*plates, *crest, neck, cup, *ischium, *pubis, *ramus]
        parts = [Part(shape, 0.42, 6.0) for shape in shapes]
        yield Bone(
            WORLD, tuple(parts), (Ellipsoid(socket, place.radii(27, 27, 27)), _mouth(socket, side, s)), density=0.7
        )
        knee = at(106, 30, -330)
        trochanter, shaft = at(138, 12, -100), at(132, 16, -140)
        femur = (
            Part(Ellipsoid(socket, place.radii(24, 24, 24)), 0.31, 0.0),
            Part(Limb(socket, at(128, 14, -112), scaled(16, 14), scaled(18, 15)), 0.47, 5.0),
            Part(Limb(trochanter, shaft, scaled(16, 14), scaled(16, 15), (0.0, 1.0, 0.0)), 0.42, 5.0),
            Part(Limb(shaft, knee, scaled(15, 15), scaled(14, 14), (0.0, 1.0, 0.0)), 1.56, 5.0),
        )
        yield Bone(WORLD, femur, density=0.9)


def _mouth(socket: Vec, side: float, s: float) -> Ellipsoid:
    """The socket opens outwards and down."""
    return Ellipsoid(
        (socket[0] + side * 24.0 * s, socket[1] + 4.0 * s, socket[2] - 10.0 * s), (20.0 * s, 24.0 * s, 24.0 * s)
    )


def pelvic_organs(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk) -> Iterator[Organ]:
    """Bladder, and the muscles on the inside of the wings."""
    place, s, spots = Map(frames, subject.size), subject.size, trunk.habitus.spots
    for side in (-1.0, 1.0):
        path = [
            place.at("S1", side * 92, 24, 14),
            place.at("S1", side * 86, 36, -50),
            place.at("S1", side * 84, 44, -90),
        ]
        for limb in chain(path, [(26 * s, 7 * s), (22 * s, 9 * s), (12 * s, 12 * s)], (0.55 * side, 0.85, 0.0)):
            yield Organ(limb, subject.muscle_hu, 6.0, marbled=True)
    full = 0.6 + 0.5 * float(spots[6, 0])
    urine = 300.0 if trunk.habitus.excreted else 6.0
    yield Organ(
        Ellipsoid(place.at("S1", 0, 56, -96), place.radii(42 * full, 34 * full, 34 * full)), urine, 3.0, 3.0, 42.0
    )
