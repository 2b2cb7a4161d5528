"""Implicit shapes: signed distances in mm (negative inside), the voxel boxes they live on, and partial volume.

A distance is exact on the surface and first-order right near it, which is what partial volume needs: the share of a
voxel that a surface leaves filled is read from the distance at its centre, so that no supersampling is needed and a
cortex thinner than a voxel keeps its mass.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Vec = tuple[float, float, float]

FAR = 1.0e3  # mm; a distance that no shape here reaches
_EDGE_MM = 0.9  # below a body's end plate: within its rounded edge, where the waist has begun, it is widest


@dataclass(frozen=True)
class Box:
    """A block of voxels: slices into the grid's array, and its voxels' place in the world (mm).

    ``x`` and ``y`` are (nx, ny, 1) on a turned grid.
    """

    slices: tuple[slice, slice, slice]
    x: Array  # (nx, 1, 1)
    y: Array  # (1, ny, 1)
    z: Array  # (1, 1, nz)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        a, b, c = (span.stop - span.start for span in self.slices)
        return a, b, c

    def within(self, outer: "Box") -> tuple[slice, slice, slice]:
        """Slices of this box in an array of the shape of ``outer``, which must contain it."""
        a, b, c = (
            slice(mine.start - theirs.start, mine.stop - theirs.start)
            for mine, theirs in zip(self.slices, outer.slices, strict=True)
        )
        return a, b, c


@dataclass(frozen=True)
class VoxelGrid:
    """The scanner's grid, axes right, anterior, cranial: ``origin`` is the centre of voxel (0, 0, 0) in mm.

    The person, with his world, lies in it turned by ``turn_deg`` about z, his front towards his left: his shapes
    are evaluated where they are, so that no voxel is resampled.
    """

    shape: tuple[int, int, int]
    spacing: Vec
    origin: Vec
    turn_deg: float = 0.0

    @property
    def voxel_mm(self) -> float:
        """Width of a voxel seen by a surface of unknown direction: the mean spacing."""
        return sum(self.spacing) / 3

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel → mm, RAS+, (4, 4)."""
        affine = np.diag([*self.spacing, 1.0]).astype(np.float64)
        affine[:3, 3] = self.origin
        return affine

    def axis(self, dimension: int, start: int = 0, stop: int | None = None) -> Array:
        """World coordinates of the voxel centres along one axis."""
        stop = self.shape[dimension] if stop is None else stop
        steps = np.arange(start, stop, dtype=np.float64)
        return (self.origin[dimension] + self.spacing[dimension] * steps).astype(np.float32)

    def box(self, low: Sequence[float], high: Sequence[float], margin: float = 0.0) -> Box | None:
        """Voxels between two corners of the world (widened by ``margin``); None when none lies on the grid."""
        spans = []
        if self.turn_deg:
            low, high = WORLD.turned(self.turn_deg).world_bounds((low[0], low[1], low[2]), (high[0], high[1], high[2]))
        for n, step, first, a, b in zip(self.shape, self.spacing, self.origin, low, high, strict=True):
            start = max(0, int(np.floor((a - margin - first) / step)))
            stop = min(n, int(np.ceil((b + margin - first) / step)) + 1)
            if start >= stop:
                return None
            spans.append(slice(start, stop))
        return self.block(spans[0], spans[1], spans[2])

    def block(self, x: slice, y: slice, z: slice) -> Box:
        """The box of three slices with explicit ends."""
        across = self.axis(0, x.start, x.stop)[:, None, None]
        front = self.axis(1, y.start, y.stop)[None, :, None]
        if self.turn_deg:
            (cosine, sine, _), _, _ = WORLD.turned(self.turn_deg).axes
            c, s = np.float32(cosine), np.float32(sine)
            across, front = across * c + front * s, front * c - across * s
        return Box((x, y, z), across, front, self.axis(2, z.start, z.stop)[None, None, :])


