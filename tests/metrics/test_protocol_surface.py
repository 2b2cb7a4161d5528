"""HD95 with other tools' names, against the tools themselves."""

import math

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from spineseg.metrics.protocol_surface import border_voxels, image_ends, monai_hd95, simpleitk_hd95

Mask = NDArray[np.bool_]
SHAPE = (11, 13, 9)
SPACINGS = ((1.0, 1.0, 1.0), (0.7, 0.7, 2.5), (3.0, 0.9, 1.1))


def blob(random: np.random.Generator, share: float) -> Mask:
    """A smooth random shape, or several, that may meet the volume's border."""
    field = ndimage.gaussian_filter(random.normal(size=SHAPE), 1.3)
    return np.asarray(field > np.quantile(field, 1 - share))


def by_simpleitk(a: Mask, b: Mask, spacing: tuple[float, float, float]) -> float:
    """The notebook's distances of both contours, and their percentile."""
    images = []
    for mask in (a, b):
        image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        images.append(image)
    maps = [
        SimpleITK.Abs(SimpleITK.SignedMaurerDistanceMap(i, squaredDistance=False, useImageSpacing=True)) for i in images
    ]
    contours = [SimpleITK.GetArrayFromImage(SimpleITK.LabelContour(image)) > 0 for image in images]
    distances = [SimpleITK.GetArrayFromImage(maps[1 - n])[contours[n]] for n in (0, 1)]
    return float(np.percentile(np.concatenate(distances), 95))


@pytest.mark.parametrize("spacing", SPACINGS)
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_simpleitks_distances(spacing: tuple[float, float, float], seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = blob(random, random.uniform(0.02, 0.5)), blob(random, random.uniform(0.02, 0.5))
    whole = ((True, True),) * 3
    assert simpleitk_hd95(a, b, spacing, whole) == pytest.approx(by_simpleitk(a, b, spacing), abs=1e-4)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_monais_distances(spacing: tuple[float, float, float]) -> None:
    torch = pytest.importorskip("torch")
    from monai.metrics import compute_hausdorff_distance

    for seed in range(15):
        random = np.random.default_rng(seed)
        a, b = blob(random, random.uniform(0.02, 0.5)), blob(random, random.uniform(0.02, 0.5))
        tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (a, b)]
        theirs = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=list(spacing))
        assert monai_hd95(b, a, spacing) == pytest.approx(float(theirs), abs=1e-4)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_borders_are_what_erosion_takes(seed: int) -> None:
    mask = blob(np.random.default_rng(seed), 0.4)
    for corners, structure in ((False, None), (True, np.ones((3, 3, 3), bool))):
        for outside in (False, True):
            expected = mask & ~ndimage.binary_erosion(mask, structure, border_value=int(outside))
            found = border_voxels(mask, ((outside, outside),) * 3, corners=corners)
            np.testing.assert_array_equal(found, np.argwhere(expected))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_crop_gives_what_the_volume_gives(seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = blob(random, 0.1), blob(random, 0.1)
    (box,) = ndimage.find_objects((a | b).astype(np.uint8))
    whole = ((True, True),) * 3
    assert monai_hd95(a[box], b[box], SPACINGS[1]) == monai_hd95(a, b, SPACINGS[1])
    cropped = simpleitk_hd95(a[box], b[box], SPACINGS[1], image_ends(box, SHAPE))
    assert cropped == simpleitk_hd95(a, b, SPACINGS[1], whole)


def test_an_empty_mask_has_no_distance_and_equal_ones_none() -> None:
    mask, nothing = blob(np.random.default_rng(0), 0.2), np.zeros(SHAPE, bool)
    for hd95 in (monai_hd95, simpleitk_hd95):
        assert math.isnan(hd95(mask, nothing, SPACINGS[0])) and math.isnan(hd95(nothing, mask, SPACINGS[0]))
        assert hd95(mask, mask, SPACINGS[0]) == 0
    assert math.isnan(simpleitk_hd95(np.ones(SHAPE, bool), mask, SPACINGS[0], ((True, True),) * 3))


def test_they_differ_from_each_other() -> None:
    # A spur on one mask: the pooled percentile does not see it, MONAI's directed one does.
    a = np.zeros((40, 14, 14), bool)
    a[2:12, 2:12, 2:12] = True
    b = a.copy()
    b[12:38, 6, 6] = True
    assert monai_hd95(a, b, (1.0, 1.0, 1.0)) > 2 * simpleitk_hd95(a, b, (1.0, 1.0, 1.0))
