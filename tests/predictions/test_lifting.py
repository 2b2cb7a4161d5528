"""Slicing and lifting are inverses."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spineseg.errors import DataError
from spineseg.geometry import canonical
from spineseg.predictions.instances import SliceInstances, from_masks
from spineseg.predictions.lifting import lift
from spineseg.predictions.masks import decode
from spineseg.predictions.slicing import slice_labels
from spineseg.volumes import read_volume

REAL_MASKS = [
    "abdomen_3mm/vertebrae.nii.gz",
    "chest_1p5mm/vertebrae.nii.gz",
    "lumbar_crop/vertebrae.nii.gz",
    "verse_masks/verse010_vertebrae.nii.gz",
    "verse_masks/gl003_vertebrae.nii.gz",
]


def same_up_to_renumbering(first: NDArray[np.integer], second: NDArray[np.integer]) -> bool:
    pairs = np.flatnonzero(np.bincount((first.astype(np.int32) * 1000 + second).ravel()))
    return len(set(pairs // 1000)) == len(set(pairs % 1000)) == len(pairs) and pairs[0] == 0


def unnamed(slices: list[SliceInstances]) -> list[SliceInstances]:
    """The same instances without levels and in another order: nothing but shape may link them."""
    random = np.random.default_rng(0)
    shuffled = (s.take(random.permutation(len(s))) for s in slices)
    return [SliceInstances(s.index, s.size, s.masks, s.scores, 0 * s.levels, s.boxes) for s in shuffled]


@pytest.mark.parametrize("name", REAL_MASKS)
def test_lifting_undoes_slicing_on_real_masks(real_ct: Path, name: str) -> None:
    labels = canonical(read_volume(real_ct / name)).array.astype(np.uint8)
    lifted = lift(unnamed(slice_labels(labels)), labels.shape)
    assert same_up_to_renumbering(labels, lifted.labels)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_lifting_undoes_slicing_on_a_column_of_blobs(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.zeros((24, 20, 60), np.uint8)
    grid = np.indices(labels.shape)
    for number, z in enumerate(random.permutation([6, 18, 30, 42, 54]), start=1):
        centre = np.array([random.integers(6, 18), random.integers(6, 14), z])
        radius = np.array([random.integers(1, 9), random.integers(1, 7), random.integers(1, 6)])
        body = (((grid - centre[:, None, None, None]) / radius[:, None, None, None]) ** 2).sum(0) <= 1
        # A second part behind the body, in the same slices: one instance of two parts.
        behind = np.roll(body, int(random.integers(-6, 7)), axis=1)
        labels[body | behind] = number
    lifted = lift(unnamed(slice_labels(labels)), labels.shape)
    assert same_up_to_renumbering(labels, lifted.labels)
    heights = [np.nonzero(lifted.labels == n)[2].mean() for n in range(1, int(lifted.labels.max()) + 1)]
    assert heights == sorted(heights, reverse=True)


def test_slices_hold_exactly_the_label_map() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, (5, 6, 7)).astype(np.uint8)
    probability = random.integers(0, 256, labels.shape).astype(np.uint8)
    slices = slice_labels(labels, probability=probability)
    assert [s.index for s in slices] == list(range(5))
    for s in slices:
        dense = np.zeros(s.size, np.uint8)
        for rle, level, score in zip(s.masks, s.levels, s.scores, strict=True):
            dense[decode(rle)] = level
            assert score == pytest.approx(probability[s.index][labels[s.index] == level].mean() / 255, abs=1e-6)
        np.testing.assert_array_equal(dense, labels[s.index])
    chosen = slice_labels(labels, indices=[4, 1])
    assert [s.index for s in chosen] == [4, 1]
    assert chosen[1].masks == slices[1].masks


def column(*masks: list[tuple[int, int]]) -> list[SliceInstances]:
    """Slices of an (8, 30) grid with one instance for each (z0, z1) given."""
    slices = []
    for index, spans in enumerate(masks):
        dense = np.zeros((len(spans), 8, 30), bool)
        for mask, (z0, z1) in zip(dense, spans, strict=True):
            mask[:, z0:z1] = True
        slices.append(from_masks(index, dense, np.linspace(0.9, 0.8, len(spans))))
    return slices


def test_one_detection_over_two_vertebrae_does_not_weld_them() -> None:
    apart = [(0, 10), (12, 22)]
    lifted = lift(column(apart, apart, [(0, 22)], apart, apart), (5, 8, 30))
    assert lifted.labels[4, 0, 0] != lifted.labels[4, 0, 15]


def test_a_gap_splits_unless_it_may_be_bridged() -> None:
    slices = column([(0, 10)], [], [(0, 10)])
    assert lift(slices, (3, 8, 30)).labels.max() == 2
    assert lift(slices, (3, 8, 30), gap=1).labels.max() == 1


def test_scores_and_distributions_are_weighted_by_area() -> None:
    small, large = np.zeros((1, 4, 4), bool), np.ones((1, 4, 4), bool)
    small[0, 0] = True
    classes = (19, 20)
    slices = [
        from_masks(0, small, [0.4], probabilities=np.array([[1, 0]], np.float32), classes=classes),
        from_masks(1, large, [0.9], probabilities=np.array([[0, 1]], np.float32), classes=classes),
    ]
    lifted = lift(slices, (2, 4, 4))
    assert lifted.scores == pytest.approx([(4 * 0.4 + 16 * 0.9) / 20])
    assert lifted.distributions == pytest.approx(np.array([[1.6, 14.4]]) / 16, abs=1e-6)
    assert lifted.members == (((0, 0), (1, 0)),)
    named = lift([from_masks(0, large, [1.0], levels=[20])], (1, 4, 4))
    assert (named.classes, named.distributions.tolist()) == ((20,), [[1.0]])


def test_nothing_lifts_to_nothing_and_misfits_are_refused() -> None:
    assert lift([], (3, 4, 5)).labels.shape == (3, 4, 5)
    slices = column([(0, 5)])
    with pytest.raises(DataError, match="twice"):
        lift(slices + slices, (3, 8, 30))
    with pytest.raises(DataError, match="does not fit"):
        lift(slices, (3, 9, 30))


def test_a_full_size_scan_lifts_within_five_seconds() -> None:
    labels = np.zeros((200, 512, 512), np.uint8)
    for level in range(1, 18):
        labels[40:160, 200 + level : 280 + level, 28 * level : 28 * level + 24] = level
    start = time.perf_counter()
    lifted = lift(unnamed(slice_labels(labels)), labels.shape)
    assert same_up_to_renumbering(labels[::8, ::8, ::4], lifted.labels[::8, ::8, ::4])
    assert time.perf_counter() - start < 5
