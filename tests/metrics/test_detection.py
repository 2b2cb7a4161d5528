"""Average precision, thresholds and counts by hand-checkable cases and brute force."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spineseg.metrics.detection import (
    DEFAULT_SCORE_THRESHOLD,
    Counts,
    average_precision,
    average_precision_constant,
    average_precision_ranked,
    count_states,
    f1_threshold,
)


def test_perfect_detections_have_precision_one() -> None:
    assert average_precision([0.5, 0.4], [[1, 1], [1, 0]], 2).tolist() == pytest.approx([1.0, 51 / 101])


def test_empty_rules() -> None:
    assert math.isnan(average_precision([], [], 0))
    assert math.isnan(average_precision([0.5], [0], 0))
    assert average_precision([], np.zeros((10, 0)), 3).tolist() == [0.0] * 10
    assert f1_threshold([], [], 3) == (DEFAULT_SCORE_THRESHOLD, 0.0)
    assert f1_threshold([0.9], [0], 3) == (DEFAULT_SCORE_THRESHOLD, 0.0)
    nothing = Counts(true=0, false=0, missed=0, iou_sum=0)
    assert all(math.isnan(x) for x in (nothing.precision, nothing.recall, nothing.f1, nothing.pq))


def test_ignored_detections_do_not_count() -> None:
    plain = average_precision([0.9, 0.7], [1, 0], 2)
    assert average_precision([0.95, 0.9, 0.8, 0.7], [2, 1, 2, 0], 2) == pytest.approx(plain)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), max_size=30), st.integers(0, 5))
@settings(deadline=None)
def test_f1_threshold_is_the_best_of_all_thresholds(detections: list[tuple[int, int]], missed: int) -> None:
    scores, states = [d[0] / 10 for d in detections], [d[1] for d in detections]
    n_reference = states.count(1) + missed
    threshold, best = f1_threshold(scores, states, n_reference)
    values = {}
    for t in {*scores}:
        kept = [state for score, state in zip(scores, states, strict=True) if score >= t]
        values[t] = count_states(kept, n_reference).f1
    if states.count(1):
        assert best == pytest.approx(max(v for v in values.values() if not math.isnan(v)))
        assert threshold == max(t for t, v in values.items() if v == pytest.approx(best))


def test_a_detection_drawn_twice_counts_as_two() -> None:
    states = np.array([1, 0, 1, 1, 0])
    weights = np.array([2, 1, 0, 3, 1])
    repeated = np.repeat(states, weights)
    twice = average_precision_ranked(repeated == 1, repeated == 0, 8)
    assert average_precision_ranked((states == 1) * weights, (states == 0) * weights, 8) == pytest.approx(twice)


def test_constant_scores_give_the_share_of_ranking() -> None:
    states = np.array([1] * 50 + [0] * 50)
    ranked = average_precision(np.arange(100, 0, -1), states, 50).item()
    constant = average_precision_constant(states, 50, seed=0)
    assert ranked == pytest.approx(1.0)
    assert 0.4 < constant < 0.65
    assert constant == average_precision_constant(states, 50, seed=0)


def test_panoptic_quality_is_segmentation_quality_times_f1() -> None:
    counts = count_states([1, 0, 1, 2], 4, iou=[0.8, 0.1, 0.6, 0.9])
    assert counts == Counts(true=2, false=1, missed=2, iou_sum=pytest.approx(1.4))
    assert counts.pq == pytest.approx(0.7 * counts.f1)
