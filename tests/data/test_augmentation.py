"""What a key of the augmentation does, and that it does nothing at its neutral value."""

from dataclasses import fields, replace

import numpy as np
import pytest

from spineseg.data.augmentation import SliceAugmentation, at_part, shown_part, warp

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


SIZE = (64, 96)
SHAPE = (50, 130)


def ramp() -> tuple[np.ndarray, np.ndarray]:
    """An image whose channels are a hundred times its pixels' y, z and y, and labels in squares of four pixels."""
    y, z = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.stack([100 * y, 100 * z, 100 * y], axis=2).astype(np.int16), (1 + (y // 4 + z // 4) % 7).astype(np.uint8)


@pytest.mark.parametrize("degrees", [0.0, 30.0])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_warped_pixel_shows_what_lies_where_the_matrix_says(degrees: float, flip: float) -> None:
    image, labels = ramp()
    settings = SliceAugmentation(degrees=degrees, flip_front_back=flip, scale=0.5, translate=0.3)
    seen = 0
    for seed in range(40):
        matrix = settings.single(SHAPE, SIZE, np.random.default_rng(seed))
        patch = warp(image, labels, matrix, SIZE, outside=-7.0)
        if patch is None:
            continue
        seen += 1
        rows, columns = np.mgrid[: patch.labels.shape[0], : patch.labels.shape[1]]
        target = np.stack([columns + patch.left, rows + patch.top], axis=-1) - matrix[:2, 2]
        z, y = np.moveaxis(target @ np.linalg.inv(matrix[:2, :2]).T, -1, 0)
        inside = (y > 1) & (y < SHAPE[0] - 2) & (z > 1) & (z < SHAPE[1] - 2)
        # Where the image cuts the slice, a magnified patch's first pixels lie up to a sixth of a pixel before its part.
        inside &= (rows > 0) & (columns > 0)
        found = np.moveaxis(patch.image, -1, 0) / 100
        # Without a rotation the slice may lie half of its own pixel away, all of it the same way.
        for places, drawn in ((y, found[0]), (z, found[1])):
            apart = (drawn - places)[inside]
            assert np.abs(apart).max(initial=0) < (0.05 if degrees else 0.5 + 0.05)
            assert np.ptp(apart) < 0.1 if apart.size else True
        shown = labels[np.rint(found[0]).astype(int).clip(0, 49), np.rint(found[1]).astype(int).clip(0, 129)]
        decided = inside & (np.abs(found % 1 - 0.5) > 0.05).all(0)  # else either neighbour is the nearest
        assert (shown == patch.labels)[decided].all()
        assert patch.top >= 0 and patch.left >= 0
        assert patch.top + patch.labels.shape[0] <= SIZE[0] and patch.left + patch.labels.shape[1] <= SIZE[1]
    assert seen > 30


@pytest.mark.parametrize("degrees", [0.0, 30.0])
def test_the_part_that_shows_is_enough_to_read(degrees: float) -> None:
    image, labels = ramp()
    settings = SliceAugmentation(degrees=degrees, flip_front_back=0.5, scale=0.5, translate=0.5)
    smaller = 0
    for seed in range(40):
        matrix = settings.single(SHAPE, SIZE, np.random.default_rng(seed))
        y0, y1, z0, z1 = part = shown_part(matrix, SHAPE, SIZE)
        whole = warp(image, labels, matrix, SIZE, outside=0.0)
        if whole is None:
            continue
        smaller += (y1 - y0) * (z1 - z0) < labels.size
        read = warp(image[y0:y1, z0:z1], labels[y0:y1, z0:z1], at_part(matrix, part), SIZE, outside=0.0)
        assert read is not None
        shown, expected = np.zeros((2, *SIZE, 4))
        for canvas, patch in ((shown, read), (expected, whole)):
            place = np.s_[patch.top : patch.top + len(patch.labels), patch.left : patch.left + patch.labels.shape[1]]
            canvas[place] = np.dstack([patch.image, patch.labels])
        # At the edge of a turned slice cv2 fades into what lies around it, as far as the patch goes.
        assert (np.abs(shown[..., :3] - expected[..., :3]).max(2) > 5).mean() < 0.002
        assert (shown[..., 3] != expected[..., 3]).mean() < 0.002
    assert smaller > 10


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_many_channels_are_warped_like_few(degrees: float) -> None:
    image, labels = ramp()
    matrix = SliceAugmentation(degrees=degrees).single(SHAPE, SIZE, np.random.default_rng(1))
    few, many = (warp(image[:, :, channels], labels, matrix, SIZE, 0.0) for channels in ([0, 1, 2], [0, 1, 2, 1, 0]))
    assert few is not None and many is not None
    np.testing.assert_allclose(few.image[:, :, [0, 1, 2, 1, 0]], many.image, atol=0.5)


@pytest.mark.parametrize("key", ["brightness", "contrast", "gamma"])
def test_telling_where_the_image_is_dark_changes_nothing(key: str) -> None:
    settings = replace(NEUTRAL, **{key: 0.5})
    image = np.zeros((40, 60, 3), np.float32)
    image[4:36, 7:55] = IMAGE
    for seed in range(5):
        told = settings.intensity(image.copy(), np.random.default_rng(seed), (4, 36, 7, 55))
        np.testing.assert_array_equal(told, settings.intensity(image.copy(), np.random.default_rng(seed)))
