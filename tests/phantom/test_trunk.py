"""What surrounds the spine: bones that leave the vertebrae alone, symmetry, HU of the tissues, and odd columns."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spineseg.phantom import painting
from spineseg.phantom.anatomy import vertebrae
from spineseg.phantom.bones import Bone
from spineseg.phantom.chest import rib_levels, ribs
from spineseg.phantom.curves import spine_frames
from spineseg.phantom.organ import Organ
from spineseg.phantom.outline import Trunk, build_trunk, landmark
from spineseg.phantom.painting import Painter
from spineseg.phantom.shapes import WORLD, Array, Ellipsoid, Frame, VoxelGrid
from spineseg.phantom.skeleton import evaluate_bone, shared
from spineseg.phantom.subject import Subject, draw_subject
from spineseg.phantom.textures import Texture
from spineseg.phantom.trunk import other_bones
from spineseg.vertebrae import SACRUM, T13, level_id

Frames = dict[int, Frame]


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def person(seed: int, difficulty: str = "easy", **changes: Any) -> tuple[Subject, Frames, Trunk]:
    subject = replace(draw_subject(generator(seed), difficulty), **changes)
    frames = dict(spine_frames(subject))
    return subject, frames, build_trunk(subject, frames, generator(seed + 1000))


def around_spine(frames: Frames, voxel: float, half: float = 105.0) -> VoxelGrid:
    heights = [frame.origin[2] for frame in frames.values()]
    low, count = min(heights) - 60.0, round((max(heights) - min(heights) + 120.0) / voxel)
    return VoxelGrid((round(2 * half / voxel), round(210.0 / voxel), count), (voxel,) * 3, (-half, -120.0, low))


def all_others(subject: Subject, frames: Frames, trunk: Trunk) -> list[Bone]:
    return [*ribs(subject, frames, trunk), *other_bones(subject, frames, trunk)]


def changed(subject: Subject, levels: tuple[int, ...], rib_pairs: int) -> dict[str, Any]:
    sizes = dict(subject.sizes) | {T13: subject.sizes[19], 25: subject.sizes[24]}
    return {"levels": levels, "sizes": sizes, "rib_pairs": rib_pairs}


def columns() -> Iterator[tuple[str, tuple[int, ...], int]]:
    whole = (*range(1, 25), SACRUM)
    yield "usual", whole, 12
    yield "11 ribs", whole, 11
    yield "no T12", tuple(v for v in whole if v != level_id("T12")), 11
    yield "no L5", tuple(v for v in whole if v != level_id("L5")), 12
    yield "T13", (*whole[:19], T13, *whole[19:]), 13
    yield "L6", (*whole[:24], 25, SACRUM), 12


@pytest.mark.parametrize(("seed", "difficulty"), [(1, "easy"), (2, "default"), (3, "hard"), (6, "hard")])
def test_other_bones_stay_off_the_labelled_ones(seed: int, difficulty: str) -> None:
    subject, frames, trunk = person(seed, difficulty)
    grid = around_spine(frames, 1.5)
    spine = [(bone.level, evaluate_bone(bone, grid)) for bone in vertebrae(subject, frames)]
    for number, bone in enumerate(all_others(subject, frames, trunk)):
        mine = evaluate_bone(bone, grid)
        for level, theirs in spine:
            common = shared(mine[0], theirs[0], grid) if mine and theirs else None
            # S1 is one bone with the rest of the sacrum.
            if common is None or mine is None or theirs is None or level == SACRUM:
                continue
            inside = (mine[1][common.within(mine[0])] < 0) & (theirs[1][common.within(theirs[0])] < 0)
            assert inside.sum() < 4, (number, level, int(inside.sum()))


@pytest.mark.parametrize(("name", "levels", "pairs"), list(columns()))
def test_every_column_has_its_surroundings(name: str, levels: tuple[int, ...], pairs: int) -> None:
    subject = draw_subject(generator(4), "easy")
    subject, frames, trunk = person(4, **changed(subject, levels, pairs))
    assert len(list(ribs(subject, frames, trunk))) == 2 * pairs, name
    assert rib_levels(subject)[0] == level_id("T1")
    heights = [frames[level].origin[2] for level in rib_levels(subject)]
    assert (np.diff(heights) < 0).all()
    for wanted in ("T12", "L5", "L1"):
        near = landmark(frames, wanted)
        assert near in levels and (near == level_id(wanted)) == (level_id(wanted) in levels)
    for bone in all_others(subject, frames, trunk):
        for part in bone.parts:
            assert np.isfinite(bone.frame.world_bounds(*part.shape.bounds())).all()


def test_bones_mirror_each_other_where_the_spine_is_straight() -> None:
    subject, frames, trunk = person(5, scoliosis=())
    grid = VoxelGrid((81, 61, 211), (5.0,) * 3, (-200.0, -130.0, frames[SACRUM].origin[2] - 180.0))
    filled = np.zeros(grid.shape, dtype=bool)
    for bone in all_others(subject, frames, trunk):
        evaluated = evaluate_bone(bone, grid)
        if evaluated is not None:
            filled[evaluated[0].slices] |= evaluated[1] < 0
    assert filled.sum() > 2000
    assert (filled != filled[::-1]).sum() < 0.02 * filled.sum()


def test_ribs_slope_down_and_lie_outside_the_chest() -> None:
    subject, frames, trunk = person(8)
    for bone in list(ribs(subject, frames, trunk))[:20]:
        first, last = bone.parts[0].shape.bounds(), bone.parts[-1].shape.bounds()
        assert last[1][2] < first[0][2]
        middle = np.mean(last, axis=0)
        assert middle[1] > frames[level_id("T6")].origin[1] - 20.0


def tissue(subject: Subject, frames: Frames, trunk: Trunk) -> tuple[Array, VoxelGrid]:
    low, high = frames[SACRUM].origin[2] - 60.0, frames[level_id("C7")].origin[2]
    grid = VoxelGrid((108, 72, round((high - low) / 4)), (4.0,) * 3, (-214.0, -110.0, low))
    fine, coarse = Texture.draw(generator(1), 1.3, 1.2), Texture.draw(generator(2), 5.0, 2.0)
    return Painter(subject, grid, fine, coarse).soft_tissue(trunk, frames), grid


def value(canvas: Array, grid: VoxelGrid, point: tuple[float, float, float], radius: int = 1) -> float:
    i, j, k = (round((p - o) / s) for p, o, s in zip(point, grid.origin, grid.spacing, strict=True))
    around: NDArray[np.float32] = canvas[i - radius : i + radius + 1, j - radius : j + radius + 1, k : k + 1]
    return float(np.median(around))


@pytest.mark.parametrize("blood", [45.0, 260.0])
def test_tissues_have_their_hu(blood: float) -> None:
    subject, frames, trunk = person(9, vessel_hu=blood, scoliosis=())
    canvas, grid = tissue(subject, frames, trunk)
    assert canvas.dtype == np.float32 and np.isfinite(canvas).all()

    def at(level: str, x: float, y: float, z: float = 0.0, radius: int = 1) -> float:
        origin, s = frames[level_id(level)].origin, subject.size
        return value(canvas, grid, (origin[0] + x * s, origin[1] + y * s, origin[2] + z * s), radius)

    # Wide enough to look past a vessel of the lung.
    assert at("T6", 80, 20, radius=4) == pytest.approx(subject.lung_hu, abs=60)
    assert at("T6", -80, 20, radius=4) == pytest.approx(subject.lung_hu, abs=60)
    assert at("T12", 95, 40) == pytest.approx({45.0: 58.0}.get(blood, 90.0), abs=25)  # liver
    psoas = at("L4", 46, 0)
    assert psoas == pytest.approx(subject.muscle_hu, abs=35)
    middle = frames[landmark(frames, "T8")].origin[2]
    aorta = value(canvas, grid, (-18 * subject.size, _aorta_y(subject, frames), middle), 0)
    assert (aorta > 120) == (blood > 100)
    assert canvas[:, -1, :].max() < -900
    assert -990 <= float(np.median(canvas[:, -1, :])) <= -966  # air, as scans have it
    fat = (canvas > subject.fat_hu - 30) & (canvas < subject.fat_hu + 40)
    muscle = (canvas > 20) & (canvas < 80)
    assert fat.mean() > 0.08 and muscle.mean() > 0.08


def _aorta_y(subject: Subject, frames: Frames) -> float:
    level = level_id("T8")
    size = subject.sizes[level]
    share = min(0.95, 18 * subject.size / (size.width / 2 + 12 * subject.size))
    return frames[level].origin[1] + size.depth / 2 * float(np.sqrt(1 - share**2)) + 14.5 * subject.size


def test_the_same_draw_gives_the_same_tissue() -> None:
    subject, frames, trunk = person(10)
    canvas, _ = tissue(subject, frames, trunk)
    again, _ = tissue(subject, frames, build_trunk(subject, frames, generator(1010)))
    assert np.array_equal(canvas, again)
    other, _ = tissue(subject, frames, build_trunk(subject, frames, generator(1011)))
    assert not np.array_equal(canvas, other)


def test_the_number_of_draws_does_not_depend_on_their_values() -> None:
    subject, frames, _ = person(11)
    older, older_frames, _ = person(12, "hard")
    left = []
    for someone, places in ((subject, frames), (older, older_frames)):
        rng = generator(3)
        build_trunk(someone, places, rng)
        left.append(rng.uniform())
    assert left[0] == left[1]


def test_fluids_are_level_in_the_room_when_the_person_is_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, frames, trunk = person(14)
    middle = frames[level_id("L3")].origin
    place = (middle[0], middle[1] + 60.0, middle[2])
    pouch = Organ(Ellipsoid(place, (30.0, 30.0, 30.0)), 20.0, 0.0, gas_above=place)
    monkeypatch.setattr(painting, "organs", lambda *_: [pouch])
    grid = VoxelGrid((101, 131, 3), (2.0, 2.0, 2.0), (-100.0, -130.0, middle[2] - 2.0), turn_deg=20.0)
    fine, coarse = Texture.draw(generator(1), 1.3, 1.2), Texture.draw(generator(2), 5.0, 2.0)
    canvas = Painter(subject, grid, fine, coarse).soft_tissue(trunk, frames)[:, :, 1]
    x, y, _ = WORLD.turned(20.0).world(place)
    i, j = round((x + 100.0) / 2), round((y + 130.0) / 2)
    for across in (-10, 0, 10):
        assert (canvas[i + across, j + 2 : j + 9] < -900).all() and (canvas[i + across, j - 8 : j - 1] > 0).all()


def test_fine_grids_are_interpolated_from_half_the_pixels() -> None:
    subject, frames, trunk = person(13)
    fine, coarse = Texture.draw(generator(1), 1.3, 1.2), Texture.draw(generator(2), 5.0, 2.0)
    height = frames[level_id("L3")].origin[2]
    sharp = VoxelGrid((61, 60, 2), (0.5, 0.5, 1.0), (40.0, -20.0, height))
    double = VoxelGrid((31, 31, 2), (1.0, 1.0, 1.0), (40.0, -20.0, height))
    painted = Painter(subject, sharp, fine, coarse).soft_tissue(trunk, frames)
    assert painted.shape == sharp.shape
    halves = Painter(subject, double, fine, coarse).soft_tissue(trunk, frames)
    assert np.array_equal(painted[::2, ::2], halves[:, :30])
