"""Run-length masks against dense arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from spineseg.predictions.masks import (
    areas_px,
    box_iou,
    decode,
    decode_box,
    encode,
    encode_crop,
    encode_stack,
    hulls,
    mask_iou,
)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_a_crop_is_encoded_as_the_whole_slice_would_be(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = tuple(int(n) for n in random.integers(1, 9, 2))
    y0, z0 = (int(random.integers(0, n)) for n in size)
    y1, z1 = int(random.integers(y0 + 1, size[0] + 1)), int(random.integers(z0 + 1, size[1] + 1))
    whole = np.zeros(size, bool)
    whole[y0:y1, z0:z1] = random.random((y1 - y0, z1 - z0)) < random.choice([0, 0.3, 0.8, 1])
    rle = encode_crop(whole[y0:y1, z0:z1], (y0, z0), (size[0], size[1]))
    assert rle == encode(whole)
    np.testing.assert_array_equal(decode(rle), whole)
    np.testing.assert_array_equal(decode_box(rle, (y0, z0, y1, z1)), whole[y0:y1, z0:z1])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_areas_hulls_and_overlaps_equal_those_of_dense_masks(seed: int) -> None:
    random = np.random.default_rng(seed)
    first = random.random((3, 7, 9)) < 0.3
    second = random.random((2, 7, 9)) < 0.5
    a, b = encode_stack(first), encode_stack(second)
    common = np.einsum("iyz,jyz->ij", first.astype(int), second.astype(int))
    union = first.sum((1, 2))[:, None] + second.sum((1, 2)) - common
    np.testing.assert_array_equal(areas_px(a), first.sum((1, 2)))
    np.testing.assert_allclose(mask_iou(a, b), common / union)
    for mask, hull in zip(first, hulls(a), strict=True):
        if mask.any():
            y, z = np.nonzero(mask)
            assert hull.tolist() == [y.min(), z.min(), y.max() + 1, z.max() + 1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hundreds_of_masks_are_measured_at_once() -> None:
    dense = np.random.default_rng(0).random((700, 9, 7)) < 0.4
    masks = encode_stack(dense)
    pixels = dense.reshape(700, -1).astype(int)
    np.testing.assert_array_equal(areas_px(masks), pixels.sum(axis=1))
    common, area = pixels @ pixels.T, pixels.sum(axis=1)
    np.testing.assert_allclose(mask_iou(masks, masks), common / (area[:, None] + area - common))
    assert hulls(masks).shape == (700, 4)


def test_long_runs_are_decoded_as_pycocotools_does() -> None:
    random = np.random.default_rng(0)
    for share in (0.0001, 0.01, 0.5, 0.99):
        whole = random.random((700, 900)) < share
        whole[100:600, 200:300] = True
        rle = encode(whole)
        np.testing.assert_array_equal(decode(rle), coco.decode(rle).astype(bool))


def test_rows_are_y_and_runs_go_down_the_columns() -> None:
    mask = np.zeros((3, 5), bool)
    mask[1, 2] = True
    rle = encode(mask)
    assert rle["size"] == [3, 5]
    assert rle["counts"] == "717"  # 7 pixels down the columns, one set, 7 more
    assert hulls([rle]).tolist() == [[1, 2, 2, 3]]


def test_nothing_meets_nothing() -> None:
    assert encode_stack(np.zeros((0, 4, 4), bool)) == ()
    assert mask_iou([], [encode(np.ones((2, 2), bool))]).shape == (0, 1)
    assert areas_px([]).shape == (0,)
    assert hulls([]).shape == (0, 4)
    assert box_iou(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0.0]]
