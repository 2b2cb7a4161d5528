"""Area of the surface inside each 2×2×2 neighbourhood of voxels, derived from geometry.

A neighbourhood is the cube between the centres of eight voxels; its code has bit ``4 x + 2 y + z`` set where the voxel
at (x, y, z) ∈ {0, 1}³ is inside. As in marching cubes (Lorensen and Cline 1987) the surface cuts each edge between
inside and outside at its middle, and a code and its complement have the same surface. What this leaves open is settled
so: of the two sides the one with fewer voxels makes the pieces, one for each group joined by edges of the cube, and the
closed polygon around a group is cut into triangles that lie in as few planes as possible.
"""

import itertools
import math
from collections.abc import Iterator
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
# Corners of the cube, and points in half edges: (1, 0, 0) is the middle of the edge from (0, 0, 0) to (2, 0, 0).
_Point = tuple[int, int, int]
_Triangle = tuple[_Point, _Point, _Point]

FULL: Final = 255
_CORNERS: Final[tuple[_Point, ...]] = tuple((n >> 2 & 1, n >> 1 & 1, n & 1) for n in range(8))
# Four single voxels, no two on one edge, have the most planes.
_MOST_PLANES: Final = 4


def neighbourhood_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Codes (X + 1, Y + 1, Z + 1) of all neighbourhoods of a mask (X, Y, Z); outside the array nothing is inside.

    >>> neighbourhood_codes(np.ones((1, 1, 1), bool)).ravel().tolist()
    [128, 64, 32, 16, 8, 4, 2, 1]
    """
    padded = np.pad(mask, 1).view(np.uint8)
    pairs = padded[:, :, :-1] | padded[:, :, 1:] << 1
    squares = pairs[:, :-1] | pairs[:, 1:] << 2
    return np.asarray(squares[:-1] | squares[1:] << 4, np.uint8)


def element_areas_mm2(spacing_mm: ArrayLike) -> Floats:
    """Area (256,) in mm² of the surface inside a neighbourhood of each code.

    A single voxel cuts off a triangle with the normal (1, 1, 1) ÷ 8; a flat face is a rectangle of the cube's own size.

    >>> element_areas_mm2((1.0, 1.0, 1.0))[[0, 1, 0b1111, 255]].round(4).tolist()
    [0.0, 0.2165, 1.0, 0.0]
    >>> element_areas_mm2((5.0, 2.0, 3.0))[0b1111].round(4).item()
    6.0
    """
    x, y, z = np.asarray(spacing_mm, np.float64)
    return np.asarray(np.linalg.norm(_plane_areas() * [y * z, x * z, x * y], axis=2).sum(axis=1))


@cache
def _plane_areas() -> Floats:
    """Area vectors (256, 4, 3) of the planes of each code's surface on the unit cube; zero where there are fewer."""
    table = np.zeros((FULL + 1, _MOST_PLANES, 3))
    for code in range(1, FULL):
        inside = {corner for n, corner in enumerate(_CORNERS) if code >> n & 1}
        smaller = inside if len(inside) <= 4 else set(_CORNERS) - inside
        planes = [area for group in _groups(smaller) for area in _fewest_planes(_polygon(group))]
        table[code, : len(planes)] = planes
    table.flags.writeable = False
    return table


def _groups(corners: set[_Point]) -> Iterator[frozenset[_Point]]:
    """Parts of a set of corners that edges of the cube join."""
    left = set(corners)
    while left:
        group, border = set[_Point](), {min(left)}
        while border:
            group |= border
            border = {corner for corner in left - group if any(_adjacent(corner, other) for other in border)}
        left -= group
        yield frozenset(group)


def _adjacent(first: _Point, second: _Point) -> bool:
    return sum(a != b for a, b in zip(first, second, strict=True)) == 1


def _polygon(group: frozenset[_Point]) -> tuple[_Point, ...]:
    """Middles of the cut edges in the order in which the surface's border runs over the faces of the cube.

    A group of at most four joined corners never holds two opposite corners of a face alone, so that its border crosses
    each face once or not at all.
    """
    partners: dict[_Point, list[_Point]] = {}
    for axis, side in itertools.product(range(3), (0, 1)):
        ring = [_on_face(axis, side, b, c) for b, c in ((0, 0), (1, 0), (1, 1), (0, 1))]
        edges = itertools.pairwise([*ring, ring[0]])
        cut = [_middle(p, q) for p, q in edges if (p in group) != (q in group)]
        if cut:
            first, second = cut
            partners.setdefault(first, []).append(second)
            partners.setdefault(second, []).append(first)
    border = [min(partners)]
    while len(border) < len(partners):
        border.append(next(point for point in partners[border[-1]] if point not in border[-2:]))
    return tuple(border)


def _on_face(axis: int, side: int, b: int, c: int) -> _Point:
    point = [b, c]
    point.insert(axis, side)
    return point[0], point[1], point[2]


def _middle(p: _Point, q: _Point) -> _Point:
    return p[0] + q[0], p[1] + q[1], p[2] + q[2]


def _fewest_planes(polygon: tuple[_Point, ...]) -> list[tuple[float, float, float]]:
    """Area vectors, in units of the cube, of the planes of the flattest triangulation.

    Where several are as flat (the group of four that winds around the cube has two), one is the other's mirror image
    and has the same areas under any spacing.
    """
    flattest = min((_planes(triangles) for triangles in _triangulations(polygon)), key=len)
    # Twice a triangle's area, and lengths counted in half edges: 2 · 2².
    return [(x / 8, y / 8, z / 8) for x, y, z in flattest.values()]


def _planes(triangles: tuple[_Triangle, ...]) -> dict[tuple[_Point, int], _Point]:
    """Sum of the triangles' normals in each plane, which a primitive normal and its product with a point name."""
    planes: dict[tuple[_Point, int], _Point] = {}
    for p, q, r in triangles:
        (a, b, c), (d, e, f) = ([y - x for x, y in zip(p, other, strict=True)] for other in (q, r))
        normal = (b * f - c * e, c * d - a * f, a * e - b * d)
        step = math.gcd(*normal)
        unit = (normal[0] // step, normal[1] // step, normal[2] // step)
        plane = (unit, sum(x * y for x, y in zip(unit, p, strict=True)))
        planes[plane] = _middle(planes.get(plane, (0, 0, 0)), normal)
    return planes


def _triangulations(polygon: tuple[_Point, ...]) -> Iterator[tuple[_Triangle, ...]]:
    """All ways to cut a polygon into triangles along its diagonals."""
    if len(polygon) < 3:
        yield ()
        return
    for k in range(1, len(polygon) - 1):
        for before, after in itertools.product(_triangulations(polygon[: k + 1]), _triangulations(polygon[k:])):
            yield ((polygon[0], polygon[k], polygon[-1]), *before, *after)
