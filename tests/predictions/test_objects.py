"""Objects of scattered maps: what the definition says on whole arrays, component by component."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from spineseg.predictions.objects import APART_MM, CORE_ML, CORE_SHARE, separate

# Their squares are exact, so that what is equally near is so in any order of summing.
SPACINGS = [(1.5, 1.5, 1.5), (2.0, 1.25, 1.75), (0.75, 0.75, 2.0), (1.0, 2.5, 0.625)]


def plainly(labels: NDArray[np.uint8], spacing: tuple[float, float, float]) -> tuple[NDArray[np.uint8], list[int]]:
    """``separate`` by one distance transform for each label's depths, and one for what is nearest to each voxel."""
    step = np.maximum(1, np.rint(1.5 / np.array(spacing))).astype(int)
    wide = np.array(spacing) * step
    owners = [int(value) for value in np.unique(labels[labels > 0])]
    objects = np.searchsorted([0, *owners], labels).astype(np.uint8)
    for first, (value, box) in enumerate(
        [(n, box) for n, box in enumerate(ndimage.find_objects(labels), start=1) if box is not None], start=1
    ):
        mask = labels[box] == value
        thin = mask[:: step[0], :: step[1], :: step[2]]
        depth = ndimage.distance_transform_edt(np.pad(thin, 1), wide)[1:-1, 1:-1, 1:-1]
        cores, _ = ndimage.label(thin & (depth >= depth.max() / 2))
        sizes = np.bincount(cores.ravel())[1:]
        least = max(CORE_SHARE * sizes.max(initial=0), CORE_ML * 1000 / wide.prod())
        kept = sorted(
            (float(np.argwhere(cores == n)[:, 2].mean() * wide[2]), n) for n in np.flatnonzero(sizes >= least) + 1
        )
        parts, last, count = np.zeros(thin.shape, int), -np.inf, 0
        for height, n in kept:
            count += height - last >= APART_MM
            last = height
            parts[cores == n] = count
        if count < 2:
            continue
        near = ndimage.distance_transform_edt(parts == 0, wide, return_distances=False, return_indices=True)
        numbers = np.array([0, first, *range(len(owners) + 1, len(owners) + count)])
        cells = tuple(place // n for place, n in zip(np.nonzero(mask), step, strict=True))
        objects[box][mask] = numbers[parts[tuple(near)][cells]]
        owners += [value] * (count - 1)
    return objects, owners


def scattered(seed: int, spacing: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Bodies of two labels, some symmetrical, noise that touches them, and voxels far away."""
    random = np.random.default_rng(seed)
    labels = np.zeros(tuple(int(mm / s) for mm, s in zip((30, 36, 75), spacing, strict=True)), np.uint8)
    for _ in range(int(random.integers(1, 7))):
        low = [int(random.integers(0, n - 4)) for n in labels.shape]
        sides = [int(random.integers(3, 18) / s) + 1 for s in spacing]
        labels[tuple(slice(a, a + b) for a, b in zip(low, sides, strict=True))] = random.choice([3, 7])
    if random.random() < 0.5:
        labels[::-1, :, ::-1][labels > 0] = labels[labels > 0]  # voxels as near to one as to the other
    noise = ndimage.gaussian_filter(random.normal(size=labels.shape), random.choice([0, 0.8]))
    labels[noise > np.quantile(noise, random.uniform(0.8, 1))] = random.choice([3, 7])
    labels[noise < np.quantile(noise, random.uniform(0, 0.3))] = 0
    return labels


@given(st.integers(0, 2**32 - 1), st.sampled_from(SPACINGS))
@settings(max_examples=40, deadline=None)
def test_objects_of_scattered_maps_follow_the_definition(seed: int, spacing: tuple[float, float, float]) -> None:
    labels = scattered(seed, spacing)
    objects, owners = separate(labels, spacing)
    expected, classes = plainly(labels, spacing)
    assert owners.tolist() == classes
    np.testing.assert_array_equal(objects, expected)


@pytest.mark.parametrize("stray", [1, 3000])
def test_stray_voxels_are_of_the_body_that_is_nearest(stray: int) -> None:
    labels = np.zeros((60, 60, 90), np.uint8)
    labels[20:40, 20:40, 10:25] = labels[20:40, 20:40, 60:75] = 9
    random = np.random.default_rng(0)
    labels[tuple(random.integers(0, n, stray) for n in labels.shape)] = 9
    objects, owners = separate(labels, (1.5, 1.5, 1.5))
    assert owners.tolist() == [9, 9]
    heights = np.argwhere(objects == 1)[:, 2], np.argwhere(objects == 2)[:, 2]
    assert heights[0].max() < 45 and heights[1].min() > 40
    assert (objects > 0).sum() == (labels > 0).sum()
