"""Instances of a slice: checks, suppression, and the exclusive map."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spineseg.errors import DataError
from spineseg.predictions.instances import SliceInstances, exclusive, from_masks, nms_agnostic
from spineseg.predictions.masks import areas_px, box_iou, decode, hulls


def rectangles(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (20, 30)) -> NDArray[np.bool_]:
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (y0, z0, y1, z1) in zip(masks, boxes, strict=True):
        mask[y0:y1, z0:z1] = True
    return masks


def random_instances(seed: int) -> SliceInstances:
    random = np.random.default_rng(seed)
    corner = random.integers(0, 15, (12, 2))
    boxes = [(y, z, y + h, z + w) for (y, z), (h, w) in zip(corner, random.integers(1, 8, (12, 2)), strict=True)]
    masks = rectangles(*boxes) & (random.random((12, 20, 30)) < 0.8)
    return from_masks(3, masks, random.random(12).round(1), levels=random.integers(1, 5, 12))


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=100, deadline=None)
def test_exclusive_gives_each_pixel_once_and_the_better_score_keeps_it(seed: int, named: bool) -> None:
    instances = random_instances(seed)
    found = exclusive(instances, 0.3, named=named)
    masks = [decode(rle) for rle in found.masks]
    assert (np.sum([m.astype(int) for m in masks], axis=0) <= 1).all()
    assert (areas_px(found.masks) > 0).all()
    assert (np.diff(found.scores) <= 0).all()
    assert (found.scores >= 0.3).all()
    np.testing.assert_array_equal(found.boxes, hulls(found.masks))
    if named:
        assert len(set(found.levels.tolist())) == len(found)
    # Raising the threshold only cuts the tail off.
    higher = exclusive(instances, 0.6, named=named)
    assert list(higher.masks) == list(found.masks)[: len(higher)]


def test_pasting_takes_pixels_from_the_lower_score() -> None:
    masks = rectangles((0, 0, 10, 10), (5, 0, 15, 10))
    found = exclusive(from_masks(0, masks, [0.5, 0.9]), 0.25, named=False)
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.boxes.tolist() == [[5, 0, 15, 10], [0, 0, 5, 10]]


def test_a_named_model_keeps_a_level_once_and_a_one_class_model_all() -> None:
    masks = rectangles((0, 0, 5, 5), (10, 10, 15, 15))
    twice = from_masks(0, masks, [0.5, 0.9], levels=[20, 20])
    assert exclusive(twice, 0.25, named=True).boxes.tolist() == [[10, 10, 15, 15]]
    assert len(exclusive(from_masks(0, masks, [0.5, 0.9]), 0.25, named=False)) == 2


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_suppression_keeps_the_best_of_each_cluster(seed: int) -> None:
    instances = random_instances(seed)
    kept = nms_agnostic(instances, 0.4)
    between = box_iou(kept.boxes, kept.boxes)
    np.fill_diagonal(between, 0)
    assert (between <= 0.4).all()
    for score, box in zip(instances.scores, instances.boxes, strict=True):
        if box.any():  # an empty mask has no box
            assert (kept.scores[box_iou(box[None], kept.boxes)[0] > 0.4] >= score).any()


def test_parts_that_disagree_are_refused() -> None:
    masks = rectangles((0, 0, 5, 5))
    with pytest.raises(DataError, match="2 scores"):
        from_masks(0, masks, [0.5, 0.9])
    one = from_masks(0, masks, [0.5])
    with pytest.raises(DataError, match="size"):
        SliceInstances(0, (5, 5), one.masks, one.scores, one.levels, one.boxes)
    with pytest.raises(DataError, match="finite"):
        from_masks(0, masks, [np.nan])
