"""HD95, ASSD and NSD against DeepMind's surface-distance, and by hand."""

import math

import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from spineseg.metrics.surface import assd, hd95, nsd, surface_distances

pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # of the other package
Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]
SHAPE = (11, 13, 9)
SPACINGS = ((1.0, 1.0, 1.0), (0.7, 0.7, 2.5), (3.0, 0.9, 1.1))


def blob(random: np.random.Generator, share: float) -> Mask:
    """A smooth random shape (or several) that fills a share of the volume and may meet its border."""
    field = ndimage.gaussian_filter(random.normal(size=SHAPE), 1.5)
    return np.asarray(field > np.quantile(field, 1 - share))


def at(*places: tuple[int, int, int]) -> Mask:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(np.array(places).T)] = True
    return mask


def in_order(distance: NDArray[np.float64], area: NDArray[np.float64]) -> NDArray[np.float64]:
    """Elements (N, 2) by distance, then area, where distances that only rounding parts are one."""
    order = np.lexsort((area.round(9), distance.round(9)))
    return np.stack([distance[order], area[order]], axis=1)


def check(a: Mask, b: Mask, spacing: Spacing) -> None:
    theirs = surface_distance.compute_surface_distances(a, b, spacing)
    ours = surface_distances(a, b, spacing)
    for found, side in (
        ((ours.a_mm, ours.a_mm2), ("gt_to_pred", "gt")),
        ((ours.b_mm, ours.b_mm2), ("pred_to_gt", "pred")),
    ):
        expected = (theirs[f"distances_{side[0]}"], theirs[f"surfel_areas_{side[1]}"])
        np.testing.assert_allclose(in_order(*found), in_order(*expected), atol=1e-9)
    assert hd95(ours) == pytest.approx(surface_distance.compute_robust_hausdorff(theirs, 95), abs=1e-6)
    areas = [theirs["surfel_areas_gt"].sum(), theirs["surfel_areas_pred"].sum()]
    directed = surface_distance.compute_average_surface_distance(theirs)
    assert assd(ours) == pytest.approx(np.average(directed, weights=areas), abs=1e-6)
    for tau in (0.5, 1.0, 2.0, 3.0):
        expected = surface_distance.compute_surface_dice_at_tolerance(theirs, tau)
        assert nsd(ours, tau) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_random_shapes_equal_surface_distance(spacing: Spacing, seed: int) -> None:
    random = np.random.default_rng(seed)
    check(blob(random, random.uniform(0.01, 0.6)), blob(random, random.uniform(0.01, 0.6)), spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2), st.integers(-2, 2))
@settings(max_examples=15, deadline=None)
def test_a_shape_and_what_becomes_of_it_equal_surface_distance(
    spacing: Spacing, seed: int, grown: int, moved: int
) -> None:
    a = blob(np.random.default_rng(seed), 0.2)
    b = np.roll(ndimage.binary_dilation(a, iterations=grown) if grown else a, moved, axis=2)
    check(a, b, spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (at((5, 5, 5)), at((5, 5, 5))),  # one voxel
        (at((5, 5, 5)), at((5, 5, 6))),  # neighbours
        (at((5, 5, 5)), at((6, 6, 6))),  # they touch at a corner
        (at((0, 0, 0)), at((10, 12, 8))),  # opposite corners of the volume
        (at((0, 0, 0), (10, 0, 0)), at((0, 0, 0), (10, 12, 8))),  # parts far apart
        (np.ones(SHAPE, bool), at((5, 6, 4))),  # the whole volume
        (np.ones(SHAPE, bool), np.ones(SHAPE, bool)),
        (~at((5, 6, 4)), at((5, 6, 4))),  # a hole and what fills it
    ],
)
def test_odd_shapes_equal_surface_distance(a: Mask, b: Mask, spacing: Spacing) -> None:
    check(a, b, spacing)
    check(b, a, spacing)


def test_empty_masks() -> None:
    nothing, something = np.zeros(SHAPE, bool), at((5, 5, 5))
    for a, b in ((nothing, something), (something, nothing)):
        d = surface_distances(a, b, (1, 1, 1))
        assert math.isnan(hd95(d)) and math.isnan(assd(d))
        assert nsd(d, 100) == 0
    neither = surface_distances(nothing, nothing, (1, 1, 1))
    assert all(math.isnan(value) for value in (hd95(neither), assd(neither), nsd(neither, 1)))
    with pytest.raises(ValueError, match="shapes"):
        surface_distances(nothing, nothing[1:], (1, 1, 1))


def test_a_mask_against_itself_and_moved_by_one_voxel() -> None:
    a = np.zeros((20, 20, 20), bool)
    a[5:12, 5:12, 5:12] = True
    same = surface_distances(a, a, (1.5, 1.5, 1.5))
    assert (hd95(same), assd(same), nsd(same, 0)) == (0, 0, 1)
    moved = surface_distances(a, np.roll(a, 1, axis=0), (1.5, 1.5, 1.5))
    assert hd95(moved) == 1.5
    assert 0 < nsd(moved, 1.4) < 1
    assert nsd(moved, 1.5) == 1


def test_the_border_of_the_volume_is_surface() -> None:
    inner, cut = np.zeros((9, 9, 9), bool), np.zeros((6, 9, 9), bool)
    inner[3:6, 3:6, 3:6], cut[3:6, 3:6, 3:6] = True, True
    here, there = (surface_distances(mask, mask, (1, 1, 1)) for mask in (inner, cut))
    assert there.a_mm2.sum() == pytest.approx(here.a_mm2.sum())


@pytest.mark.parametrize("step", [1.0, np.float32(1.00000003), 0.1])
def test_what_lies_exactly_at_the_tolerance_is_within_for_any_spacing(step: float) -> None:
    first, second = at((4, 4, 4)), at((6, 4, 4))
    spacing = (float(step),) * 3
    assert nsd(surface_distances(first, second, spacing), 2 * float(np.float32(step))) == 1
    assert nsd(surface_distances(first, second, spacing), 1.9 * float(step)) < 1
