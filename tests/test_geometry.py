"""Grids, canonical axes and resampling, over all 48 axis orders and directions, oblique and anisotropic."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from spineseg.errors import DataError
from spineseg.geometry import (
    Grid,
    Volume,
    canonical,
    canonical_grid,
    index_to_mm,
    mm_to_index,
    resample_image,
    resample_labels,
    resample_labels_to,
    resampled_grid,
    restore,
)

ORIENTATIONS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


def affine_of(
    order: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...], tilt: tuple[float, ...] = (0, 0, 0)
) -> np.ndarray:
    axes = np.zeros((3, 3))
    axes[list(order), range(3)] = signs
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix() @ axes * np.asarray(spacing)
    affine[:3, 3] = 12.5, -40.25, 7.75
    return affine


def blob(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    low = rng.integers(0, 3, 3)
    high = [int(rng.integers(n - 3, n + 1)) for n in shape]
    labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 7
    return labels


def centroid_mm(volume: Volume) -> np.ndarray:
    return index_to_mm(volume.affine, np.argwhere(volume.array == 7)).mean(0)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
@pytest.mark.parametrize("tilt", [(0, 0, 0), (12, -9, 17)])
def test_restore_undoes_canonical(order: tuple[int, ...], signs: tuple[int, ...], tilt: tuple[float, ...]) -> None:
    native = Volume(blob((7, 9, 11)), affine_of(order, signs, (0.4, 1.0, 2.5), tilt))
    upright = canonical(native)
    assert upright.orientation == "RAS"
    back = restore(upright, native.grid)
    np.testing.assert_array_equal(back.array, native.array)
    np.testing.assert_array_equal(back.affine, native.affine)
    np.testing.assert_allclose(centroid_mm(upright), centroid_mm(native), atol=1e-9)
    assert upright.grid.distance_mm(canonical_grid(native.grid)) == 0


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_a_labels_centroid_survives_any_round_trip(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """Canonical → another spacing → back: less than half a voxel of the coarser grid."""
    native = Volume(blob((20, 24, 28), seed=3), affine_of(order, signs, (0.8, 1.1, 1.9), (5, 3, -8)))
    upright = canonical(native)
    other = resample_labels(upright, (1.3, None, 1.0))
    back = restore(resample_labels_to(other, upright.grid), native.grid)
    half = 0.5 * max(1.3, *upright.spacing_mm)
    assert np.linalg.norm(centroid_mm(other) - centroid_mm(native)) < half
    assert np.linalg.norm(centroid_mm(back) - centroid_mm(native)) < half


@given(
    st.tuples(*[st.floats(0.3, 3.0)] * 3), st.tuples(*[st.floats(-20, 20)] * 3), st.tuples(*[st.integers(0, 300)] * 3)
)
def test_index_and_mm_are_inverse(spacing: tuple[float, ...], tilt: tuple[float, ...], index: tuple[int, ...]) -> None:
    affine = affine_of((1, 0, 2), (-1, 1, 1), spacing, tilt)
    np.testing.assert_allclose(mm_to_index(affine, index_to_mm(affine, index)), index, atol=1e-6)


@settings(max_examples=50)
@given(st.integers(1, 40), st.floats(0.3, 4.0), st.floats(0.3, 4.0))
def test_resampling_keeps_the_field_of_view(n: int, old: float, new: float) -> None:
    grid = Grid((n, 3, 3), np.diag([old, 1, 1, 1.0]))
    target = resampled_grid(grid, (new, None, None))
    corner = index_to_mm(grid.affine, [-0.5, -0.5, -0.5])
    np.testing.assert_allclose(index_to_mm(target.affine, [-0.5, -0.5, -0.5]), corner, atol=1e-9)
    assert target.shape[0] == 1 or abs(target.shape[0] * new - n * old) <= new / 2 + 1e-6
    assert target.shape[1:] == (3, 3)


@pytest.mark.parametrize("spacing", [0.5, 0.9, 1.0, 1.7, 3.0])
def test_a_linear_ramp_stays_a_ramp(spacing: float) -> None:
    grid = Grid((30, 4, 4), np.diag([1.0, 2.0, 2.0, 1.0]))
    ramp = np.broadcast_to(np.arange(30, dtype=np.float64)[:, None, None] * 10, grid.shape).copy()
    result = resample_image(Volume(ramp, grid.affine), (spacing, None, None))
    position = mm_to_index(grid.affine, index_to_mm(result.affine, [[i, 0, 0] for i in range(result.shape[0])]))[:, 0]
    inner = slice(4, -4)
    np.testing.assert_allclose(result.array[inner, 0, 0], 10 * position[inner], atol=1e-3)
    assert result.array.dtype == np.float64


def test_coarser_voxels_average_the_noise() -> None:
    noise = np.random.default_rng(0).normal(0, 100, (8, 200, 200))
    result = resample_image(Volume(noise, np.diag([1.0, 0.3, 0.3, 1.0])), (None, 1.2, 1.2))
    assert result.array.std() < 100 / 3


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.integers(1, 24)] * 3),
    st.tuples(*[st.floats(0.4, 3.0)] * 3),
    st.tuples(*[st.floats(0.4, 3.0)] * 3),
    st.integers(0, 99),
)
def test_cubic_resampling_is_scipys(
    shape: tuple[int, int, int], old: tuple[float, ...], new: tuple[float, float, float], seed: int
) -> None:
    """The same positions in mode nearest: far below 0.5 HU as floats, and rounded to the nearest HU as integers."""
    values = np.random.default_rng(seed).integers(-1024, 3072, shape).astype(np.int16)
    grid = Grid(shape, np.diag([*old, 1.0]))
    found = resample_image(Volume(values.astype(np.float32), grid.affine), new, order=3)
    step = np.linalg.inv(grid.affine) @ found.affine
    expected = ndimage.affine_transform(
        values.astype(np.float64), np.diag(step)[:3], step[:3, 3], found.shape, order=3, mode="nearest"
    )
    np.testing.assert_allclose(found.array, expected, atol=0.02)
    whole = resample_image(Volume(values, grid.affine), new, order=3)
    assert whole.array.dtype == np.int16
    np.testing.assert_allclose(whole.array, expected, atol=0.52)


def test_integers_round_and_do_not_wrap() -> None:
    array = np.array([-32768, 32767, -32768, 32767], np.int16).reshape(4, 1, 1)
    result = resample_image(Volume(array, np.eye(4)), (0.5, None, None))
    assert result.array.dtype == np.int16
    assert result.array.min() == -32768 and result.array.max() == 32767


def test_labels_outside_the_volume_are_background() -> None:
    volume = Volume(np.ones((3, 3, 3), np.uint8), np.eye(4))
    shifted = np.eye(4)
    shifted[0, 3] = -2
    result = resample_labels_to(volume, Grid((8, 3, 3), shifted))
    assert result.array[:, 1, 1].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]


def test_rotated_grids_are_refused() -> None:
    volume = Volume(np.ones((3, 3, 3), np.uint8), np.eye(4))
    with pytest.raises(DataError, match="parallel"):
        resample_labels_to(volume, Grid((3, 3, 3), affine_of((0, 1, 2), (1, 1, 1), (1, 1, 1), (0, 0, 10))))


@pytest.mark.parametrize("affine", [np.diag([0.0, 1, 1, 1]), np.diag([np.nan, 1, 1, 1]), np.eye(3)])
def test_impossible_affines_are_refused(affine: np.ndarray) -> None:
    with pytest.raises(DataError, match="affine"):
        Grid((2, 2, 2), affine)


def test_grids_of_other_shape_are_infinitely_far() -> None:
    assert Grid((2, 2, 2), np.eye(4)).distance_mm(Grid((2, 2, 3), np.eye(4))) == float("inf")
    moved = np.eye(4)
    moved[1, 3] = 0.25
    assert Grid((2, 2, 2), np.eye(4)).distance_mm(Grid((2, 2, 2), moved)) == pytest.approx(0.25)
