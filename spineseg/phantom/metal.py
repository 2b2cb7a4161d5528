"""Metal: implants laid over the true HU, and the streaks that a scanner makes of them. Labels know nothing of it."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spineseg.phantom.difficulty import DIFFICULTIES
from spineseg.phantom.shapes import WORLD, Array, Ellipsoid, Frame, Limb, Shape, VoxelGrid, coverage
from spineseg.phantom.skeleton import lay
from spineseg.phantom.subject import Subject
from spineseg.vertebrae import SACRUM, level_id

METAL_HU: Final = 8000.0  # titanium; a scan is clipped far below
_ANGLES: Final = 72
_BIN_MM: Final = 1.2
_COARSE: Final = 112  # cells a side of the grid that streaks are computed on


@dataclass(frozen=True)
class Implant:
    """One piece of metal in its frame."""

    shape: Shape
    frame: Frame


def draw_implants(
    rng: np.random.Generator, difficulty: str, subject: Subject, frames: Mapping[int, Frame]
) -> tuple[str, tuple[Implant, ...]]:
    """Draw what metal a person bears: ``none``, pedicle ``screws`` with rods, a ``hip`` joint or ``dental`` crowns.

    The number of draws does not depend on the values drawn.
    """
    chance, kind, place, count, side = (float(v) for v in rng.uniform(size=5))
    if chance >= DIFFICULTIES[difficulty].metal_share:
        return "none", ()
    if kind < 0.7:
        lowest = subject.levels.index(SACRUM)
        last = lowest - int(place * 6)
        return "screws", _screws(subject, frames, subject.levels[last - 1 - int(count * 3) : last + 1])
    if kind < 0.85:
        return "hip", _hip(subject, frames[SACRUM], -1.0 if side < 0.5 else 1.0)
    return "dental", _crowns(subject, frames[level_id("C2")])


def _screws(subject: Subject, frames: Mapping[int, Frame], levels: tuple[int, ...]) -> tuple[Implant, ...]:
    pieces = []
    for side in (-1.0, 1.0):
        heads = []
        for level in levels:
            size, frame = subject.sizes[level], frames[level]
            lift = 0.5 * size.height - 0.5 * size.pedicle_height - 1.0
            across = size.pedicle_x
            back = -size.depth / 2 - 0.95 * size.canal_depth - 6.0
            head, tip = (side * (across + 4.0), back, lift - 1.0), (side * 0.3 * across, 0.22 * size.depth, 0.6 * lift)
            radius = min(3.2, 0.42 * size.pedicle_width)
            pieces += [
                Implant(Limb(head, tip, (radius, radius), (0.7 * radius,) * 2), frame),
                Implant(Ellipsoid(head, (6.0, 6.0, 6.0)), frame),
            ]
            heads.append(frame.world((head[0], head[1] - 3.0, head[2])))
        pieces += [
            Implant(Limb(a, b, (2.75, 2.75), None, (0.0, 1.0, 0.0)), WORLD) for a, b in itertools.pairwise(heads)
        ]
    return tuple(pieces)


def _hip(subject: Subject, sacrum: Frame, side: float) -> tuple[Implant, ...]:
    s = subject.size
    ball = (sacrum.origin[0] + side * 90.0 * s, sacrum.origin[1] + 26.0 * s, sacrum.origin[2] - 92.0 * s)
    stem = (ball[0] + side * 42.0 * s, ball[1] - 10.0, ball[2] - 60.0 * s)
    shapes: tuple[Shape, ...] = (
        Ellipsoid(ball, (24.0, 24.0, 24.0)),
        Limb(ball, stem, (7.0, 7.0), (6.0, 6.0), (0.0, 1.0, 0.0)),
    )
    return tuple(Implant(shape, WORLD) for shape in shapes)


def _crowns(subject: Subject, axis: Frame) -> tuple[Implant, ...]:
    s = subject.size
    angles = (-1.2, -0.9, 0.6, 0.95, 1.25)
    places = [(30.0 * s * np.sin(a), (38.0 + 38.0 * np.cos(a)) * s, 2.0) for a in angles]
    return tuple(Implant(Ellipsoid((float(x), float(y), z), (4.0, 4.0, 3.5)), axis) for x, y, z in places)


def lay_metal(canvas: Array, grid: VoxelGrid, implants: tuple[Implant, ...]) -> NDArray[np.intp]:
    """Lay implants over the canvas; returns the voxels that are metal, (N, 3)."""
    found = [np.empty((0, 3), dtype=np.intp)]
    for piece in implants:
        box = grid.box(*piece.frame.world_bounds(*piece.shape.bounds()), margin=grid.voxel_mm)
        if box is None:
            continue
        lay(canvas, grid, piece.shape, METAL_HU, piece.frame)
        share = coverage(piece.shape.distance(*piece.frame.local(box)), grid.voxel_mm)
        inside = np.argwhere(share > 0.5)
        found.append(inside + np.array([span.start for span in box.slices], dtype=np.intp))
    return np.unique(np.concatenate(found), axis=0)


def streaks(rng: np.random.Generator, points: NDArray[np.intp], grid: VoxelGrid) -> Array:
    """Streaks of one slice: back projection of what beam hardening and starved rays leave of titanium, HU, (X, Y).

    Line integrals p of the metal alone are made from its voxels; a scanner that takes p for linear is wrong by about
    -p², and by noise that grows with exp(p); filtered back projection turns both into streaks (Barrett & Keat 2004).

    Args:
        rng: of the starved rays' noise.
        points: (N, 2) metal voxels of the slice.
        grid: the scan's grid.
    """
    nx, ny, _ = grid.shape
    pixel = grid.spacing[0]
    angles = np.linspace(0.0, np.pi, _ANGLES, endpoint=False, dtype=np.float32)
    middle = (np.array([nx, ny]) - 1) / 2
    place = ((points - middle) * pixel).astype(np.float32)
    reach = float(np.hypot(nx, ny)) * pixel / 2 + 4 * _BIN_MM
    bins = int(np.ceil(2 * reach / _BIN_MM)) + 1
    sinogram = np.zeros((_ANGLES, bins), dtype=np.float64)
    for row, angle in zip(sinogram, angles, strict=True):
        along = np.rint((place[:, 0] * np.cos(angle) + place[:, 1] * np.sin(angle) + reach) / _BIN_MM).astype(np.intp)
        row += np.bincount(along, minlength=bins) * (pixel * pixel / _BIN_MM)
    path = np.convolve(sinogram.ravel(), [0.25, 0.5, 0.25], mode="same").reshape(sinogram.shape)
    # Rays bend from the line by about p² and saturate; starved rays are noise.
    path = np.minimum(path, 40.0)
    wrong = -0.007 * path**2 / (1.0 + 0.05 * path) + 0.03 * (np.exp(path / 14.0) - 1.0) * rng.standard_normal(
        path.shape
    )
    padded = 1 << (2 * bins - 1).bit_length()
    spectrum = np.fft.rfft(wrong, padded, axis=1) * np.fft.rfftfreq(padded)
    filtered = np.fft.irfft(spectrum, axis=1)[:, :bins].astype(np.float32)
    xs, ys = (np.linspace(-(n - 1) / 2, (n - 1) / 2, min(n, _COARSE), dtype=np.float32) * pixel for n in (nx, ny))
    total = np.zeros((xs.size, ys.size), dtype=np.float32)
    for row, angle in zip(filtered, angles, strict=True):
        at = (xs[:, None] * np.cos(angle) + ys[None, :] * np.sin(angle) + np.float32(reach)) / np.float32(_BIN_MM)
        low = at.astype(np.intp)
        total += row[low] + (at - low) * (row[low + 1] - row[low])
    return _enlarge(total * np.float32(1000.0 * np.pi / _ANGLES / _BIN_MM * 10.0), nx, ny)


def _enlarge(values: Array, nx: int, ny: int) -> Array:
    """Bilinear interpolation of a coarse grid that spans the same corners."""
    for axis, n in ((0, nx), (1, ny)):
        at = np.linspace(0, values.shape[axis] - 1, n, dtype=np.float32)
        low = np.minimum(at.astype(np.intp), max(0, values.shape[axis] - 2))
        share = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
        values = (
            np.take(values, low, axis) * (1 - share)
            + np.take(values, np.minimum(low + 1, values.shape[axis] - 1), axis) * share
        )
    return values.astype(np.float32, copy=False)