@dataclass(frozen=True)
class Frame:
    """A right-handed frame in the world: ``origin`` in mm, ``axes`` rows = its x, y, z axes."""

    origin: Vec
    axes: tuple[Vec, Vec, Vec]

    def world(self, point: Sequence[float]) -> Vec:
        """Take a point of this frame to the world."""
        u, v, w = point
        x, y, z = (o + u * a + v * b + w * c for o, a, b, c in zip(self.origin, *self.axes, strict=True))
        return x, y, z

    def turned(self, degrees: float) -> "Frame":
        """The frame after a turn of the whole world about its z axis, anticlockwise seen from above."""
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

        def turn(v: Vec) -> Vec:
            return v[0] * cosine - v[1] * sine, v[0] * sine + v[1] * cosine, v[2]

        return Frame(turn(self.origin), (turn(self.axes[0]), turn(self.axes[1]), turn(self.axes[2])))

    def local(self, box: Box) -> tuple[Array, Array, Array]:
        """Coordinates of a box's voxels in this frame, each of the box's shape."""
        x, y, z = (np.float32(o) for o in self.origin)
        dx, dy, dz = box.x - x, box.y - y, box.z - z
        first, second, third = (
            (dx * np.float32(a[0]) + dy * np.float32(a[1])) + dz * np.float32(a[2]) for a in self.axes
        )
        return first, second, third

    def world_bounds(self, low: Vec, high: Vec) -> tuple[Vec, Vec]:
        """World-aligned corners that hold a box of this frame."""
        corners = [self.world(corner) for corner in itertools.product(*zip(low, high, strict=True))]
        lows, highs = zip(*((min(c), max(c)) for c in zip(*corners, strict=True)), strict=True)
        return (lows[0], lows[1], lows[2]), (highs[0], highs[1], highs[2])


