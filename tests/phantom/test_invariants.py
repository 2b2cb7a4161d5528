"""What holds for every whole column of vertebrae, however drawn: on voxels of a millimetre, C1 to S1."""

import itertools
from dataclasses import dataclass, replace
from functools import cache

import cc3d
import numpy as np
import pytest
from numpy.typing import NDArray

from spineseg.phantom import skeleton
from spineseg.phantom.bones import Bone, Part
from spineseg.phantom.column import Factors
from spineseg.phantom.curves import spine_frames
from spineseg.phantom.shapes import WORLD, Array, Box, Ellipsoid, Frame, VoxelGrid
from spineseg.phantom.skeleton import JOINT_MM, placed_vertebrae, shared
from spineseg.phantom.subject import Subject, draw_subject
from spineseg.vertebrae import SACRUM, level_id

VOXEL_MM = 1.0
# Levels whose arch closes behind the canal in a plane square to the spine.
RINGS = tuple(level for level in range(1, 25))


@dataclass(frozen=True, eq=False)
class Column:
    subject: Subject
    frames: dict[int, Frame]
    grid: VoxelGrid
    bones: list[tuple[Bone, Box, Array]]
    labels: NDArray[np.uint8]


def voxelised(subject: Subject) -> Column:
    frames = spine_frames(subject)
    origins = np.array([frame.origin for frame in frames.values()])
    low, high = origins.min(axis=0) - np.array([62, 105, 45]), origins.max(axis=0) + np.array([62, 45, 40])
    half = float(max(-low[0], high[0]))
    x, y, z = (int(n) for n in np.ceil(np.array([2 * half, *(high - low)[1:]]) / VOXEL_MM))
    # Symmetric about x = 0, so that a mirrored grid is the same grid.
    grid = VoxelGrid((x, y, z), (VOXEL_MM,) * 3, (-VOXEL_MM * (x - 1) / 2, float(low[1]), float(low[2])))
    labels = np.zeros(grid.shape, np.uint8)
    bones = []
    for placed in placed_vertebrae(subject, frames, grid):
        box, distance, _ = placed.evaluated
        labels[box.slices][distance < 0] = placed.bone.level
        bones.append((placed.bone, box, distance))
    return Column(subject, frames, grid, bones, labels)


def drawn(difficulty: str, seed: int) -> Subject:
    return draw_subject(np.random.Generator(np.random.PCG64(seed)), difficulty)


@cache
def column(difficulty: str) -> Column:
    return voxelised(drawn(difficulty, 5))


@pytest.fixture(params=["easy", "hard"])
def any_column(request: pytest.FixtureRequest) -> Column:
    return column(request.param)


def test_every_level_is_one_piece_in_its_place(any_column: Column) -> None:
    heights = []
    for level in any_column.subject.levels:
        mask = (any_column.labels == level).astype(np.uint8)
        assert cc3d.connected_components(mask, connectivity=26, return_N=True)[1] == 1, level
        heights.append(np.nonzero(mask)[2].mean())
    assert (np.diff(heights) < 0).all()
    assert bodies(any_column) == {*any_column.subject.levels} - {level_id("C1")}


def bodies(column: Column) -> set[int]:
    """Levels whose label is found in the middle of their body."""
    found = set[int]()
    for level, frame in column.frames.items():
        i, j, k = np.rint((np.array(frame.origin) - column.grid.origin) / VOXEL_MM).astype(int)
        found |= {level} & {int(column.labels[i, j, k])}
    return found


@pytest.mark.parametrize(("disc", "canal"), [(0.5, 1.2), (1.5, 0.8)])
def test_levels_are_whole_at_the_ends_of_the_ranges_of_discs_and_canals(disc: float, canal: float) -> None:
    person = drawn("easy", 5)
    one = Factors(1.0, disc, canal)
    found = voxelised(replace(person, sizes={level: one.scaled(row) for level, row in person.sizes.items()}))
    for level in person.levels:
        mask = (found.labels == level).astype(np.uint8)
        assert cc3d.connected_components(mask, connectivity=26, return_N=True)[1] == 1, level
    assert bodies(found) == {*person.levels} - {level_id("C1")}


def test_no_point_lies_in_two_vertebrae_before_rasterising(any_column: Column) -> None:
    for (upper, box, mine), (lower, other, theirs) in itertools.pairwise(any_column.bones):
        common = shared(box, other, any_column.grid)
        if common is None:
            continue
        deeper = np.maximum(mine[common.within(box)], theirs[common.within(other)])
        assert (deeper >= 0).all(), (upper.level, lower.level)


def test_the_canal_is_open_from_c1_to_s1(any_column: Column) -> None:
    subject, frames, grid = any_column.subject, any_column.frames, any_column.grid
    free = any_column.labels == 0
    path = np.zeros(grid.shape, bool)
    places = []
    for level in subject.levels:
        size = subject.sizes[level]
        back = -0.75 * size.width if level == level_id("C1") else size.canal_y
        places.append(np.array(frames[level].world((0.0, back, 0.0))))
    for upper, lower in itertools.pairwise(places):
        for share in np.linspace(0, 1, 40):
            point = (upper + share * (lower - upper) - grid.origin) / VOXEL_MM
            i, j, k = np.rint(point).astype(int)
            path[i - 3 : i + 4, j - 2 : j + 3, k] = True
    assert free[path].all()


