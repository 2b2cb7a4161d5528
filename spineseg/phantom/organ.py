"""Soft tissue of definite shape: an organ with its wall, what fills it, and where it may lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from spineseg.phantom.outline import landmark
from spineseg.phantom.shapes import Frame, Limb, Shape, Vec

Within = Literal["anywhere", "belly", "chest", "outside"]


@dataclass(frozen=True)
class Organ:
    """A solid of one HU in world mm, painted over what is there.

    Args:
        shape: its surface.
        hu: of what fills it; ``texture`` (HU) of its grain.
        wall_mm: thickness of its wall, of ``wall_hu``; 0 = none.
        gas_above: a point on the surface of its fluid, above which it holds gas; None = no gas. Above is the scanner's
            +y, however the person on the table is turned.
        marbled: streaked with the muscles' fat.
        within: the cavity that it may not leave; ``outside`` the trunk.
    """

    shape: Shape
    hu: float
    texture: float = 5.0
    wall_mm: float = 0.0
    wall_hu: float = 0.0
    gas_above: Vec | None = None
    marbled: bool = False
    within: Within = "anywhere"


@dataclass(frozen=True, eq=False)
class Map:
    """Places in a person: mm right, in front of and above the centre of a level's body, scaled by his size."""

    frames: Mapping[int, Frame]
    size: float

    def at(self, level: str, x: float, y: float, z: float = 0.0) -> Vec:
        """A point in the world; a missing level's neighbour stands in."""
        origin = self.frames[landmark(self.frames, level)].origin
        return origin[0] + x * self.size, origin[1] + y * self.size, origin[2] + z * self.size

    def radii(self, x: float, y: float, z: float) -> Vec:
        """Radii scaled by his size."""
        return x * self.size, y * self.size, z * self.size


def between(start: Vec, end: Vec, share: float) -> Vec:
    """The point a share of the way from one point to another."""
    x, y, z = (a + share * (b - a) for a, b in zip(start, end, strict=True))
    return x, y, z


def chain(points: Sequence[Vec], radii: Sequence[tuple[float, float]], up: Vec = (0.0, 0.0, 1.0)) -> list[Limb]:
    """Rods through points; ``radii`` of the section at each, along ``up`` and across."""
    ends = zip(points, points[1:], radii, radii[1:], strict=False)
    return [Limb(start, end, first, last, up) for start, end, first, last in ends]
