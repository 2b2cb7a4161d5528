"""Masks as one polygon each gives them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spineseg.data.targets import outlined


def test_hole_is_filled_and_the_smaller_part_lost() -> None:
    ids = np.zeros((60, 60), np.uint16)
    ids[5:25, 5:25] = 3
    ids[10:15, 10:15] = 0
    ids[30:33, 5:8] = 3
    ids[40:55, 30:50] = 7
    found = outlined(ids)
    assert (found[5:25, 5:25] == 3).all()
    assert (found == 3).sum() == 400
    assert np.array_equal(found == 7, ids == 7)


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