def test_rings_close_around_the_canal(any_column: Column) -> None:
    """Seen along the spine, no way leads from a level's canal to the outside past its own bone."""
    subject, frames = any_column.subject, any_column.frames
    for level in (level for level in RINGS if level in subject.levels):
        size, frame = subject.sizes[level], frames[level]
        center = -0.75 * size.width if level == level_id("C1") else size.canal_y
        u, v = np.meshgrid(np.arange(-45, 45.5, 1.0), np.arange(center - 40, center + 45.5, 1.0), indexing="ij")
        shadow = np.zeros(u.shape, bool)
        for w in np.arange(-size.height / 2 - size.disc - 6, size.height / 2 + size.disc + 6, 1.0):
            points = np.array(frame.origin) + u[..., None] * frame.axes[0] + v[..., None] * frame.axes[1]
            points = points + w * np.array(frame.axes[2])
            index = np.rint((points - any_column.grid.origin) / VOXEL_MM).astype(int)
            index = np.clip(index, 0, np.array(any_column.grid.shape) - 1)
            shadow |= any_column.labels[index[..., 0], index[..., 1], index[..., 2]] == level
        parts = cc3d.connected_components((~shadow).astype(np.uint8), connectivity=4)
        inside = parts[45, 40]
        assert inside and inside != parts[0, 0], level


def test_bones_are_symmetric_where_the_spine_is_straight() -> None:
    straight = column("easy")
    assert straight.subject.scoliosis == ()
    mirrored = straight.labels[::-1]
    assert (straight.labels != mirrored).mean() < 1e-4 * (straight.labels > 0).mean() * 100
    for level in straight.subject.levels:
        mask = straight.labels == level
        assert (mask != mask[::-1]).sum() < 0.01 * mask.sum(), level


@pytest.mark.parametrize("level", ["T8", "L2"])
def test_shapes_of_disease(level: str) -> None:
    """Concave end plates take bone from the middle, spurs add it at the edge, a lateral wedge leans to one side."""
    person, at = drawn("easy", 5), level_id(level)

    def body(**changes: float) -> tuple[NDArray[np.bool_], Column]:
        sizes = dict(person.sizes) | {at: replace(person.sizes[at], **changes)}
        found = voxelised(replace(person, sizes=sizes))
        return found.labels == at, found

    plain, reference = column("easy").labels == at, column("easy")
    assert body(concavity=4.0)[0].sum() < 0.97 * plain.sum()
    assert body(osteophyte=4.0)[0].sum() > 1.02 * plain.sum()
    leaning, _ = body(lateral=10.0)
    middle = plain.shape[0] // 2
    assert leaning[middle:].sum() > 1.05 * leaning[:middle].sum()
    assert abs(int(plain[middle:].sum()) - int(plain[:middle].sum())) < 0.01 * plain.sum()
    assert reference.subject.levels == person.levels


def test_fused_levels_meet_and_others_do_not() -> None:
    person = drawn("easy", 5)
    above, below = level_id("T8"), level_id("T9")
    sizes = dict(person.sizes) | {above: replace(person.sizes[above], disc=1.5)}
    labels = voxelised(replace(person, sizes=sizes, fused=frozenset({above}))).labels

    def faces(first: int, second: int) -> int:
        return int(((labels[:, :, 1:] == first) & (labels[:, :, :-1] == second)).sum())

    assert faces(above, below) > 200
    assert faces(above - 1, above) < 40 and faces(below, below + 1) < 40


def test_a_fused_level_keeps_its_distance_from_the_next_but_one(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = (level_id("T8"), level_id("T9"), level_id("T10"))
    person = replace(drawn("easy", 5), levels=levels, fused=frozenset(levels[:1]))
    # Both the lower balls overlap the first, whose level is fused with the second.
    places = ((0.0, 0.0, 0.0), (0.0, 15.0, 0.0), (0.0, -15.0, 0.0))
    balls = [
        Bone(WORLD, (Part(Ellipsoid(place, (10.0, 10.0, 10.0)), 0.3, 0.0),), level=level)
        for place, level in zip(places, levels, strict=True)
    ]
    monkeypatch.setattr(skeleton, "vertebrae", lambda *_: balls)
    grid = VoxelGrid((60, 110, 60), (0.5, 0.5, 0.5), (-14.75, -27.25, -14.75))
    first, second, third = (placed.evaluated for placed in placed_vertebrae(person, dict.fromkeys(levels, WORLD), grid))

    def least_gap(box: Box, distance: Array) -> float:
        common = shared(first[0], box, grid)
        assert common is not None
        mine, theirs = first[1][common.within(first[0])], distance[common.within(box)]
        return float((np.maximum(mine, 0.0) + np.maximum(theirs, 0.0)).min())

    assert least_gap(*second[:2]) < 0.01
    assert least_gap(*third[:2]) == pytest.approx(JOINT_MM, abs=0.01)


def test_a_sacralised_level_has_stout_wings_that_others_have_not() -> None:
    person = drawn("easy", 5)
    joined = voxelised(replace(person, sacralised=1.0)).labels
    plain = column("easy").labels
    lowest = person.levels[-2]
    assert (joined == lowest).sum() > 1.03 * (plain == lowest).sum()
    assert np.array_equal(joined == lowest - 1, plain == lowest - 1)
    assert (joined == SACRUM).any()
