"""From shapes to voxels: each shape is evaluated on its own box of voxels and laid over what is there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from spineseg.phantom.anatomy import Bone, discs, vertebrae
from spineseg.phantom.shapes import FAR, WORLD, Array, Box, Frame, Shape, VoxelGrid, coverage, smooth_min
from spineseg.phantom.subject import Subject
from spineseg.phantom.trunk import Trunk, canal_path, organs, other_bones, ribs
from spineseg.vertebrae import SACRUM

JOINT_MM = 1.2  # cartilage between neighbouring bones: they never touch
_TILE = 96
_SLAB_VOXELS = 1 << 18  # worked on at a time


@dataclass(frozen=True)
class Texture:
    """A repeating block of smooth noise, mean 0 and sd 1, looked up by place, so that it costs no whole volume."""

    tile: Array
    step_mm: float

    @classmethod
    def draw(cls, rng: np.random.Generator, sigma: float, step_mm: float) -> "Texture":
        """Draw a block of ``96³`` cells of ``step_mm``, smoothed by ``sigma`` cells."""
        tile = gaussian_filter(rng.standard_normal((_TILE,) * 3, dtype=np.float32), sigma, mode="wrap", truncate=3.0)
        return cls(tile / tile.std(), step_mm)

    def on(self, box: Box) -> Array:
        """The noise on a box of voxels."""
        x, y, z = ((np.rint(c.ravel() / self.step_mm).astype(np.int64)) % _TILE for c in (box.x, box.y, box.z))
        found: Array = self.tile[x[:, None, None], y[None, :, None], z[None, None, :]]
        return found


def evaluate_bone(bone: Bone, grid: VoxelGrid) -> tuple[Box, Array, Array] | None:
    """Signed distance (mm) and thickness of the cortex (mm) on the bone's box; None when it is out of view."""
    margin = 2 * JOINT_MM + grid.voxel_mm
    placed = []
    for part in bone.parts:
        low, high = bone.frame.world_bounds(*part.shape.bounds())
        box = grid.box(low, high, margin)
        if box is not None:
            placed.append((part, box))
    if not placed:
        return None
    spans = [
        slice(min(b.slices[i].start for _, b in placed), max(b.slices[i].stop for _, b in placed)) for i in range(3)
    ]
    whole = grid.block(spans[0], spans[1], spans[2])
    distance = np.full(whole.shape, FAR, dtype=np.float32)
    cortex = np.full(whole.shape, 1.0, dtype=np.float32)
    for part, box in placed:
        for piece in _pieces(box, grid):
            own = part.shape.distance(*bone.frame.local(piece))
            where = piece.within(whole)
            before = distance[where]
            np.copyto(cortex[where], np.float32(part.cortex_mm), where=own < before)
            distance[where] = smooth_min(before, own, part.blend_mm)
    for hole in bone.holes:
        inner = grid.box(*bone.frame.world_bounds(*hole.bounds()))
        inner = _shared(inner, whole, grid) if inner is not None else None
        if inner is None:
            continue
        where = inner.within(whole)
        np.maximum(distance[where], -hole.distance(*bone.frame.local(inner)), out=distance[where])
    return whole, distance, cortex


