"""Bodies of a label map, and errors that never stand without the share found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from spineseg.geometry import Volume, index_to_mm
from spineseg.metrics.localisation import (
    Bodies,
    Parts,
    body_centre_mm,
    common_box,
    error_summary,
    squared_depth_mm2,
)

AFFINE = np.array([[0.0, -1.5, 0, 40], [2.0, 0, 0, -7], [0, 0, 3.0, 11], [0, 0, 0, 1]])


def random_map(seed: int) -> Volume:
    random = np.random.default_rng(seed)
    labels = np.zeros((14, 12, 16), np.uint8)
    for label in (1, 20, 28):
        low = random.integers(0, 8, 3)
        high = low + random.integers(1, 6, 3)
        labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = label
    return Volume(labels, AFFINE)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_centres_of_crops_equal_those_of_the_whole_volume(seed: int) -> None:
    volume = random_map(seed)
    bodies = Bodies.of(volume)
    assert sorted(bodies.boxes) == [label for label in (1, 20, 28) if (volume.array == label).any()]
    for label in bodies.boxes:
        for level in (1, label, None):
            expected = body_centre_mm(volume.array == label, AFFINE, level=level)
            assert bodies.centre_mm(label, level=level) == pytest.approx(expected)


def test_the_rule_of_c1_can_be_asked_for_any_label() -> None:
    labels = np.zeros((20, 40, 20), np.uint16)
    labels[4:16, 22:36, 4:16] = 5
    labels[9:11, 2:22, 9:11] = 5
    bodies = Bodies.of(Volume(labels, AFFINE))
    assert bodies.centre_mm(5, level=1) == pytest.approx(index_to_mm(AFFINE, np.argwhere(labels).mean(axis=0)))
    assert np.linalg.norm(bodies.centre_mm(5, level=None) - bodies.centre_mm(5, level=1)) > 0.9


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_common_box_holds_both_masks_and_touches_them(seed: int) -> None:
    first, second = random_map(seed), random_map(seed + 1)
    boxes = [Bodies.of(volume).boxes for volume in (first, second)]
    for a in boxes[0]:
        for b in boxes[1]:
            either = (first.array == a) | (second.array == b)
            box = common_box(boxes[0], a, boxes[1], b)
            assert either[box].sum() == either.sum()
            assert either[box].any(axis=(1, 2))[[0, -1]].all() and either[box].any(axis=(0, 1))[[0, -1]].all()


def test_a_summary_of_nothing_still_says_what_was_found() -> None:
    assert error_summary([], found=0.0) == {"median": None, "mean": None, "p95": None, "found": 0.0}
    assert error_summary([], found=float("nan"))["found"] is None


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1.0, 1.0, 1.0), (3.0, 0.5, 0.7), (0.4, 2.5, 1.0)]))
@settings(max_examples=60, deadline=None)
def test_depths_equal_scipys_distance_transform(seed: int, spacing: tuple[float, float, float]) -> None:
    random = np.random.default_rng(seed)
    mask = random.random((12, 9, 10)) < random.choice([0.3, 0.9, 0.99, 1.0])
    expected = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    np.testing.assert_allclose(squared_depth_mm2(mask, spacing), expected**2, rtol=1e-12)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_body_follows_its_definition_in_parts_and_holes(seed: int) -> None:
    """The formula on the whole array: crops and parts are only there to be fast."""
    random = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(random.normal(size=(16, 14, 12)), 1.2) > random.uniform(0, 0.25)
    mask[tuple(random.integers(0, n) for n in mask.shape)] = True
    spacing = np.linalg.norm(AFFINE[:3, :3], axis=0)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    components, _ = ndimage.label(depth >= depth.max() / 2 * (1 - 1e-9))
    sizes = np.bincount(components.ravel())[1:]
    centres = [
        index_to_mm(AFFINE, np.argwhere(components == n + 1).mean(axis=0)) for n in np.flatnonzero(sizes == sizes.max())
    ]
    found = body_centre_mm(mask, AFFINE)
    assert min(float(np.abs(found - centre).max()) for centre in centres) < 1e-9


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1.0, 1.0, 1.0), (3.0, 0.5, 0.7), (0.4, 2.5, 1.0)]))
@settings(max_examples=60, deadline=None)
def test_components_are_as_deep_as_in_the_whole_and_never_deeper_than_they_reach(
    seed: int, spacing: tuple[float, float, float]
) -> None:
    random = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(random.normal(size=random.integers(1, 18, 3)), random.choice([0, 0.7, 1.5]))
    mask = field >= np.quantile(field, random.uniform(0, 1))
    parts = Parts.of(mask, np.array(spacing))
    whole = squared_depth_mm2(mask, spacing)
    numbers, count = ndimage.label(mask)
    np.testing.assert_array_equal(parts.numbers, numbers)
    assert len(parts.voxels) == count
    for n in range(count):
        own = numbers[parts.box(n)] == n + 1
        assert parts.voxels[n] == own.sum() == (numbers == n + 1).sum()
        np.testing.assert_array_equal(parts.depth_mm2(n), np.where(own, whole[parts.box(n)], 0))
        assert parts.depth_mm2(n).max() <= parts.reach_mm[n] ** 2
    assert parts.deepest_mm2() == whole.max()


def test_stray_voxels_move_no_body_and_cost_little() -> None:
    mask = np.zeros((60, 60, 90), bool)
    mask[20:40, 20:40, 30:45] = True
    alone = body_centre_mm(mask, AFFINE)
    random = np.random.default_rng(0)
    mask[tuple(random.integers(0, n, 3000) for n in mask.shape)] = True
    mask[19:41, 19:41, 29:46] &= np.pad(np.ones((20, 20, 15), bool), 1)
    np.testing.assert_array_equal(body_centre_mm(mask, AFFINE), alone)
    parts = Parts.of(mask, np.ones(3))
    parts.deepest_mm2()
    assert len(parts.voxels) > 2000 and len(parts._depths) == 1
