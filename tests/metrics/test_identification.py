"""Identification (PROTOCOL 1): distances, ties, crumbs, and when a case is all right."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spineseg.metrics.identification import Identification, all_right, anchored, crumbs, identified
from spineseg.vertebrae import level_id

# L1 to L4, 30 mm apart.
REFERENCE = {20 + n: np.array([0.0, 0.0, -30.0 * n]) for n in range(4)}


def moved(level: int, mm: float, to: int | None = None) -> dict[int, bool]:
    """What is identified when one level's prediction lies so far caudal of the reference `to`."""
    predicted = dict(REFERENCE)
    predicted[level] = REFERENCE[to or level] - [0, 0, mm]
    return identified(REFERENCE, predicted, sorted(REFERENCE))


def test_a_centre_must_lie_less_than_20_mm_off_in_any_direction() -> None:
    sparse = {20: np.zeros(3)}
    for direction in np.eye(3):
        assert identified(sparse, {20: 19.999 * direction}, [20]) == {20: True}
        assert identified(sparse, {20: 20 * direction}, [20]) == {20: False}


def test_another_reference_may_not_be_as_near() -> None:
    assert moved(21, 14.9) == dict.fromkeys(REFERENCE, True)
    # Halfway between two: 15 mm from either.
    assert moved(21, 15.0) == {20: True, 21: False, 22: True, 23: True}
    assert moved(21, 15.1)[21] is False


def test_a_tie_stays_one_when_the_distances_are_rounded() -> None:
    # 0.1 + 0.2 and 0.3 differ in the last bit.
    references = {20: (0.0, 0.0, 0.6), 21: (0.0, 0.0, 0.0)}
    assert identified(references, {20: (0.0, 0.0, 0.1 + 0.2)}, [20]) == {20: False}


def test_ignored_references_can_be_nearer_but_are_not_counted() -> None:
    predicted = {21: REFERENCE[20] - [0, 0, 14]}
    assert identified(REFERENCE, predicted, [21, 22]) == {21: False, 22: False}
    without = {level: centre for level, centre in REFERENCE.items() if level != 20}
    assert identified(without, {21: REFERENCE[21] + [0, 0, 16]}, [21]) == {21: True}
    assert identified(REFERENCE, {21: REFERENCE[21] + [0, 0, 16]}, [21]) == {21: False}


def test_two_names_on_one_vertebra_make_one_identification() -> None:
    assert moved(22, 1.0, to=21) == {20: True, 21: True, 22: False, 23: True}


@given(st.lists(st.floats(0.001, 80), min_size=1, max_size=9))
@settings(deadline=None)
def test_crumbs_are_below_half_a_millilitre_or_a_twentieth_of_the_median(volumes: list[float]) -> None:
    found = crumbs(dict(enumerate(volumes)))
    least = max(0.5, 0.05 * float(np.median(volumes)))
    assert found == {n for n, volume in enumerate(volumes) if volume < least}


def test_a_crumb_is_strictly_smaller() -> None:
    assert crumbs({1: 0.5, 2: 0.5}) == frozenset()
    assert crumbs({1: 40.0, 2: 40.0, 3: 2.0}) == frozenset()
    assert crumbs({1: 40.0, 2: 40.0, 3: 1.99}) == {3}
    assert crumbs({}) == frozenset()


def test_rates_of_nothing_are_undefined() -> None:
    nothing = Identification(0, 0, 0)
    assert all(math.isnan(value) for value in (nothing.id, nothing.id_precision, nothing.id_f1))
    invented = Identification(identified=0, levels=0, predicted=3)
    assert math.isnan(invented.id)
    assert (invented.id_precision, invented.id_f1) == (0, 0)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
@settings(deadline=None)
def test_f1_is_the_harmonic_mean(right: int, missed: int, extra: int) -> None:
    counts = Identification(right, right + missed, right + extra)
    if right:
        assert counts.id_f1 == pytest.approx(2 / (1 / counts.id + 1 / counts.id_precision))


def test_all_right_needs_every_level_and_no_spurious_one() -> None:
    assert all_right({20: True, 21: True}, spurious=[], small=[])
    assert not all_right({20: True, 21: False}, spurious=[], small=[])
    assert not all_right({20: True}, spurious=[23], small=[])
    assert all_right({20: True}, spurious=[23], small=[23])


def test_what_anchors_a_scan() -> None:
    def ids(*names: str) -> list[int]:
        return [level_id(name) for name in names]

    assert anchored(ids("C2", "C3"), cut=[]) and anchored(ids("C2", "C3"), cut=ids("C2"))
    assert anchored(ids("L5", "sacrum"), cut=ids("sacrum"))
    assert anchored(ids("T12", "L1"), cut=[]) and anchored(ids("T13", "L1"), cut=[])
    assert not anchored(ids("T12", "L1"), cut=ids("L1"))
    assert not anchored(ids("T3", "T4", "T5", "T12"), cut=[])
    assert not anchored([], cut=[])
