"""What the field of view cuts off (PROTOCOL 7), on a column of boxes."""

import numpy as np
import pytest

from spineseg.geometry import Volume
from spineseg.metrics.edges import EdgeDecision, EdgePolicy, decide, labels_at_faces, within
from spineseg.metrics.localisation import body_centre_mm
from spineseg.metrics.overlap import confusion

SHAPE = (12, 14, 60)
POLICIES: tuple[EdgePolicy, ...] = ("ignore", "crop")
AFFINE = np.diag([2.0, 1.0, 1.0, 1.0])


def column(spans: dict[int, tuple[int, int]]) -> Volume:
    labels = np.zeros(SHAPE, np.uint16)
    for label, (z0, z1) in spans.items():
        labels[3:9, 4:10, z0:z1] = label
    return Volume(labels, AFFINE)


# T12 touches the upper face, L3 the lower one.
REFERENCE = column({19: (50, 60), 20: (36, 46), 21: (22, 32), 22: (0, 12)})


def decided(prediction: Volume, policy: EdgePolicy, cut: tuple[int, ...] = (19, 22)) -> EdgeDecision:
    return decide(REFERENCE, prediction, confusion(REFERENCE.array, prediction.array), cut, policy, named=True)


def test_labels_at_the_faces_are_cut() -> None:
    assert labels_at_faces(REFERENCE.array) == {19, 22}


def test_ignore_drops_what_the_matching_gives_to_cut_levels_whatever_its_name() -> None:
    # Names shifted by one: the prediction of the cut T12 is called L1.
    shifted = column({20: (50, 60), 21: (36, 46), 22: (22, 32)})
    found = decided(shifted, "ignore")
    assert (found.levels, found.ignored) == ((20, 21), (19, 22))
    assert (found.kept, found.dropped) == ((21, 22), (20,))


def test_ignore_drops_unmatched_predictions_at_a_face_or_beyond_the_range_only() -> None:
    prediction = column({19: (50, 60), 20: (36, 46), 21: (22, 32), 22: (2, 12), 23: (33, 36), 24: (0, 2)})
    found = decided(prediction, "ignore")
    # 23 is spurious in the range and counts; of 22 and 24 on the cut L3 one is matched to it, the other touches a face.
    assert (found.kept, found.dropped) == ((20, 21, 23), (19, 22, 24))
    inner = column({20: (36, 46), 21: (22, 32)})
    prediction = column({20: (36, 46), 21: (22, 32), 23: (5, 9), 24: (47, 49)})
    kept = decide(inner, prediction, confusion(inner.array, prediction.array), (), "ignore", named=True)
    assert (kept.dropped, kept.range_mm) == ((23, 24), (22.0, 45.0))


def test_count_keeps_everything() -> None:
    found = decided(column({20: (50, 60), 24: (0, 3)}), "count")
    assert (found.levels, found.ignored, found.kept, found.dropped) == ((19, 20, 21, 22), (), (20, 24), ())


def test_crop_scores_the_slab_of_the_uncut_levels() -> None:
    prediction = column({19: (45, 60), 20: (36, 45), 22: (0, 12)})
    found = decided(prediction, "crop")
    assert found.slab_mm == (22.0, 45.0)
    assert (found.levels, found.ignored) == ((20, 21), (19, 22))
    assert (found.kept, found.dropped) == ((20,), (19, 22))  # 19: one of fifteen planes inside
    inside = within(REFERENCE, (22.0, 45.0)).array
    assert set(np.unique(inside)) == {0, 20, 21}


def test_without_a_reference_there_is_no_range_but_there_are_faces() -> None:
    nothing = column({})
    prediction = column({20: (36, 46), 21: (50, 60)})
    pairs = confusion(nothing.array, prediction.array)
    found = decide(nothing, prediction, pairs, (), "ignore", named=True)
    assert (found.levels, found.kept, found.dropped, found.range_mm) == ((), (20,), (21,), None)
    for policy in ("crop", "count"):
        found = decide(nothing, prediction, pairs, (), policy, named=True)  # type: ignore[arg-type]
        assert (found.kept, found.dropped) == ((20, 21), ())


def test_a_slice_by_itself_has_no_faces_along_its_own_axis() -> None:
    one = np.zeros((1, 20, 30), np.uint8)
    one[0, 5:9, 5:9], one[0, 0:3, 15:19] = 1, 2
    assert labels_at_faces(one) == {2}


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1)])
def test_the_decision_does_not_depend_on_how_the_grid_is_stored(flip: tuple[int, int, int]) -> None:
    turned = np.diag([*flip, 1]).astype(float)
    turned[:3, 3] = [0 if f > 0 else n - 1 for f, n in zip(flip, SHAPE, strict=True)]
    prediction = column({20: (50, 60), 21: (36, 46), 22: (22, 32), 24: (13, 15)})

    def stored(volume: Volume) -> Volume:
        return Volume(np.ascontiguousarray(volume.array[:: flip[0], :: flip[1], :: flip[2]]), volume.affine @ turned)

    reference, found = stored(REFERENCE), stored(prediction)
    there = decide(reference, found, confusion(reference.array, found.array), (19, 22), "ignore", named=True)
    here = decided(prediction, "ignore")
    assert (there.levels, there.kept, there.dropped) == (here.levels, here.kept, here.dropped)
    assert there.range_mm == pytest.approx(here.range_mm)


def test_the_body_is_the_thick_part_and_c1_has_none() -> None:
    vertebra = np.zeros((20, 40, 20), bool)
    vertebra[4:16, 22:36, 4:16] = True  # the body
    vertebra[9:11, 2:22, 9:11] = True  # a thin process behind it
    centre = body_centre_mm(vertebra, np.eye(4))
    assert centre == pytest.approx([9.5, 28.5, 9.5], abs=0.5)
    mass = body_centre_mm(vertebra, np.eye(4), level=1)
    assert mass == pytest.approx(np.argwhere(vertebra).mean(0))


def lateral() -> Volume:
    """L1 between two uncut levels touches a lateral face."""
    volume = column({19: (40, 50), 20: (25, 35), 21: (10, 20)})
    volume.array[:4, 4:10, 25:35] = 20
    return volume


def test_crop_drops_what_finds_a_cut_level_inside_the_slab_and_keeps_one_object_over_all() -> None:
    reference = lateral()
    pairs = confusion(reference.array, reference.array)
    found = decide(reference, reference, pairs, (20,), "crop", named=True)
    assert (found.levels, found.kept, found.dropped) == ((19, 21), (19, 21), (20,))
    # A mask of all vertebrae goes to the largest, which is cut; most of it lies on levels that count.
    mask = reference.with_array((reference.array > 0).astype(np.uint16))
    pairs = confusion(reference.array, mask.array)
    one = {policy: decide(reference, mask, pairs, (20,), policy, named=False) for policy in POLICIES}
    assert (one["crop"].kept, one["crop"].given_to_cut) == ((1,), ())
    assert (one["ignore"].kept, one["ignore"].dropped, one["ignore"].given_to_cut) == ((), (1,), (1,))
