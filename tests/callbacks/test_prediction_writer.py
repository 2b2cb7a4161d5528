"""What is said of each level beside the label map: where its body is, and how sure the model is."""

import numpy as np
import pytest

from spineseg.callbacks.prediction_writer import confidences, describe
from spineseg.metrics.localisation import body_centre_mm

AFFINE = np.array([[0.5, 0, 0, -30], [0, 0.5, 0, 12], [0, 0, 2.0, 5], [0, 0, 0, 1]])


def objects() -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    found = np.zeros((40, 60, 30), np.uint16)
    found[10:30, 8:28, 20:28] = 1
    found[10:30, 8:28, 4:10] = 2
    found[15:25, 30:50, 4:6] = 3
    return found


def test_a_level_of_two_objects_is_one_with_their_weighted_score() -> None:
    numbers = objects()
    values = np.array([0, 19, 20, 20], np.uint8)
    labels = values[numbers]
    found = describe(labels, AFFINE, confidences(values, numbers, np.array([0.9, 0.8, 0.2])), named=True)
    assert set(found) == {"T12", "L1"}
    assert found["T12"]["confidence"] == pytest.approx(0.9)
    sizes = np.bincount(numbers.ravel())
    assert found["L1"]["confidence"] == pytest.approx(
        (0.8 * sizes[2] + 0.2 * sizes[3]) / (sizes[2] + sizes[3]), abs=1e-4
    )
    for name, level in (("T12", 19), ("L1", 20)):
        exact = body_centre_mm(labels == level, AFFINE, level=level)
        assert found[name]["body_centre_mm"] == pytest.approx(exact, abs=0.5)


def test_unnamed_vertebrae_go_by_number_and_crumbs_have_a_centre() -> None:
    numbers = objects()
    numbers[39, 59, 29] = 4
    found = describe(numbers, AFFINE, confidences(np.arange(5), numbers, np.array([0.9, 0.8, 0.2, 0.1])), named=False)
    assert list(found) == ["1", "2", "3", "4"]
    assert found["4"] == {"body_centre_mm": [-10.5, 41.5, 63.0], "confidence": 0.1}
