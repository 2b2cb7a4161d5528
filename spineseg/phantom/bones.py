"""What bones are made of: parts with their cortex, and the arch and processes that most vertebrae share."""

import math
from dataclasses import dataclass

from spineseg.phantom.shapes import Body, Frame, Limb, Shape, Tube, Vec
from spineseg.phantom.sizes import LevelSize


@dataclass(frozen=True)
class Part:
    """A shape of a bone with its cortex.

    Args:
        shape: its surface.
        cortex_mm: median thickness of the cortex as it is drawn before the scanner; it varies along the surface. In
            arches it is thinner than anatomy's 1 to 2.5 mm: the dense bone under it adds what masks on scans show.
        blend_mm: fillet with which it joins the other parts.
        compact: dense bone all through, as arches and processes are; a body is a thin, porous shell.
    """

    shape: Shape
    cortex_mm: float
    blend_mm: float
    compact: bool = True


@dataclass(frozen=True)
class Bone:
    """Parts joined, then holes cut out; ``level`` is the canonical id, or None for a bone that is not labelled."""

    frame: Frame
    parts: tuple[Part, ...]
    holes: tuple[Shape, ...] = ()
    level: int | None = None
    density: float = 1.0  # trabecular HU relative to L1's


def body(size: LevelSize, *, waist: float, power: float, uncinate: float = 0.0) -> Body:
    """The vertebral body of a level with what disease has made of it; see ``Body`` for the keywords."""
    return Body(
        size.width,
        size.depth,
        size.height_posterior,
        size.height_anterior,
        concavity=size.end_plate_concavity,
        waist=waist,
        uncinate=uncinate,
        power=power,
        lateral=size.lateral,
        rim=size.osteophyte,
    )


def canal(size: LevelSize, length: float) -> Tube:
    """The spinal canal through a vertebra, to be cut out; ``length`` is how far it reaches either way, mm."""
    return Tube((0.0, size.canal_y), (size.canal_width / 2, size.canal_depth / 2), -length, length)


def pair(shape: Limb) -> tuple[Limb, Limb]:
    """A limb and its mirror image."""

    def mirror(point: Vec) -> Vec:
        return (-point[0], point[1], point[2])

    return shape, Limb(mirror(shape.start), mirror(shape.end), shape.radii, shape.end_radii, mirror(shape.up))


def arch(
    size: LevelSize, *, facet_back: float, facet_in: float, lamina_half_height: float, bulk: float = 1.0
) -> list[Part]:
    """Pedicles, articular pillars and laminae around the canal.

    Args:
        size: the level's sizes.
        facet_back: how far the lower facet lies behind the upper one (thoracic facets face forward), mm.
        facet_in: how far it lies nearer the middle than the upper one (lumbar facets face the middle), mm.
        lamina_half_height: half height of the laminae.
        bulk: factor on the thickness of the pillars; the laminae have a third of it.
    """
    half, back = size.height / 2, -size.depth / 2
    side = size.pedicle_x
    lift = half - size.pedicle_height / 2 - 1.0
    pillar_y = size.pillar_y
    upper: Vec = (side + 1.5, pillar_y, half + 0.35 * size.disc + 1.0)
    waist: Vec = (side - 0.5, pillar_y - 0.5 * facet_back - 1.0, -0.1 * size.height)
    lower: Vec = (side + 1.5 - facet_in, pillar_y - facet_back - 2.0, -half - 0.5 * size.disc - 3.0)
    thick = (0.12 * size.width + 1.7) * bulk
    plate = 1.0 + (bulk - 1.0) / 3
    root: Vec = (0.0, size.canal_back - 2.6 * plate, -0.3 * size.height)
    # Pedicles start in the corners of the body, however wide the canal is between them.
    corner = 0.5 * size.width * math.sqrt(1.0 - (1.0 - 10.0 / size.depth) ** 2)
    pedicle = Limb(
        (min(side, corner + size.pedicle_width / 2) - 0.5, back + 5.0, lift),
        (side, pillar_y, lift - 1.0),
        (size.pedicle_height / 2, size.pedicle_width / 2),
    )
    limbs = (
        (pedicle, 0.23, 3.0),
        (Limb(waist, upper, (thick, thick), (thick * 0.8, thick), (0, 1, 0)), 0.29, 2.5),
        (Limb(waist, lower, (thick, thick), (thick * 0.75, thick), (0, 1, 0)), 0.29, 2.5),
        (Limb((side - 1.0, pillar_y - 3.0, -0.2 * size.height), root, (lamina_half_height, 3.4 * plate)), 0.29, 2.5),
    )
    return [Part(shape, cortex, blend) for limb, cortex, blend in limbs for shape in pair(limb)]


def spinous(size: LevelSize, half_height: float, half_width: float, swell: float = 1.0) -> Part:
    """The spinous process; ``swell`` is how much taller its tip is than its root, half sizes in mm."""
    tip: Vec = (0.0, size.canal_back - size.spinous_back + half_height * 0.6, -size.spinous_down)
    limb = Limb(
        (0.0, size.canal_back - 3.5, -0.3 * size.height),
        tip,
        (half_height, half_width),
        (half_height * swell, half_width * 1.1),
    )
    return Part(limb, 0.23, 3.0)
