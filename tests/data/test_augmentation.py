"""What a key of the augmentation does, and that it does nothing at its neutral value."""

from dataclasses import fields, replace

import numpy as np
import pytest

from spineseg.data.augmentation import SliceAugmentation

NEUTRAL = SliceAugmentation(mosaic=0, translate=0, scale=0, brightness=0)
IMAGE = np.random.default_rng(0).uniform(0.3, 0.7, (32, 48, 3)).astype(np.float32)


def vary(settings: SliceAugmentation, seed: int) -> np.ndarray:
    return settings.intensity(IMAGE.copy(), np.random.default_rng(seed))


def test_neutral_values_leave_an_image_alone() -> None:
    assert np.array_equal(vary(NEUTRAL, 0), IMAGE)


@pytest.mark.parametrize("key", ["brightness", "contrast", "gamma", "noise", "blur"])
def test_each_intensity_key_varies_the_image_and_stays_in_range(key: str) -> None:
    assert key in {field.name for field in fields(SliceAugmentation)}
    settings = replace(NEUTRAL, **{key: 0.5})
    images = [vary(settings, seed) for seed in range(5)]
    assert all(image.min() >= 0 and image.max() <= 1 and image.shape == IMAGE.shape for image in images)
    assert any(not np.allclose(image, IMAGE, atol=1e-3) for image in images)
    assert not np.array_equal(images[0], images[1]), "every draw is another one"
    assert np.array_equal(images[0], vary(settings, 0)), "the same draw is the same"


def test_blur_keeps_the_mean_and_takes_the_detail() -> None:
    images = [vary(replace(NEUTRAL, blur=2.0), seed) for seed in range(10)]
    assert all(abs(image.mean() - IMAGE.mean()) < 0.01 for image in images)
    assert min(image.std() for image in images) < 0.5 * IMAGE.std()
