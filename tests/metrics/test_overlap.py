"""Confusion and Dice against direct computation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spineseg.metrics.overlap import confusion, dice


def maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    reference = random.choice([0, 0, 3, 20, 28], (5, 6, 7)).astype(np.uint8)
    prediction = np.where(random.random((5, 6, 7)) < 0.5, reference, random.choice([0, 20, 1000], (5, 6, 7)))
    return reference, prediction.astype(np.uint16)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_every_pair_equals_the_formula(seed: int) -> None:
    reference, prediction = maps(seed)
    found = confusion(reference, prediction)
    matrix = found.dice_matrix()
    for r, c in itertools.product(found.reference_ids, found.prediction_ids):
        a, b = reference == r, prediction == c
        value = matrix[found.reference_ids.index(r), found.prediction_ids.index(c)]
        assert value == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    for label in (3, 20, 1000):
        a, b = reference == label, prediction == label
        expected = 2 * (a & b).sum() / (a.sum() + b.sum()) if a.any() or b.any() else math.nan
        assert found.dice_of(label) == pytest.approx(expected, nan_ok=True)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_the_union_leaves_void_voxels_out_on_both_sides(seed: int) -> None:
    reference, prediction = maps(seed)
    valid = reference != 28
    a = np.isin(reference, (3, 20)) & valid
    b = np.isin(prediction, (20, 1000)) & valid
    found = confusion(reference, prediction).dice_union((3, 20), (20, 1000), void=(28,))
    assert found == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), nan_ok=True)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_matching_is_the_best_of_all(seed: int) -> None:
    found = confusion(*maps(seed))
    matrix = found.dice_matrix()
    r, c = matrix.shape
    best = max(
        sum(matrix[i, j] for i, j in enumerate(columns) if j < c) for columns in itertools.permutations(range(c + r), r)
    )
    match = found.matching()
    total = sum(matrix[found.reference_ids.index(a), found.prediction_ids.index(b)] for a, b in match.items())
    assert total == pytest.approx(best)
    assert len(set(match.values())) == len(match)


def test_background_around_the_labels_is_counted_too() -> None:
    reference, prediction = np.zeros((9, 8, 7), np.uint8), np.zeros((9, 8, 7), np.uint8)
    reference[2:4, 3:5, 1:3], prediction[3:6, 3:5, 1:3] = 20, 21
    found = confusion(reference, prediction)
    assert found.voxels.tolist() == [[9 * 8 * 7 - 16, 8], [4, 4]]


def test_empty_maps() -> None:
    nothing = confusion(np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8))
    assert (nothing.reference_ids, nothing.prediction_ids, nothing.matching()) == ((), (), {})
    assert math.isnan(nothing.dice_of(20))
    assert math.isnan(dice(0, 0, 0))
    with pytest.raises(ValueError, match="shapes"):
        confusion(np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int))
