"""The areas of marching cubes' 256 cases against surface-distance's table, and by their symmetries."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from surface_distance.lookup_tables import create_table_neighbour_code_to_surface_area

from spineseg.metrics.surface_elements import _CORNERS, element_areas_mm2, neighbourhood_codes

SPACING = st.tuples(*3 * [st.floats(0.2, 5.0)])
# The other package's codes count the corners from the other end.
REVERSED = np.array([int(f"{code:08b}"[::-1], 2) for code in range(256)])


@given(SPACING)
@settings(max_examples=20, deadline=None)
def test_all_areas_equal_surface_distances_table(spacing: tuple[float, float, float]) -> None:
    expected = create_table_neighbour_code_to_surface_area(spacing)[REVERSED]
    np.testing.assert_allclose(element_areas_mm2(spacing), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)))
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_areas_do_not_depend_on_how_the_grid_is_turned(axes: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    moved = [
        sum(
            (code >> n & 1) << _CORNERS.index(tuple(corner[a] ^ flip for a, flip in zip(axes, flips, strict=True)))
            for n, corner in enumerate(_CORNERS)
        )
        for code in range(256)
    ]
    spacing = np.array([0.7, 1.3, 2.9])
    np.testing.assert_allclose(element_areas_mm2(spacing[list(axes)])[moved], element_areas_mm2(spacing), rtol=1e-12)


def test_a_code_and_its_complement_have_the_same_surface() -> None:
    areas = element_areas_mm2((0.7, 1.3, 2.9))
    np.testing.assert_allclose(areas, areas[::-1], rtol=1e-14)
    assert (areas[1:255] > 0).all()


def test_a_box_has_flat_faces_cut_edges_and_cut_corners() -> None:
    # 3 × 4 × 5 voxels: faces reach to the outer voxels' centres, edges are cut at 45°, the eight corners are triangles.
    codes = neighbourhood_codes(np.ones((3, 4, 5), bool))
    faces = 2 * (2 * 3 + 2 * 4 + 3 * 4)
    edges = 4 * (2 + 3 + 4) * np.sqrt(0.5)
    assert element_areas_mm2((1, 1, 1))[codes].sum() == pytest.approx(faces + edges + 8 * np.sqrt(3) / 8)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_codes_say_which_corners_are_inside(seed: int) -> None:
    mask = np.random.default_rng(seed).random((3, 4, 2)) < 0.5
    padded = np.pad(mask, 1)
    codes = neighbourhood_codes(mask)
    assert codes.shape == (4, 5, 3)
    for place in np.ndindex(codes.shape):
        inside = [bool(padded[tuple(np.add(place, corner))]) for corner in _CORNERS]
        assert codes[place] == sum(bit << n for n, bit in enumerate(inside))
