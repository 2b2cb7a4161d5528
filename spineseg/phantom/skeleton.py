"""Bones in voxels: each is evaluated on its own box, kept apart from its neighbours and laid over what is there."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

from spineseg.phantom.anatomy import discs, vertebrae
from spineseg.phantom.bones import Bone
from spineseg.phantom.chest import ribs
from spineseg.phantom.curves import middle_frame
from spineseg.phantom.outline import Trunk
from spineseg.phantom.shapes import (
    FAR,
    WORLD,
    Array,
    Body,
    Box,
    Ellipsoid,
    Frame,
    Shape,
    VoxelGrid,
    coverage,
    smooth_min,
)
from spineseg.phantom.subject import Subject
from spineseg.phantom.textures import Texture
from spineseg.phantom.trunk import canal_path, other_bones
from spineseg.vertebrae import SACRUM, T13, level_id

Evaluated = tuple[Box, Array, NDArray[np.uint8]]  # see evaluate_bone

# How far bone right under the cortex of a body or an arch has come from trabecular to compact.
_DENSE_BODY, _DENSE_ARCH = 0.19, 0.38
_VACUUM_HU = -800.0  # gas in a worn disc
JOINT_MM = 1.2  # cartilage between neighbouring bones: they never touch
SLAB_VOXELS = 1 << 18  # worked on at a time


def evaluate_bone(bone: Bone, grid: VoxelGrid) -> Evaluated | None:
    """Signed distance (mm) and the place of the nearest part in ``parts``, on the bone's box; None when out of view."""
    margin = 2 * JOINT_MM + grid.voxel_mm
    placed = []
    for number, part in enumerate(bone.parts):
        low, high = bone.frame.world_bounds(*part.shape.bounds())
        box = grid.box(low, high, margin)
        if box is not None:
            placed.append((number, part, box))
    if not placed:
        return None
    spans = [
        slice(min(b.slices[i].start for *_, b in placed), max(b.slices[i].stop for *_, b in placed)) for i in range(3)
    ]
    whole = grid.block(spans[0], spans[1], spans[2])
    distance = np.full(whole.shape, FAR, dtype=np.float32)
    nearest = np.zeros(whole.shape, dtype=np.uint8)
    for number, part, box in placed:
        for piece in pieces(box, grid):
            own = part.shape.distance(*bone.frame.local(piece))
            where = piece.within(whole)
            before = distance[where]
            np.copyto(nearest[where], np.uint8(number), where=own < before)
            distance[where] = smooth_min(before, own, part.blend_mm)
    for hole in bone.holes:
        inner = grid.box(*bone.frame.world_bounds(*hole.bounds()))
        inner = shared(inner, whole, grid) if inner is not None else None
        if inner is None:
            continue
        where = inner.within(whole)
        np.maximum(distance[where], -hole.distance(*bone.frame.local(inner)), out=distance[where])
    return whole, distance, nearest


@dataclass(frozen=True, eq=False)
class PlacedVertebra:
    """A vertebra on its box of voxels, kept apart from those above it; ``joined`` if fused with the one above."""

    bone: Bone
    evaluated: Evaluated
    joined: bool


def placed_vertebrae(subject: Subject, frames: Mapping[int, Frame], grid: VoxelGrid) -> Iterator[PlacedVertebra]:
    """Vertebrae in view, cranial to caudal, no two of which share a point."""
    earlier: list[PlacedVertebra] = []
    for above, bone in zip((None, *subject.levels), vertebrae(subject, frames), strict=False):
        evaluated = evaluate_bone(bone, grid)
        if evaluated is None:
            continue
        joined = above in subject.fused
        for other in earlier:
            # A vertebra shares a surface with the one that it is fused with; others have a joint's gap between them.
            gap_mm = 0.0 if joined and other.bone.level == above else JOINT_MM
            _keep_apart(*evaluated[:2], *other.evaluated[:2], grid, gap_mm)
        _drop_crumbs(*evaluated[:2], grid)
        placed = PlacedVertebra(bone, evaluated, joined)
        # Processes reach the next level but one at most.
        earlier = [*earlier[-1:], placed]
        yield placed


