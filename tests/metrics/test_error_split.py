"""The error split (PROTOCOL 6): exact by construction, and what each kind of damage becomes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spineseg.metrics.error_split import LevelError, coherently_shifted, is_mixed, shift, split_errors, spurious
from spineseg.metrics.overlap import confusion
from spineseg.vertebrae import ORDER, level_id

Labels = NDArray[np.uint8]
LEVELS = (20, 21, 22, 23, 24)


def column(levels: tuple[int, ...] = LEVELS) -> Labels:
    """Vertebrae of 8 × 8 × 6 voxels, two voxels apart."""
    labels = np.zeros((10, 10, 8 * len(levels) + 2), np.uint8)
    for n, level in enumerate(levels):
        labels[1:9, 1:9, 8 * n + 2 : 8 * n + 8] = level
    return labels


def split(reference: Labels, prediction: Labels) -> dict[int, LevelError]:
    pairs = confusion(reference, prediction)
    return split_errors(pairs, pairs.reference_ids, pairs.prediction_ids)


def means(errors: dict[int, LevelError]) -> dict[str, float]:
    names = ("naming", "mixed", "outline", "missed")
    return {name: float(np.mean([getattr(error, name) for error in errors.values()])) for name in names}


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@st.composite
def maps(draw: st.DrawFn) -> tuple[Labels, Labels]:
    """A reference, and a prediction with renamed, mixed, deleted, moved and invented parts."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    reference = random.choice([0, 0, 20, 21, 22, 28], (4, 5, 6)).astype(np.uint8)
    if draw(st.booleans()):
        reference = np.sort(reference, axis=2)
    damage = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    names = random.permutation(29).astype(np.uint8) if draw(st.booleans()) else np.arange(29, dtype=np.uint8)
    names[0] = 0
    other = random.choice([0, 20, 21, 23, 25], reference.shape)
    prediction = np.where(random.random(reference.shape) < damage, other, names[reference])
    return reference, np.roll(prediction, draw(st.integers(0, 2)), axis=2).astype(np.uint8)


@given(maps(), st.data())
@settings(max_examples=150, deadline=None)
def test_the_terms_sum_to_what_is_missing(found: tuple[Labels, Labels], data: st.DataObject) -> None:
    pairs = confusion(*found)
    levels, kept = (
        [label for label in labels if data.draw(st.integers(0, 4)) > 0]
        for labels in (pairs.reference_ids, pairs.prediction_ids)
    )
    errors = split_errors(pairs, levels, kept)
    assert list(errors) == levels
    for level, error in errors.items():
        assert error.total == pytest.approx(1 - (pairs.dice_of(level) if level in kept else 0), abs=1e-12)
        assert error.match is None or error.match in kept
        assert min(error.mixed, error.outline, error.missed) >= -1e-12
    if errors:
        assert means(errors)["naming"] >= -1e-12
    matches = [error.match for error in errors.values() if error.match is not None]
    assert len(matches) == len(set(matches))


@given(maps())
@settings(max_examples=60, deadline=None)
def test_each_term_follows_its_definition(found: tuple[Labels, Labels]) -> None:
    reference, prediction = found
    for level, error in split(reference, prediction).items():
        g, named = reference == level, prediction == level
        by_name = dice(g, named)
        matched = prediction == error.match if error.match is not None else np.zeros_like(g)
        best = dice(g, matched)
        assert error.naming == pytest.approx(best - by_name)
        if best < 0.1:
            assert (error.missed, error.mixed, error.outline) == (pytest.approx(1 - best), 0, 0)
            continue
        others = (prediction > 0) & ~matched
        foreign = (reference > 0) & ~g
        mended = (matched | (g & others)) & ~(matched & foreign)
        assert error.mixed == pytest.approx(dice(g, mended) - best)
        assert error.outline == pytest.approx(1 - dice(g, mended))


def test_a_perfect_map_has_no_error() -> None:
    assert all(error.total == 0 and error.match == level for level, error in split(column(), column()).items())


@pytest.mark.parametrize("step", [1, -1, 2])
def test_moved_names_are_naming_alone(step: int) -> None:
    levels = (10, 11, 12, 13, 14)
    labels = column(levels)
    errors = split(labels, np.where(labels > 0, labels + np.uint8(step % 256), 0).astype(np.uint8))
    assert means(errors) == {"naming": 1, "mixed": 0, "outline": 0, "missed": 0}
    shifts = [shift(level, error.match, levels) for level, error in errors.items() if error.match is not None]
    assert shifts == [step] * 5
    assert coherently_shifted(shifts, 5)