def _pieces(box: Box, grid: VoxelGrid) -> Iterator[Box]:
    """Cut a box along x, so that what a formula needs in between stays small."""
    across, rows, columns = box.slices
    step = max(1, _SLAB_VOXELS // (box.shape[1] * box.shape[2]))
    for start in range(across.start, across.stop, step):
        yield grid.block(slice(start, min(across.stop, start + step)), rows, columns)


def _shared(box: Box, other: Box, grid: VoxelGrid) -> Box | None:
    """Voxels in both boxes; None when they are apart."""
    a, b, c = (slice(max(m.start, o.start), min(m.stop, o.stop)) for m, o in zip(box.slices, other.slices, strict=True))
    return grid.block(a, b, c) if all(s.start < s.stop for s in (a, b, c)) else None


def lay(canvas: Array, grid: VoxelGrid, shape: Shape, hu: float, frame: Frame = WORLD) -> None:
    """Lay one shape of one HU over the canvas, with partial volume."""
    box = grid.box(*frame.world_bounds(*shape.bounds()), margin=grid.voxel_mm)
    if box is None:
        return
    for piece in _pieces(box, grid):
        share = coverage(shape.distance(*frame.local(piece)), grid.voxel_mm)
        under = canvas[piece.slices]
        under += share * (np.float32(hu) - under)


@dataclass(frozen=True)
class Painter:
    """Paints one person into a canvas of true HU (float32, X, Y, Z)."""

    subject: Subject
    grid: VoxelGrid
    fine: Texture  # trabeculae, fat streaks, lung vessels: a few mm
    coarse: Texture  # bowel and fat: centimetres

    def soft_tissue(self, trunk: Trunk) -> Array:
        """Air, table, skin, fat, muscle, chest and belly: a slab at a time, which bounds memory."""
        canvas = np.empty(self.grid.shape, dtype=np.float32)
        table = float(trunk.at(trunk.back, self.grid.axis(2)).min()) - 3.0
        nx, ny, nz = self.grid.shape
        step = max(1, _SLAB_VOXELS // (ny * nz))
        belly = int(np.searchsorted(self.grid.axis(2), trunk.dome_z - 160.0))
        for start in range(0, nx, step):
            for low, high in ((0, belly), (belly, nz)):
                if low < high:
                    box = self.grid.block(slice(start, min(nx, start + step)), slice(0, ny), slice(low, high))
                    canvas[box.slices] = self._slab(trunk, box, table)
        return canvas

    def _slab(self, trunk: Trunk, box: Box, table: float) -> Array:
        person, voxel = self.subject, self.grid.voxel_mm
        spine_x, spine_y, half_width, half_depth, back, gutter, radius, fat = (
            trunk.at(v, box.z)
            for v in (
                trunk.spine_x,
                trunk.spine_y,
                trunk.half_width,
                trunk.half_depth,
                trunk.back,
                trunk.gutter,
                trunk.body_radius,
                trunk.fat,
            )
        )
        x = box.x - spine_x
        # A squircle: fuller than an ellipse; the limit keeps its formula from coming back to 1 far outside.
        u = np.minimum((x / half_width) ** 2, 2.4)
        v = np.minimum(((box.y - back - half_depth) / half_depth) ** 2, 2.4)
        skin = (np.sqrt(u + v - 0.35 * u * v) - 1.0) * half_depth
        fine, coarse = self.fine.on(box), self.coarse.on(box)
        canvas = np.full(box.shape, -1000.0, dtype=np.float32)

        def over(distance: Array, hu: Array | float) -> None:
            share = coverage(distance, voxel)
            np.add(canvas, share * (hu - canvas), out=canvas)

        surface = table + 0.0007 * box.x * box.x - box.y
        for depth, thickness, hu in ((0.0, 1.5, -60.0), (26.0, 1.5, -60.0)):
            over(np.abs(surface - depth) - thickness + np.float32(0) * box.z, hu)
        over(np.abs(surface - 13.0) - 11.5 + np.float32(0) * box.z, -930.0)
        over(skin, 30.0)
        over(skin + 2.0, person.fat_hu + 6.0 * fine)
        # Streaks of fat run through the muscles, and sheets of it (where a smooth noise is 0) part them.
        streak = np.maximum(np.clip(fine - 1.2, 0.0, 1.0), np.clip(1.0 - np.abs(coarse) * 9.0, 0.0, 0.75))
        over(skin + (2.0 + fat), person.muscle_hu + 6.0 * fine + streak * (person.fat_hu - person.muscle_hu))
        beside = np.clip((np.abs(x) - 14.0) / 32.0, 0.0, 1.0)
        behind = spine_y + 6.0 - gutter * beside * (2.0 - beside) - box.y
        apex = box.z - trunk.apex_z + 0.004 * (np.abs(x) - 45.0) ** 2
        cavity = np.maximum(np.maximum(skin + (14.0 + fat), behind), apex)
        bowel = np.where(coarse > 0.35, np.float32(38.0), np.float32(person.fat_hu + 15.0)) + 5.0 * fine
        gas = np.where((coarse > 1.55) & (box.y > spine_y + 45.0), np.float32(-850.0), bowel)
        over(cavity, gas)
        side = np.where(x > 0, np.float32(68.0), np.float32(-68.0))
        reach = ((x - side) / 75.0) ** 2 + ((box.y - spine_y - 45.0) / 85.0) ** 2
        dome = trunk.dome_z + np.where(x > 0, 14.0, 0.0).astype(np.float32) - 55.0 * reach - box.z
        if float(box.z.max()) > trunk.dome_z - 160.0:
            # Mediastinum above the diaphragm, then the lungs beside it and beside the bodies.
            over(np.maximum(cavity, dome), person.muscle_hu * 0.4 + 8.0 * fine)
            lean = np.sqrt(x * x + (box.y - spine_y) ** 2) - (radius + 5.0)
            heart = np.sqrt(((x + 14.0) / 46.0) ** 2 + ((box.y - spine_y - 72.0) / 50.0) ** 2) - 1.0
            between = np.minimum(lean, np.minimum(heart * 46.0, np.abs(x) - 7.0))
            vessels = np.clip((fine - 2.0) * 3.0, 0.0, 1.0)
            lung = person.lung_hu + 25.0 * fine + vessels * (person.vessel_hu - person.lung_hu)
            over(np.maximum(np.maximum(cavity + 2.0, dome), -between), lung)
            blood = person.vessel_hu * 0.9 + 4.0 * fine
            over(np.maximum(np.maximum(heart * 46.0 + 3.0, dome), box.z - (trunk.dome_z + 110.0)), blood)
        return canvas

    def bone(self, canvas: Array, evaluated: tuple[Box, Array, Array], density: float, *, joint: bool) -> None:
        """Lay a bone over the canvas: cartilage round it, cortex, then trabecular bone."""
        box, distance, cortex = evaluated
        voxel = self.grid.voxel_mm
        under = canvas[box.slices]
        if joint:
            under += 0.7 * coverage(distance - JOINT_MM / 2, voxel) * (np.float32(75.0) - under)
        filled = coverage(distance, voxel)
        # The cortex is porous and of uneven thickness.
        texture = self.fine.on(box)
        core = coverage(distance + cortex * (1.0 + 0.3 * np.clip(texture, -2, 2)), voxel)
        trabecular = self.subject.trabecular_hu * density
        inside = trabecular + (25.0 + 0.15 * abs(trabecular)) * texture
        under += filled * (np.float32(self.subject.cortical_hu) - under)
        under += core * (inside - under)

    def skeleton(self, canvas: Array, frames: Mapping[int, Frame], trunk: Trunk) -> NDArray[np.uint8]:
        """Lay organs, unlabelled bones, discs, canal and vertebrae; returns canonical ids of the vertebrae."""
        person, grid = self.subject, self.grid
        for shape, hu in organs(person, frames):
            lay(canvas, grid, shape, hu)
        for bone in (*ribs(person, frames, trunk), *other_bones(person, frames, trunk)):
            evaluated = evaluate_bone(bone, grid)
            if evaluated is not None:
                self.bone(canvas, evaluated, bone.density, joint=False)
        for disc in discs(person, frames):
            lay(canvas, grid, disc.shape, person.disc_hu, disc.frame)
        for share, hu in ((1.0, person.fat_hu * 0.5), (0.86, 24.0)):
            for limb in canal_path(person, frames, share):
                lay(canvas, grid, limb, hu)
        labels = np.zeros(grid.shape, dtype=np.uint8)
        earlier: list[tuple[Box, Array]] = []
        for bone in vertebrae(person, frames):
            evaluated = evaluate_bone(bone, grid)
            if evaluated is None:
                continue
            box, distance, _ = evaluated
            for other, theirs in earlier:
                _keep_apart(box, distance, other, theirs, grid)
            _drop_crumbs(distance)
            # Processes reach the next level but one at most.
            earlier = [*earlier[-1:], (box, distance)]
            self.bone(canvas, evaluated, bone.density, joint=bone.level != SACRUM)
            labels[box.slices][distance < 0] = bone.level or 0
        return labels


def _keep_apart(box: Box, distance: Array, other: Box, theirs: Array, grid: VoxelGrid) -> None:
    """Carve the joint's gap round an earlier bone out of a later one."""
    shared = _shared(box, other, grid)
    if shared is None:
        return
    mine = shared.within(box)
    np.maximum(distance[mine], JOINT_MM - theirs[shared.within(other)], out=distance[mine])


def _drop_crumbs(distance: Array) -> None:
    """Keep the largest piece of a bone: carving may cut a corner off."""
    pieces, count = cc3d.connected_components((distance < 0).astype(np.uint8), connectivity=6, return_N=True)
    if count > 1:
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        np.copyto(distance, np.float32(FAR), where=(pieces != 0) & (pieces != int(sizes.argmax())))