WORLD = Frame((0.0, 0.0, 0.0), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


class Shape(Protocol):
    """A solid in a local frame."""

    def bounds(self) -> tuple[Vec, Vec]:
        """Two corners that hold the solid."""

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance in mm at local points."""


def _ellipsoid(u: Array, v: Array, w: Array, radii: tuple[Array | float, Array | float, Array | float]) -> Array:
    # First-order distance k0 (k0 - 1) / k1 with k0 = |p/r|, k1 = |p/r²|; the small terms give -min(r) at the centre.
    a, b, c = radii
    nu, nv, nw = u / a, v / b, w / c
    k0 = np.sqrt(nu * nu + nv * nv + nw * nw)
    nu, nv, nw = nu / a, nv / b, nw / c
    k1 = np.sqrt(nu * nu + nv * nv + nw * nw)
    smallest = np.minimum(np.minimum(a, b), c).astype(np.float32)
    result: Array = (k0 + 1e-3) / (k1 + 1e-3 / smallest) * (k0 - 1.0)
    return result


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with axes along the frame."""

    center: Vec
    radii: Vec

    def bounds(self) -> tuple[Vec, Vec]:
        """Two corners that hold the solid."""
        low, high = (tuple(c + sign * r for c, r in zip(self.center, self.radii, strict=True)) for sign in (-1.0, 1.0))
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance in mm, first order."""
        return _ellipsoid(x - self.center[0], y - self.center[1], z - self.center[2], self.radii)


@dataclass(frozen=True)
class Limb:
    """A rod from ``start`` to ``end`` with an elliptical, tapering section and rounded ends.

    Args:
        start: first end of the axis, mm.
        end: second end of the axis.
        radii: of the section at the start: along ``up`` (made square to the axis), and across.
        end_radii: the same at the end; None = no taper.
        up: direction of the section's first radius.
    """

    start: Vec
    end: Vec
    radii: tuple[float, float]
    end_radii: tuple[float, float] | None = None
    up: Vec = (0.0, 0.0, 1.0)

    def bounds(self) -> tuple[Vec, Vec]:
        """Two corners that hold the solid."""
        ends = (self.radii, self.end_radii or self.radii)
        reach = max(max(radii) for radii in ends)
        low = tuple(min(a, b) - reach for a, b in zip(self.start, self.end, strict=True))
        high = tuple(max(a, b) + reach for a, b in zip(self.start, self.end, strict=True))
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance in mm, first order."""
        start, end, up = (np.array(v, dtype=np.float64) for v in (self.start, self.end, self.up))
        length = float(np.sqrt(((end - start) ** 2).sum())) or 1e-6
        axis = (end - start) / length
        first = up - axis * float((up * axis).sum())
        first /= np.sqrt((first**2).sum())
        second = np.cross(axis, first)
        dx, dy, dz = x - self.start[0], y - self.start[1], z - self.start[2]

        def along(direction: NDArray[np.float64]) -> Array:
            projected: Array = dx * float(direction[0]) + dy * float(direction[1]) + dz * float(direction[2])
            return projected

        reach = along(axis)
        share = np.clip(reach / length, 0.0, 1.0)
        ends = self.end_radii or self.radii
        a = self.radii[0] + share * (ends[0] - self.radii[0])
        b = self.radii[1] + share * (ends[1] - self.radii[1])
        beyond = reach - share * length
        return _ellipsoid(along(first), along(second), beyond, (a, b, np.minimum(a, b)))


@dataclass(frozen=True)
class Tube:
    """An endless elliptical tube along z between two heights: the spinal canal of one vertebra."""

    center: tuple[float, float]
    radii: tuple[float, float]
    low: float
    high: float

    def bounds(self) -> tuple[Vec, Vec]:
        """Two corners that hold the solid."""
        (x, y), (a, b) = self.center, self.radii
        return (x - a, y - b, self.low), (x + a, y + b, self.high)

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance in mm, first order."""
        side = _ellipsoid(x - self.center[0], y - self.center[1], np.float32(0) * z, (*self.radii, FAR))
        result: Array = np.maximum(side, np.maximum(self.low - z, z - self.high))
        return result


@dataclass(frozen=True)
class Body:
    """A vertebral body: a waisted drum with a rounded section, wedged and with concave end plates.

    Args:
        width: of the end plate, x, mm: the widest place of the body.
        depth: of the end plate, y.
        height_posterior: at the back; ``height_anterior`` at the front.
        concavity: depth of the end plates' concavity at its centre.
        waist: share by which the middle is narrower than the end plates.
        uncinate: height of the uncinate processes, the raised sides of a cervical upper end plate.
        power: of the superellipse of the section, 2 = ellipse.
        lateral: how much higher the right edge is than the left one, mm.
        rim: how far osteophytes stand out from the end plates' edges, front and sides, mm.
    """

    width: float
    depth: float
    height_posterior: float
    height_anterior: float
    concavity: float = 1.5
    waist: float = 0.08
    uncinate: float = 0.0
    power: float = 2.4
    lateral: float = 0.0
    rim: float = 0.0

    def bounds(self) -> tuple[Vec, Vec]:
        """Two corners that hold the solid."""
        a, b = self.width / 2 + self.rim, self.depth / 2 + self.rim
        c = max(self.height_posterior, self.height_anterior) * 0.55 + self.uncinate + abs(self.lateral) / 4
        return (-a, -b, -c), (a, b, c)

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance in mm, first order."""
        below = min(1.0, 4.0 * _EDGE_MM / (self.height_posterior + self.height_anterior))
        widest = 1.0 - max(self.waist, 0.0) * (1.0 - (1.0 - below) ** 2)
        a, b, p = self.width / 2 / widest, self.depth / 2 / widest, self.power
        forward = np.clip(y / self.depth, -0.5, 0.5)
        half = 0.5 * (self.height_posterior * (0.5 - forward) + self.height_anterior * (0.5 + forward))
        if self.lateral:
            # Never thinner than a millimetre or so: the thin edge of a half vertebra.
            half = np.maximum(half + 0.5 * self.lateral * np.clip(x / self.width, -0.5, 0.5), 0.8)
        up = z / half
        girth = 1.0 - self.waist * np.clip(1.0 - up * up, 0.0, 1.0)
        u, v = np.abs(x) / (a * girth), np.abs(y) / (b * girth)
        radial = (u**p + v**p + 1e-6) ** (1.0 / p)
        # The gradient of the superellipse's radius turns (radial - 1) into mm.
        inverse = 1.0 / radial
        slope = np.sqrt(((u * inverse) ** (p - 1) / a) ** 2 + ((v * inverse) ** (p - 1) / b) ** 2)
        side = (radial - 1.0) / np.maximum(slope, 0.5 / max(a, b))
        if self.rim:
            # Spurs stand on the edges of the end plates, not at the canal.
            edge = np.clip((np.abs(up) - 0.5) / 0.5, 0.0, 1.0)
            side = side - self.rim * edge * edge * np.clip(0.5 + 3.0 * forward + 0.5, 0.0, 1.0)
        sunk = self.concavity * np.clip(1.0 - radial * radial, 0.0, 1.0)
        top = half - sunk
        if self.uncinate:
            rise = np.clip(np.abs(x) / a, 0.0, 1.1) ** 4
            top = np.where(z > 0, top + self.uncinate * rise, top)
        return smooth_max(side, np.abs(z) - top, 1.2)


def smooth_min(a: Array, b: Array, blend: float) -> Array:
    """Union of two distances with a fillet of about ``blend`` mm (polynomial smooth minimum)."""
    if blend < 1e-6:
        return np.minimum(a, b)
    overlap = np.maximum(blend - np.abs(a - b), 0.0) / blend
    result: Array = np.minimum(a, b) - overlap * overlap * (blend / 4)
    return result


def smooth_max(a: Array, b: Array, blend: float) -> Array:
    """Intersection of two distances with a rounded edge of about ``blend`` mm."""
    return -smooth_min(-a, -b, blend)


def coverage(distance: Array, voxel_mm: float) -> Array:
    """Share of a voxel inside a surface, from the signed distance at the voxel's centre.

    >>> coverage(np.array([-2, 0, 2], dtype=np.float32), 1.0).tolist()
    [1.0, 0.5, 0.0]
    """
    result: Array = np.clip(0.5 - distance / voxel_mm, 0.0, 1.0)
    return result