def test_a_deleted_level_of_five_is_a_fifth_missed() -> None:
    labels = column()
    errors = split(labels, np.where(labels == 22, 0, labels).astype(np.uint8))
    assert means(errors) == {"naming": 0, "mixed": 0, "outline": 0, "missed": pytest.approx(0.2)}


def test_half_a_vertebra_under_its_neighbours_name_is_mixed() -> None:
    labels = column((20, 21, 22))
    prediction = labels.copy()
    prediction[1:5][labels[1:5] == 21] = 22
    found = means(split(labels, prediction))
    # L2 keeps half (Dice 2/3), L3 has half a vertebra too many (Dice 4/5): (1/3 + 1/5) ÷ 3.
    assert found == {"naming": 0, "mixed": pytest.approx(8 / 45), "outline": 0, "missed": 0}
    pairs = confusion(labels, prediction)
    assert is_mixed(pairs, (20, 21, 22)) and not is_mixed(pairs, (20, 22))


def test_a_thinner_vertebra_is_outline_alone() -> None:
    labels = column()
    prediction = labels.copy()
    prediction[1] = 0
    found = means(split(labels, prediction))
    assert found == {"naming": 0, "mixed": 0, "outline": pytest.approx(1 - 2 * 7 / 15), "missed": 0}


def test_what_the_field_of_view_took_out_is_still_a_vertebra() -> None:
    # L1 is cut and its prediction dropped; half of it lies under L2's name.
    labels = column((20, 21))
    prediction = labels.copy()
    prediction[1:5][labels[1:5] == 20] = 21
    error = split_errors(confusion(labels, prediction), levels=(21,), kept=(21,))[21]
    assert (error.mixed, error.outline) == (pytest.approx(0.2), 0)


def test_spurious_levels_lie_on_no_vertebra_and_are_no_crumbs() -> None:
    labels = column((20, 21, 22))
    prediction = labels.copy()
    prediction[0, 0:5, 0:2] = 26  # ten voxels beside the column
    prediction[1:9, 1:9, 2:4] = 27  # a third of L1: its match keeps two thirds
    pairs = confusion(labels, prediction)
    errors = split_errors(pairs, (20, 21, 22), pairs.prediction_ids)
    assert spurious(pairs, errors, pairs.prediction_ids, 0.05) == {26: 0.5, 27: pytest.approx(6.4)}
    assert spurious(pairs, errors, pairs.prediction_ids, 0.049) == {27: pytest.approx(128 * 0.049)}
    assert spurious(pairs, errors, (20, 21, 22), 0.05) == {}
    # Matched, but with a Dice below a tenth.
    crumb = np.zeros_like(labels)
    crumb[1, 1:9, 2:4] = 20
    pairs = confusion(labels, crumb)
    errors = split_errors(pairs, (20, 21, 22), pairs.prediction_ids)
    assert errors[20].match == 20 and errors[20].missed > 0.9
    assert spurious(pairs, errors, (20,), 0.1) == {20: pytest.approx(1.6)}


def test_shifts_count_the_subjects_own_levels() -> None:
    t11, t12, t13, l1, l5, l6, s1 = (level_id(name) for name in ("T11", "T12", "T13", "L1", "L5", "L6", "sacrum"))
    assert shift(t12, l1, [t12, l1]) == 1
    # With a T13 of their own, a vertebra called L1 that is T12 has moved by two.
    assert shift(t12, l1, [t12, t13, l1]) == 2
    assert shift(l5, s1, [l5]) == 1 and shift(l6, s1, [l5, l6]) == 1 and shift(l5, s1, [l5, l6]) == 2
    # An invented T13 is one step from either neighbour.
    assert (shift(t12, t13, [t12]), shift(l1, t13, [l1]), shift(t11, t13, [t11])) == (1, -1, 2)


@given(st.sampled_from(ORDER), st.sampled_from(ORDER), st.sets(st.sampled_from(ORDER)))
@settings(deadline=None)
def test_the_way_back_is_as_long(first: int, second: int, levels: set[int]) -> None:
    levels = levels | {first, second}
    assert shift(first, second, levels) == -shift(second, first, levels)
    assert shift(first, first, levels) == 0


def test_a_coherent_shift_is_shared_by_four_fifths_of_all_levels() -> None:
    for shifts, levels in itertools.product(([1] * 4, [1] * 4 + [2], [-1] * 4 + [0]), (5,)):
        assert coherently_shifted(shifts, levels)
    assert not coherently_shifted([1] * 4, 6)
    assert not coherently_shifted([0] * 5, 5)
    assert not coherently_shifted([], 0)