def pieces(box: Box, grid: VoxelGrid) -> Iterator[Box]:
    """Cut a box along x, so that what a formula needs in between stays small."""
    across, rows, columns = box.slices
    step = max(1, SLAB_VOXELS // (box.shape[1] * box.shape[2]))
    for start in range(across.start, across.stop, step):
        yield grid.block(slice(start, min(across.stop, start + step)), rows, columns)


def shared(box: Box, other: Box, grid: VoxelGrid) -> Box | None:
    """Voxels in both boxes; None when they are apart."""
    a, b, c = (slice(max(m.start, o.start), min(m.stop, o.stop)) for m, o in zip(box.slices, other.slices, strict=True))
    return grid.block(a, b, c) if all(s.start < s.stop for s in (a, b, c)) else None


def lay(canvas: Array, grid: VoxelGrid, shape: Shape, hu: float, frame: Frame = WORLD) -> None:
    """Lay one shape of one HU over the canvas, with partial volume."""
    box = grid.box(*frame.world_bounds(*shape.bounds()), margin=grid.voxel_mm)
    if box is None:
        return
    for piece in pieces(box, grid):
        share = coverage(shape.distance(*frame.local(piece)), grid.voxel_mm)
        under = canvas[piece.slices]
        under += share * (np.float32(hu) - under)


@dataclass(frozen=True)
class BonePainter:
    """Paints one person's bones, discs and canal over the canvas of true HU (float32, X, Y, Z)."""

    subject: Subject
    grid: VoxelGrid
    trabeculae: Texture  # a few mm, longer along z
    patches: Texture  # of the cortex, about a centimetre

    def bone(self, canvas: Array, bone: Bone, evaluated: Evaluated, *, joint: bool) -> None:
        """Lay a bone over the canvas: cartilage round it, cortex, then trabecular bone that is denser near the cortex.

        The profile, HU against depth, is that of masks on real scans: 1 mm inside the thin shell of a body bone is
        half as dense again as in its middle, and an arch stays dense through its whole thickness.
        """
        box, distance, nearest = evaluated
        voxel = self.grid.voxel_mm
        under = canvas[box.slices]
        if joint:
            under += 0.7 * coverage(distance - JOINT_MM / 2, voxel) * (np.float32(75.0) - under)
        uneven = np.clip(self.patches.on(box), -2.0, 2.0)
        cortex = np.array([part.cortex_mm for part in bone.parts], np.float32)[nearest]
        # 0: the shell of a body, 1: an arch.
        stout = np.array([part.compact for part in bone.parts], np.float32)[nearest]
        shell = cortex * np.exp((0.45 + 0.5 * stout) * uneven)
        core = coverage(distance + shell, voxel)
        # Of a voxel that the core fills in part, the filled part lies half as deep as it is thick.
        depth = np.maximum(-distance - shell, np.float32(0.5 * voxel) * core)
        compact = np.float32(self.subject.cortical_hu)
        trabecular = np.float32(self.subject.trabecular_hu * bone.density)
        share = (_DENSE_BODY + (_DENSE_ARCH - _DENSE_BODY) * stout) * (1.0 + 0.45 * uneven)
        # Dense trabecular bone leaves less to add.
        dense = 0.9 * compact * max(0.0, 1.0 - float(trabecular / (0.9 * compact))) ** 2 * share
        rough = np.float32(24.0 + 0.1 * abs(trabecular))
        inside = trabecular + rough * self.trabeculae.on(box) + dense * np.exp(-depth / (2.0 + 0.5 * stout))
        # Compact bone of arches is denser than the porous shell of a body.
        filled = coverage(distance, voxel)
        under *= 1.0 - filled
        under += (filled - core) * (compact * (0.92 + 0.18 * stout)) + core * inside

    def vein(self, canvas: Array, bone: Bone) -> None:
        """Lay the basivertebral vein, which enters a body at the middle of its back."""
        for body in (part.shape for part in bone.parts if isinstance(part.shape, Body)):
            height = min(body.height_anterior, body.height_posterior)
            back = -body.depth / 2
            for center, radii in (
                (back + 2.5, (0.11 * body.width, 3.5, 0.09 * height)),
                (back + 0.27 * body.depth, (0.03 * body.width, 0.2 * body.depth, 0.045 * height)),
            ):
                lay(canvas, self.grid, Ellipsoid((0.0, center, 0.0), radii), 45.0, bone.frame)

    def skeleton(self, canvas: Array, frames: Mapping[int, Frame], trunk: Trunk) -> NDArray[np.uint8]:
        """Lay unlabelled bones, discs, canal and vertebrae; returns canonical ids of the vertebrae."""
        person, grid = self.subject, self.grid
        for bone in (*ribs(person, frames, trunk), *other_bones(person, frames, trunk)):
            evaluated = evaluate_bone(bone, grid)
            if evaluated is not None:
                self.bone(canvas, bone, evaluated, joint=False)
        for disc in discs(person, frames):
            lay(canvas, grid, disc.shape, person.disc_hu + 6.0, disc.frame)
            kernel = Ellipsoid((0.0, -1.0, 0.0), (0.3 * disc.shape.width, 0.3 * disc.shape.depth, 8.0))
            lay(canvas, grid, kernel, person.disc_hu - 8.0, disc.frame)
        for frame, slit in _vacua(person, frames):
            lay(canvas, grid, slit, _VACUUM_HU, frame)
        self.canal(canvas, frames)
        labels = np.zeros(grid.shape, dtype=np.uint8)
        for placed in placed_vertebrae(person, frames, grid):
            sacral = placed.bone.level == SACRUM
            self.bone(canvas, placed.bone, placed.evaluated, joint=not (sacral or placed.joined))
            if not sacral:
                self.vein(canvas, placed.bone)
            box, distance, _ = placed.evaluated
            labels[box.slices][distance < 0] = placed.bone.level or 0
        return labels

    def canal(self, canvas: Array, frames: Mapping[int, Frame]) -> None:
        """Lay the canal: fat, in it the sac of fluid with nerve roots, in it the cord down to L1."""
        person = self.subject
        cord = sum(level < level_id("L1") or level == T13 for level in person.levels)
        for share, hu, limbs in ((1.0, person.fat_hu * 0.5, None), (0.86, 22.0, None), (0.5, 38.0, cord)):
            for limb in itertools.islice(canal_path(person, frames, share), limbs):
                lay(canvas, self.grid, limb, hu)


def _vacua(subject: Subject, frames: Mapping[int, Frame]) -> Iterator[tuple[Frame, Ellipsoid]]:
    """Slits of gas in the middle of worn discs."""
    for above, below in itertools.pairwise(subject.levels):
        if above in subject.vacuum:
            upper, lower = subject.sizes[above], subject.sizes[below]
            middle = middle_frame(frames[above], frames[below], upper.height, lower.height)
            yield middle, Ellipsoid((0.0, 1.0, 0.0), (0.24 * upper.width, 0.22 * upper.depth, 0.16 * upper.disc + 0.3))


def _keep_apart(box: Box, distance: Array, other: Box, theirs: Array, grid: VoxelGrid, gap_mm: float) -> None:
    """Carve an earlier bone and a gap round it out of a later one."""
    common = shared(box, other, grid)
    if common is None:
        return
    mine = common.within(box)
    np.maximum(distance[mine], gap_mm - theirs[common.within(other)], out=distance[mine])


def _drop_crumbs(box: Box, distance: Array, grid: VoxelGrid) -> None:
    """Keep the largest piece of a bone, for carving may cut a corner off, and those that the scan's border cut off."""
    found, count = cc3d.connected_components((distance < 0).astype(np.uint8), connectivity=6, return_N=True)
    if count < 2:
        return
    sizes = np.bincount(found.ravel())
    sizes[0] = 0
    kept = {0, int(sizes.argmax())}
    for axis, (span, length) in enumerate(zip(box.slices, grid.shape, strict=True)):
        faces = np.moveaxis(found, axis, 0)
        for face, at_border in ((faces[0], span.start == 0), (faces[-1], span.stop == length)):
            kept.update(np.unique(face).tolist() if at_border else ())
    crumb = np.array([number not in kept for number in range(count + 1)])
    np.copyto(distance, np.float32(FAR), where=crumb[found])
