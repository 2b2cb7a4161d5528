"""Masks as one polygon each gives them."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spineseg.data.targets import outlined


def test_hole_is_filled_and_parts_are_joined_at_their_nearest_points() -> None:
    ids = np.zeros((60, 60), np.uint16)
    ids[5:25, 5:25] = 3
    ids[10:15, 10:15] = 0
    ids[30:33, 5:8] = 3
    ids[40:55, 30:50] = 7
    expected = ids.copy()
    expected[10:15, 10:15] = 3
    found = outlined(ids)
    bridge = (found == 3) & (expected != 3)
    assert bridge.sum() == 5, "rows 25 to 29, one pixel wide"
    assert (np.flatnonzero(bridge.any(axis=1)) == np.arange(25, 30)).all()
    assert np.array_equal(found == 7, ids == 7)


def test_polygon_is_what_opencv_fills_of_a_yolo_converters_points() -> None:
    converter = pytest.importorskip("ultralytics.data.converter")
    rng = np.random.default_rng(0)
    for _ in range(20):
        ids = np.zeros((64, 64), np.uint8)
        for _ in range(3):
            y, z, height, width = rng.integers((0, 0, 4, 4), (44, 44, 20, 20))
            ids[y : y + height, z : z + width] = 1
        contours, _ = cv2.findContours(ids, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        parts = [contour.ravel().tolist() for contour in contours]
        points = np.concatenate(converter.merge_multi_segment(parts)) if len(parts) > 1 else contours[0][:, 0]
        theirs = cv2.fillPoly(np.zeros_like(ids), [points.astype(np.int32)], 1)
        assert np.array_equal(outlined(ids), theirs)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 9), st.integers(1, 9)), max_size=1))
def test_one_part_without_a_hole_stays_as_it_is(boxes: list[tuple[int, int, int, int]]) -> None:
    ids = np.zeros((40, 40), np.uint8)
    for y, z, height, width in boxes:
        ids[y : y + height, z : z + width] = 1
        ids[y, z : z + 2 * width] = 1
    assert np.array_equal(outlined(ids), ids)


def test_smaller_instance_in_a_hole_stays_on_top() -> None:
    ids = np.full((20, 20), 1, np.uint8)
    ids[5:12, 5:12] = 2
    assert np.array_equal(outlined(ids), ids)
