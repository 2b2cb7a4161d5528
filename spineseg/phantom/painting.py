"""Soft tissue in voxels: the trunk a slab at a time, then its organs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spineseg.phantom.organ import Organ
from spineseg.phantom.outline import Trunk
from spineseg.phantom.shapes import WORLD, Array, Box, Frame, VoxelGrid, coverage
from spineseg.phantom.skeleton import SLAB_VOXELS, pieces
from spineseg.phantom.subject import Subject
from spineseg.phantom.textures import Texture
from spineseg.phantom.trunk import organs

# Pixels finer than this are painted at twice their size and interpolated: the point spread is wider still.
_FINEST_MM = 0.6

_AIR_HU = -980.0  # round the body

# How much of each voxel, of 255, lies in the belly and in the chest.
Room = dict[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Painter:
    """Paints one person's soft tissue: true HU (float32, X, Y, Z) on a grid."""

    subject: Subject
    grid: VoxelGrid
    fine: Texture  # grain of organs, fat and muscle fibres: a few mm
    coarse: Texture  # sheets of fat: centimetres

    def soft_tissue(self, trunk: Trunk, frames: Mapping[int, Frame]) -> Array:
        """Air, table, skin, fat, muscle, chest and belly with their organs."""
        if self.grid.spacing[0] < _FINEST_MM:
            return _finer(replace(self, grid=_halved(self.grid)).soft_tissue(trunk, frames), self.grid.shape)
        canvas = np.empty(self.grid.shape, dtype=np.float32)
        room = {name: np.zeros(self.grid.shape, dtype=np.uint8) for name in ("belly", "chest")}
        nx, ny, nz = self.grid.shape
        step = max(1, SLAB_VOXELS // (ny * nz))
        heights = self.grid.axis(2)
        table = self._lowest(trunk, heights) - 3.0
        # The lungs' formulas only where there are lungs.
        low, high = (int(np.searchsorted(heights, z)) for z in (trunk.dome_z - 150.0, trunk.apex_z + 10.0))
        for start in range(0, nx, step):
            for first, last, chest in ((0, low, False), (low, high, True), (high, nz, False)):
                if first < last:
                    box = self.grid.block(slice(start, min(nx, start + step)), slice(0, ny), slice(first, last))
                    canvas[box.slices] = self._slab(trunk, box, table, room, chest=chest)
        for organ in organs(self.subject, frames, trunk):
            self._organ(canvas, trunk, room, organ)
        return canvas

    def _lowest(self, trunk: Trunk, heights: Array) -> float:
        """The scanner's y of the lowest point of the skin in view."""
        turn = WORLD.turned(self.grid.turn_deg)
        points = (trunk.skin.point(float(z), a, 0.0) for z in heights[::16] for a in np.linspace(-1.0, 1.0, 9))
        return min(turn.world(point)[1] for point in points)

    def _slab(self, trunk: Trunk, box: Box, table: float, room: Room, *, chest: bool) -> Array:
        person, habitus = self.subject, trunk.habitus
        skin = trunk.skin.distance(box, trunk.groove)
        fine, coarse = self.fine.on(box), self.coarse.on(box)
        canvas = np.full(box.shape, _AIR_HU, dtype=np.float32)

        def over(distance: Array, hu: Array | float) -> None:
            share = coverage(distance, self.grid.voxel_mm)
            np.add(canvas, share * (hu - canvas), out=canvas)

        if habitus.table:
            # It stands still when the person on it turns.
            across, rows, _ = box.slices
            x, y = (self.grid.axis(i, span.start, span.stop) for i, span in ((0, across), (1, rows)))
            surface = (table + 0.0007 * x[:, None] ** 2 - y[None, :])[:, :, None]
            stiff, stout = (float(u) for u in habitus.spots[7, :2])
            for depth in (0.0, 26.0):
                hu, thickness = -250.0 + 400.0 * stiff, 0.7 + 1.2 * stout
                over(np.abs(surface - depth) - thickness + np.float32(0) * box.z, hu)
            over(np.abs(surface - 13.0) - 11.5 + np.float32(0) * box.z, -930.0)
        if habitus.blanket_mm:
            # Cloth lies on the front, in folds.
            over(
                np.abs(skin - 5.0 - 2.0 * coarse)
                - habitus.blanket_mm / 2
                + (box.y < trunk.at(trunk.spine_y, box.z)) * 50.0,
                -750.0,
            )
        over(skin, 30.0)
        fat = trunk.at(trunk.fat, box.z)
        front = box.y - trunk.at(trunk.spine_y, box.z)
        # Fat is thicker over the loins, and grained.
        thick = fat * (1.0 + trunk.at(trunk.loin_fat, box.z) * np.clip(-front / 60.0 - 0.4, 0.0, 0.5))
        over(skin + 1.8, person.fat_hu + 6.0 * fine + 25.0 * np.clip(1.0 - np.abs(coarse + 0.5) * 14.0, 0.0, 1.0))
        depth = -(skin + 1.8 + thick)
        over(-depth, self._muscle(trunk, box, depth, fine, coarse))
        cavity = self._cavity(trunk, box)
        # Fat of the belly with small vessels in it.
        over(cavity, person.fat_hu + 8.0 + 7.0 * fine + 70.0 * np.clip(fine - 1.1, 0.0, 1.3))
        room["belly"][box.slices] = 255 * coverage(cavity + 2.0, self.grid.voxel_mm)
        if chest:
            dome = self._dome(trunk, box)
            below = coverage(-dome, self.grid.voxel_mm)
            room["chest"][box.slices] = room["belly"][box.slices] * (1.0 - below)
            room["belly"][box.slices] = room["belly"][box.slices] * below
            x = box.x - trunk.at(trunk.spine_x, box.z)
            spine = np.sqrt(x * x + front * front) - (trunk.at(trunk.body_radius, box.z) + 4.0)
            # Heart and great vessels between the lungs, in fat; the lungs meet behind the sternum.
            # Behind the front of the bodies they come to the spine itself.
            strip = (
                np.abs(x + 9.0)
                - (23.0 - 18.0 * np.clip((front - 42.0) / 40.0, 0.0, 1.0))
                + np.clip(12.0 - front, 0.0, 40.0)
            )
            tall = (box.z - trunk.dome_z - 30.0) / 68.0
            heart = (np.sqrt(((x + 20.0) / 54.0) ** 2 + ((front - 74.0) / 52.0) ** 2 + tall * tall) - 1.0) * 50.0
            between = np.minimum(np.minimum(spine, strip), heart)
            # Darker in front than behind, where blood pools.
            lung = person.lung_hu + 0.35 * (40.0 - front) + 22.0 * fine
            lung += np.clip((fine - 2.1) * 2.0, 0.0, 0.7) * (person.vessel_hu * 0.8 - person.lung_hu)
            over(np.maximum(np.maximum(cavity + 2.0, dome), -between), lung)
        return canvas

    def _muscle(self, trunk: Trunk, box: Box, depth: Array, fine: Array, coarse: Array) -> Array:
        """HU of muscle ``depth`` mm under its surface: fibres along the trunk, sheets and streaks of fat."""
        person, habitus = self.subject, trunk.habitus
        long = Box(box.slices, box.x, box.y, box.z * np.float32(0.25))
        fibre = self.fine.on(long)
        planes = self.coarse.on(long)
        x = np.abs(box.x - trunk.at(trunk.spine_x, box.z)) + 2.5 * coarse
        # Between the layers of the back, between multifidus and longissimus, and behind the spinous processes.
        wide = 0.7 + 3.0 * habitus.muscle_fat
        across = np.abs(np.abs(x - 44.0 - 4.0 * planes) - 15.0)
        across = across + 40.0 * (box.y > trunk.at(trunk.spine_y, box.z) - 12.0)
        sheet = np.minimum(np.abs(np.abs(depth - 17.0 - 3.0 * coarse) - 8.5), across)
        # Here and there they are too thin to be seen.
        fat = np.clip(1.0 - sheet / wide, 0.0, 1.0) * np.clip(0.45 + 0.5 * coarse, 0.0, 0.8)
        most = 0.2 + 0.9 * habitus.muscle_fat
        np.maximum(fat, np.clip(1.0 - np.abs(planes) * (18.0 - 13.0 * habitus.muscle_fat), 0.0, most), out=fat)
        # Old muscle is marbled: more and thicker streaks, most of them beside the spine.
        np.maximum(fat, most * np.clip(fibre - 1.9 + 3.0 * habitus.muscle_fat, 0.0, 1.0), out=fat)
        lean = person.muscle_hu - 25.0 * habitus.muscle_fat + 5.0 * fine
        result: Array = lean + fat * (person.fat_hu + 10.0 - lean)
        return result

    def _cavity(self, trunk: Trunk, box: Box) -> Array:
        """Distance to chest and belly: inside the wall, before the spine and in the gutters beside it."""
        across = np.clip((np.abs(box.x - trunk.at(trunk.spine_x, box.z)) - 14.0) / 32.0, 0.0, 1.0)
        behind = trunk.at(trunk.spine_y, box.z) + 6.0 - (trunk.at(trunk.gutter, box.z) + 6.0) * across * (2.0 - across)
        apex = box.z - trunk.apex_z + 0.004 * (np.abs(box.x - trunk.at(trunk.spine_x, box.z)) - 38.0) ** 2
        result: Array = np.maximum(np.maximum(trunk.cavity.distance(box), behind - box.y), apex)
        return result

    def _dome(self, trunk: Trunk, box: Box) -> Array:
        """Distance to the space above the diaphragm: two domes, the right one higher; steep at the back."""
        x = box.x - trunk.at(trunk.cavity.x, box.z)
        side = np.float32(64.0) * np.sign(x)
        front = box.y - trunk.at(trunk.spine_y, box.z) - 50.0
        reach = ((x - side) / 72.0) ** 2 + (front / 82.0) ** 2
        top = np.float32(14.0) * (x > 0) + np.float32(trunk.dome_z)
        result: Array = 0.7 * (top - 55.0 * np.minimum(reach, 2.4) - box.z)
        return result

    def _organ(self, canvas: Array, trunk: Trunk, room: Room, organ: Organ) -> None:
        """Lay an organ over the canvas, wall, filling and gas, inside the cavity that holds it."""
        grid, voxel = self.grid, self.grid.voxel_mm
        box = grid.box(*organ.shape.bounds(), margin=voxel)
        for piece in pieces(box, grid) if box is not None else ():
            distance = organ.shape.distance(piece.x, piece.y, piece.z)
            if not (distance < voxel).any():
                continue
            if organ.within == "outside":
                np.maximum(distance, -1.0 - trunk.skin.distance(piece), out=distance)
            hu: Array = np.full(piece.shape, organ.hu, dtype=np.float32)
            if organ.texture:
                hu += organ.texture * self.fine.on(piece)
            if organ.marbled:
                hu = self._muscle(
                    trunk, piece, np.float32(20.0) - 0.0 * distance, self.fine.on(piece), self.coarse.on(piece)
                )
            if organ.gas_above is not None:
                # A fluid's surface is level in the room, not in the person, who may lie on one side.
                rows = grid.axis(1, piece.slices[1].start, piece.slices[1].stop)[None, :, None]
                level = WORLD.turned(grid.turn_deg).world(organ.gas_above)[1]
                hu += np.clip((rows - np.float32(level)) / voxel + 0.5, 0.0, 1.0) * (-960.0 - hu)
            under = canvas[piece.slices]
            allowed: Array | float = 1.0
            if organ.within in room:
                allowed = room[organ.within][piece.slices] * np.float32(1 / 255)
            if organ.wall_mm:
                under += allowed * coverage(distance, voxel) * (organ.wall_hu - under)
                distance += organ.wall_mm
            under += allowed * coverage(distance, voxel) * (hu - under)


def _halved(grid: VoxelGrid) -> VoxelGrid:
    """The grid of every second pixel in the plane."""
    (nx, ny, nz), (dx, dy, dz) = grid.shape, grid.spacing
    return replace(grid, shape=(nx // 2 + 1, ny // 2 + 1, nz), spacing=(2 * dx, 2 * dy, dz))


def _finer(coarse: Array, shape: tuple[int, int, int]) -> Array:
    """Interpolate from every second pixel to all, in the plane."""
    canvas = np.empty(shape, dtype=np.float32)
    for column in range(shape[0]):
        first = coarse[column // 2]
        row = first if column % 2 == 0 else 0.5 * (first + coarse[column // 2 + 1])
        canvas[column, ::2] = row[: (shape[1] + 1) // 2]
        canvas[column, 1::2] = (0.5 * (row[:-1] + row[1:]))[: shape[1] // 2]
    return canvas
