import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spineseg.phantom.shapes import (
    FAR,
    Array,
    Body,
    Ellipsoid,
    Frame,
    Limb,
    Shape,
    Tube,
    VoxelGrid,
    coverage,
    smooth_max,
    smooth_min,
)

SHAPES: list[Shape] = [
    Ellipsoid((1.0, 2.0, -3.0), (12.0, 7.0, 9.0)),
    Limb((-8.0, 0.0, 2.0), (9.0, 4.0, 6.0), (5.0, 3.0), (3.0, 4.0)),
    Body(40.0, 32.0, 26.0, 24.0),
    Body(24.0, 16.0, 13.0, 12.0, uncinate=3.0),
]


def local(grid: VoxelGrid) -> tuple[Array, Array, Array]:
    box = grid.block(*(slice(0, n) for n in grid.shape))
    return Frame((0.0, 0.0, 0.0), ((1, 0, 0), (0, 1, 0), (0, 0, 1))).local(box)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_bounds_hold_the_solid_and_distances_are_first_order(shape: Shape) -> None:
    grid = VoxelGrid((101, 101, 101), (0.6, 0.6, 0.6), (-30.0, -30.0, -30.0))
    x, y, z = local(grid)
    distance = shape.distance(x, y, z)
    assert distance.dtype == np.float32
    low, high = shape.bounds()
    inside = distance < 0
    assert inside.any()
    for axis, a, b in zip((x, y, z), low, high, strict=True):
        assert axis[inside].min() >= a - 0.6 and axis[inside].max() <= b + 0.6
    # On the surface a signed distance has slope 1; corners are rounded, hence the median.
    slope = np.sqrt(sum(g**2 for g in np.gradient(distance, 0.6)))
    near = slope[np.abs(distance) < 0.5]
    assert abs(float(np.median(near)) - 1.0) < 0.1


@pytest.mark.parametrize(
    "body",
    [
        Body(44.8, 35.2, 27.0, 27.0, concavity=0.8, waist=0.12, power=2.5),
        Body(26.2, 26.0, 18.5, 17.3, concavity=0.6, waist=0.11, power=2.15),
        Body(23.0, 15.5, 12.5, 12.0, concavity=0.5, waist=0.02, power=2.6, uncinate=3.6),
    ],
)
def test_a_body_is_as_wide_and_deep_as_stated(body: Body) -> None:
    heights = np.arange(-20, 20, 0.1, dtype=np.float32)
    for size, across in ((body.width, True), (body.depth, False)):
        along = np.arange(-30, 30, 0.05, dtype=np.float32)[:, None]
        still = np.zeros((1, 1), np.float32)
        x, y = (along, still) if across else (still, along)
        inside = (body.distance(x, y, heights[None] + 0 * along) < 0).any(axis=1)
        assert float(np.ptp(along[inside])) == pytest.approx(size, abs=0.2)


def test_partial_volume_gives_the_volume_of_an_ellipsoid_on_coarse_voxels() -> None:
    shape = Ellipsoid((0.3, -0.2, 0.1), (11.0, 8.0, 6.0))
    grid = VoxelGrid((20, 20, 20), (1.5, 1.5, 1.5), (-14.0, -14.0, -14.0))
    volume = float(coverage(shape.distance(*local(grid)), 1.5).sum()) * 1.5**3
    assert volume == pytest.approx(4 / 3 * math.pi * 11 * 8 * 6, rel=0.02)


def test_a_shell_thinner_than_a_voxel_keeps_its_mass() -> None:
    grid = VoxelGrid((40, 40, 40), (1.2, 1.2, 1.2), (-23.7, -23.6, -23.5))
    distance = Ellipsoid((0.0, 0.0, 0.0), (20.0, 20.0, 20.0)).distance(*local(grid))
    shell = float((coverage(distance, 1.2) - coverage(distance + 0.5, 1.2)).sum()) * 1.2**3
    assert shell == pytest.approx(4 / 3 * math.pi * (20**3 - 19.5**3), rel=0.05)


def test_tube_is_open_between_its_ends() -> None:
    grid = VoxelGrid((21, 21, 41), (1.0, 1.0, 1.0), (-10.0, -10.0, -20.0))
    distance = Tube((0.0, 0.0), (6.0, 4.0), -10.0, 10.0).distance(*local(grid))
    assert (distance[10, 10, 11:30] < 0).all() and (distance[10, 10, [5, 35]] > 0).all()
    assert distance[17, 10, 20] == pytest.approx(1.0, abs=0.05)


@given(a=st.floats(-20, 20), b=st.floats(-20, 20), blend=st.floats(0, 5))
def test_smooth_union_is_bounded_by_the_sharp_one(a: float, b: float, blend: float) -> None:
    first, second = np.array([a], np.float32), np.array([b], np.float32)
    smooth = float(smooth_min(first, second, blend)[0])
    assert min(a, b) - blend / 4 - 1e-4 <= smooth <= min(a, b) + 1e-4
    assert float(smooth_max(first, second, blend)[0]) == pytest.approx(-float(smooth_min(-first, -second, blend)[0]))
    # What is far away is not moved: parts may be evaluated on their own boxes.
    assert float(smooth_min(first, np.array([FAR], np.float32), blend)[0]) == pytest.approx(a, abs=1e-5)


@settings(max_examples=30)
@given(angle=st.floats(-3, 3), x=st.floats(-50, 50), y=st.floats(-50, 50))
def test_frame_local_inverts_world(angle: float, x: float, y: float) -> None:
    c, s = math.cos(angle), math.sin(angle)
    frame = Frame((3.0, -4.0, 5.0), ((c, s, 0.0), (-s, c, 0.0), (0.0, 0.0, 1.0)))
    point = frame.world((x, y, 2.0))
    box = VoxelGrid((1, 1, 1), (1.0, 1.0, 1.0), point).block(slice(0, 1), slice(0, 1), slice(0, 1))
    assert [float(v.item()) for v in frame.local(box)] == pytest.approx([x, y, 2.0], abs=1e-4)


def test_box_is_clipped_to_the_grid_and_none_outside() -> None:
    grid = VoxelGrid((10, 10, 10), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))
    box = grid.box((-5.0, 2.5, 3.0), (3.2, 4.0, 100.0))
    assert box is not None
    assert box.slices == (slice(0, 5), slice(2, 5), slice(1, 10))
    assert grid.box((20.0, 0.0, 0.0), (30.0, 5.0, 5.0)) is None
