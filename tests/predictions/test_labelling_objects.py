"""From objects to names: what is one vertebra of a label map, and who takes part in the labelling."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from spineseg.predictions.labelling import label_sequence, object_centres_mm
from spineseg.predictions.naming import most_probable, name_objects
from spineseg.predictions.objects import separate
from spineseg.vertebrae import level_id

T10, T11, T12, L1, L2 = (level_id(name) for name in ("T10", "T11", "T12", "L1", "L2"))
SPACING = (2.0, 1.5, 1.0)
AFFINE = np.diag([*SPACING, 1.0])
PITCH_MM = 32


def spine(count: int) -> NDArray[np.uint8]:
    """Vertebrae numbered from the head, each a body with a thin arch behind that reaches a level down."""
    labels = np.zeros((30, 60, PITCH_MM * count + 10), np.uint8)
    for number in range(1, count + 1):
        top = labels.shape[2] - 5 - PITCH_MM * (number - 1)
        labels[6:24, 30:54, top - 26 : top] = number
        labels[14:16, 10:30, top - 32 : top - 14] = number
    return labels


def test_a_vertebra_is_one_object_however_many_parts_it_has() -> None:
    labels = spine(4)
    labels[14:16, 28:30][labels[14:16, 28:30] == 2] = 0  # the arch of the second comes off
    labels[0, 0, 0] = 3  # a crumb far away
    objects, classes = separate(labels, SPACING)
    np.testing.assert_array_equal(objects, labels)
    assert classes.tolist() == [1, 2, 3, 4]
    objects, classes = separate(labels * 7, SPACING)
    np.testing.assert_array_equal(objects, labels)
    assert classes.tolist() == [7, 14, 21, 28]


def test_two_vertebrae_of_one_name_are_two_objects() -> None:
    truth = spine(5)
    labels = truth.copy()
    labels[labels == 3] = 2  # neighbours of one name, whose arches touch the body below
    labels[labels == 5] = 1  # and two that are far apart
    objects, classes = separate(labels, SPACING)
    assert sorted(classes.tolist()) == [1, 1, 2, 2, 4]
    for number in range(1, 6):
        own = truth == number
        values, counts = np.unique(objects[own], return_counts=True)
        assert values[0] > 0 and counts.max() > 0.95 * own.sum()
        assert classes[values[counts.argmax()] - 1] == np.bincount(labels[own]).argmax()
    assert set(np.unique(objects)) == set(range(6))
    whole, classes = separate(labels, SPACING, whole=(1, 2))
    assert classes.tolist() == [1, 2, 4] and int(whole.max()) == 3


def test_halves_at_one_height_are_one_object() -> None:
    labels = np.zeros((40, 30, 30), np.uint8)
    labels[2:12, 5:20, 5:20] = labels[26:36, 5:20, 7:22] = 1  # as the lateral masses of C1
    assert separate(labels, SPACING)[1].tolist() == [1]
    assert separate(np.zeros((3, 4, 5), np.uint8), SPACING)[1].tolist() == []


def sharp(levels: list[int], classes: tuple[int, ...]) -> NDArray[np.float64]:
    return np.array([[float(level == c) for c in classes] for level in levels])


def test_names_are_those_of_the_sequence_and_crumbs_follow() -> None:
    classes = (T10, T11, T12, L1, L2)
    objects = spine(5)
    objects[0, :3, 40:42], objects[29, :3, 160:162] = 6, 7
    # The third is called as the one below it; a crumb is called as the second, another as nobody is.
    named = [T10, T11, L1, L1, L2, T11, T12]
    belief = sharp(named, classes)
    found = name_objects(objects, AFFINE, belief, classes)
    assert found.levels.tolist() == [T10, T11, T12, L1, L2, T11, T12]
    expected = label_sequence(belief[:5], object_centres_mm(objects, AFFINE)[:5], classes)
    assert found.confidences[:5] == pytest.approx(expected.confidences)
    assert most_probable(belief, classes).tolist() == named
    # One called as the third and the fourth goes with the nearer, the third, which was renamed.
    objects[objects == 7] = 0
    objects[29, :3, 90:92] = 7
    belief = sharp([T10, T11, L1, L1, L2, T11, L1], classes)
    assert name_objects(objects, AFFINE, belief, classes).levels.tolist() == [T10, T11, T12, L1, L2, T11, T12]


def test_an_object_without_a_voxel_keeps_its_name() -> None:
    classes = (T12, L1)
    objects = spine(1)
    found = name_objects(objects, AFFINE, sharp([T12, L1], classes), classes)
    assert found.levels.tolist() == [T12, L1]
    nothing = name_objects(np.zeros((3, 4, 5), np.uint8), AFFINE, np.zeros((0, 2)), classes)
    assert nothing.levels.tolist() == []


def test_separate_is_steady_under_smooth_borders() -> None:
    """A network's borders are round, and its islands small."""
    truth = spine(4)
    soft = np.stack([ndimage.gaussian_filter((truth == n).astype(np.float32), 1.5) for n in range(5)])
    labels = soft.argmax(axis=0).astype(np.uint8)
    labels[np.random.default_rng(0).random(labels.shape) < 2e-4] = 2
    _, classes = separate(labels, SPACING)
    assert classes.tolist() == [1, 2, 3, 4]
