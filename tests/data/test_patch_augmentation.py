"""Augmentation of patches: image and labels stay together, names stay true, nothing is drawn from elsewhere."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation

from spineseg.data.patch_augmentation import VolumeAugmentation, blurred, coarsened
from spineseg.data.volume_warp import centre, rotation_matrix, warp, warp_labels
from spineseg.errors import ConfigError

NOTHING = VolumeAugmentation(spatial=0, mirror_axes=(), intensity=0)
TURNS = replace(NOTHING, spatial=1.0, rotation=(40, 25, 30), scale=0.3, mirror_axes=("x", "y"))
SIZES = [(24, 30, 40), (1, 30, 40), (17, 16, 15)]


def smooth(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).standard_normal(shape)
    return ndimage.gaussian_filter(noise, 2).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_a_warp_is_scipys(size: tuple[int, int, int], seed: int) -> None:
    """Values differ as two-pass and trilinear interpolation do on a smooth image; labels not at all."""
    rng = np.random.default_rng(seed)
    read = TURNS.read_size(size)
    matrix = rotation_matrix(rng.uniform(-1, 1, 3) * TURNS.rotation) / rng.uniform(0.75, 1.25)
    image, labels = smooth(read, seed), rng.integers(0, 5, read).astype(np.uint8)
    origin = (np.array(read) - size) // 2 + (np.array(size) - 1) / 2 - matrix @ ((np.array(size) - 1) / 2)
    expected = ndimage.affine_transform(image, matrix, origin, size, order=1)
    np.testing.assert_allclose(warp(image, matrix, size), expected, atol=0.06 * np.ptp(image))
    assert np.abs(warp(image, matrix, size) - expected).mean() < 0.01 * np.ptp(image)
    nearest = ndimage.affine_transform(labels, matrix, origin, size, order=0)
    # A voxel half-way between two may fall either way.
    assert (warp_labels(labels, matrix, size) != nearest).mean() < 1e-3


def test_rotation_is_about_x_then_y_then_z() -> None:
    degrees = np.random.default_rng(0).uniform(-45, 45, (20, 3))
    expected = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    np.testing.assert_allclose(rotation_matrix(degrees), expected, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_no_turn_is_the_middle(size: tuple[int, int, int]) -> None:
    read = TURNS.read_size(size)
    image, labels = smooth(read), np.random.default_rng(0).integers(0, 5, read).astype(np.uint8)
    np.testing.assert_allclose(warp(image, np.eye(3), size), centre(image, size), atol=1e-6)
    np.testing.assert_array_equal(warp_labels(labels, np.eye(3), size), centre(labels, size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rotation", [(0, 0, 0), (45, 0, 0), (30, 30, 30), (45, 45, 45)])
def test_what_is_read_fills_every_turned_patch(size: tuple[int, int, int], rotation: tuple[float, ...]) -> None:
    """Nothing outside of what was read is asked for (an error), and not much more is read than is needed."""
    augmentation = replace(TURNS, rotation=rotation, scale=0.2)
    read = augmentation.read_size(size)
    half = (np.array(size) - 1) / 2
    widest = np.zeros(3)
    for angles in itertools.product(*(np.linspace(-degrees, degrees, 18) for degrees in rotation)):
        matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() / 0.8
        widest = np.maximum(widest, np.abs(matrix) @ half)
    room = (np.array(read) - np.array(size)) // 2 + half
    assert (room >= widest).all() and (room <= widest + 2.5).all()
    # A constant image, shown in full, stays so: nothing comes in from outside.
    for seed in range(3):
        image, labels = augmentation(
            np.ones(read, np.float32), np.ones(read, np.uint8), size, np.random.default_rng(seed)
        )
        assert image.shape == labels.shape == size
        np.testing.assert_allclose(image, 1, atol=1e-5)
        assert labels.all()


@pytest.mark.parametrize("size", [*SIZES, (1, 1, 1)])
def test_a_draw_reads_less_and_gives_the_same(size: tuple[int, int, int]) -> None:
    """What one draw needs is a part of what any may need, about the same centre; the patch is the same."""
    augmentation = replace(TURNS, spatial=0.7)
    widest = augmentation.read_size(size)
    image, labels = smooth(widest), np.random.default_rng(0).integers(0, 5, widest).astype(np.uint8)
    needed = [augmentation.drawn_size(size, np.random.default_rng(seed)) for seed in range(12)]
    assert all(n <= most for read in needed for n, most in zip(read, widest, strict=True))
    assert size == (1, 1, 1) or (len(set(needed)) > 4 and size in needed)
    for seed, read in enumerate(needed):
        alike = augmentation(image.copy(), labels, size, np.random.default_rng(seed))
        part = centre(image, read).copy(), centre(labels, read)
        sparing = augmentation(*part, size, np.random.default_rng(seed))
        # cv2 counts places in 32nds of a voxel, which may be rounded either way.
        np.testing.assert_allclose(sparing[0], alike[0], atol=2e-3)
        assert np.abs(sparing[0] - alike[0]).mean() < 1e-5
        assert (sparing[1] != alike[1]).mean() < 1e-3


@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (0.4, 0.4, 3.0), (1.0, 2.0, 0.5)])
def test_bones_are_turned_and_not_grids(spacing: tuple[float, float, float]) -> None:
    """In mm the map is a rotation and a zoom whatever the voxels are, and enough is read for it."""
    augmentation, mm = replace(TURNS, spatial=1.0), np.array(spacing)
    for seed in range(5):
        matrix, _ = augmentation._geometry(np.random.default_rng(seed), spacing)
        assert matrix is not None
        stretched = np.linalg.svd(np.diag(mm) @ matrix @ np.diag(1 / mm))[1]
        np.testing.assert_allclose(stretched, stretched[0])
        read = augmentation.drawn_size((9, 12, 7), np.random.default_rng(seed), spacing)
        ones = np.ones(read, np.float32), np.ones(read, np.uint8)
        image, labels = augmentation(*ones, (9, 12, 7), np.random.default_rng(seed), spacing)
        np.testing.assert_allclose(image, 1, atol=1e-5)
        assert labels.all()


def test_too_little_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="read_size"):
        warp(np.zeros((20, 20, 20), np.float32), rotation_matrix(np.array([0.0, 0, 30])), (20, 20, 20))


def test_nothing_asked_for_nothing_changed() -> None:
    image, labels = smooth((9, 11, 14)), np.random.default_rng(0).integers(0, 9, (9, 11, 14)).astype(np.uint8)
    assert NOTHING.read_size((9, 11, 14)) == (9, 11, 14)
    for seed in range(5):
        same, there = NOTHING(image.copy(), labels, (9, 11, 14), np.random.default_rng(seed))
        np.testing.assert_array_equal(same, image)
        np.testing.assert_array_equal(there, labels)


@pytest.mark.parametrize("seed", range(12))
def test_bright_things_stay_under_their_labels(seed: int) -> None:
    """Balls that are bright where they are labelled: however turned and mirrored, they still are."""
    size = (32, 36, 40)
    read = TURNS.read_size(size)
    rng = np.random.default_rng(100)
    labels = np.zeros(read, np.uint8)
    grid = np.stack(np.indices(read), axis=-1)
    for label in range(1, 9):
        place = np.array(read) / 2 + rng.uniform(-0.3, 0.3, 3) * size
        labels[((grid - place) ** 2).sum(axis=-1) < 5**2] = label
    image, turned = TURNS(labels.astype(np.float32) * 10, labels, size, np.random.default_rng(seed))
    inside = ndimage.minimum_filter(turned, 3) == ndimage.maximum_filter(turned, 3)
    assert (turned[inside] > 0).sum() > 100
    # A corner of a ball may still be among the voxels that a value is interpolated from.
    far = np.abs(image - 10.0 * turned) > 0.5
    assert far[inside].mean() < 1e-3 and far.mean() > 0.01
    # Where the values are turned the wrong way round, nothing of this holds.
    assert (np.abs(image[::-1] - 10.0 * turned) > 0.5)[inside].mean() > 0.01


@pytest.mark.parametrize(("axis", "true"), [("x", True), ("y", True), ("z", False)])
def test_which_mirrors_keep_names_true(axis: str, true: bool) -> None:
    """L1 lies above L2, L2 above L3. A mirror that turns this round makes names untrue, and is refused."""
    column = np.zeros((8, 8, 30), np.uint8)
    column[1:5, 2:5, 20:28], column[1:5, 2:5, 11:19], column[1:5, 2:5, 2:10] = 1, 2, 3
    mirrored = np.flip(column, "xyz".index(axis))
    heights = [np.nonzero(mirrored == label)[2].mean() for label in (1, 2, 3)]
    assert (heights[0] > heights[1] > heights[2]) == true
    if not true:
        with pytest.raises(ConfigError, match="head–foot"):
            VolumeAugmentation(mirror_axes=(axis,))
        return
    augmentation = replace(NOTHING, mirror_axes=(axis,))
    seen = [augmentation(column.astype(np.float32), column, column.shape, np.random.default_rng(i)) for i in range(40)]
    for image, labels in seen:
        np.testing.assert_array_equal(image, labels)
        assert np.array_equal(labels, column) or np.array_equal(labels, mirrored)
    assert 5 < sum(np.array_equal(labels, mirrored) for _, labels in seen) < 35


def test_rotations_within_the_range_keep_the_order_of_levels() -> None:
    steep = VolumeAugmentation(spatial=1.0, rotation=(45, 45, 45), intensity=0)
    size = (32, 32, 48)
    read = steep.read_size(size)
    labels = np.zeros(read, np.uint8)
    x, y, z = (n // 2 for n in read)
    labels[x - 3 : x + 3, y - 3 : y + 3, z + 3 : z + 12], labels[x - 3 : x + 3, y - 3 : y + 3, z - 12 : z - 3] = 1, 2
    for seed in range(20):
        _, turned = steep(labels.astype(np.float32), labels, size, np.random.default_rng(seed))
        assert np.nonzero(turned == 1)[2].mean() > np.nonzero(turned == 2)[2].mean()


@pytest.mark.parametrize("kind", ["noise", "blur", "brightness", "contrast", "gamma", "low_resolution"])
def test_each_kind_changes_values_alone_and_leaves_the_labels(kind: str) -> None:
    none = dict.fromkeys(("noise", "blur", "brightness", "contrast", "gamma", "low_resolution"), 0.0)
    one = replace(NOTHING, intensity=1.0, **{**none, kind: 0.8})
    image, labels = smooth((20, 22, 24)) + 0.3, np.random.default_rng(0).integers(0, 4, (20, 22, 24)).astype(np.uint8)
    # Seeds whose blur is far from none.
    first, there = one(image.copy(), labels, image.shape, np.random.default_rng(3))
    again, _ = one(image.copy(), labels, image.shape, np.random.default_rng(3))
    other, _ = one(image.copy(), labels, image.shape, np.random.default_rng(4))
    np.testing.assert_array_equal(there, labels)
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32 and not np.array_equal(first, image) and not np.array_equal(first, other)
    unvaried, _ = replace(one, intensity=0.0)(image.copy(), labels, image.shape, np.random.default_rng(1))
    np.testing.assert_array_equal(unvaried, image)
    if kind in ("contrast", "gamma", "blur", "low_resolution"):
        assert image.min() - 1e-5 <= first.min() and first.max() <= image.max() + 1e-5
    if kind == "gamma":  # order and ends stay
        assert np.corrcoef(stats.rankdata(first), stats.rankdata(image))[0, 1] > 0.9999
        np.testing.assert_allclose([first.min(), first.max()], [image.min(), image.max()], atol=1e-5)
    if kind == "noise":
        assert 0 < (first - image).std() < 0.8 and abs((first - image).mean()) < 0.05
    if kind == "brightness":
        factor = (first - image.min()).sum() / (image - image.min()).sum()
        np.testing.assert_allclose(first - image.min(), factor * (image - image.min()), atol=1e-5)
        assert 0.2 <= factor <= 1.8


def test_a_constant_patch_stays_finite() -> None:
    """Air alone, as in a corner of a scan: no division by its range."""
    every = replace(NOTHING, intensity=1.0, noise=0.0)
    image, _ = every(
        np.full((8, 9, 10), -0.2, np.float32), np.zeros((8, 9, 10), np.uint8), (8, 9, 10), np.random.default_rng(0)
    )
    np.testing.assert_allclose(image, -0.2, atol=1e-6)


@pytest.mark.parametrize("sd", [0.1, 0.6, 1.0])
def test_blur_is_scipys(sd: float) -> None:
    image = np.random.default_rng(0).standard_normal((12, 9, 14)).astype(np.float32)
    expected = ndimage.gaussian_filter(image, sd, mode="nearest", radius=int(np.ceil(3 * sd)))
    np.testing.assert_allclose(blurred(image, sd), expected, atol=1e-5)


def test_coarsening_keeps_the_place_of_things() -> None:
    """A ramp stays the ramp, half a coarse voxel from the border: nothing moves."""
    ramp = np.broadcast_to(np.arange(32, dtype=np.float32), (8, 8, 32)).copy()
    np.testing.assert_allclose(coarsened(ramp, 0.5)[:, :, 2:-2].mean(), ramp[:, :, 2:-2].mean(), atol=0.51)
    np.testing.assert_array_equal(coarsened(ramp, 1.0), ramp)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mirror_axes": ("z",)}, "head–foot"),
        ({"mirror_axes": ("x", "left")}, "left"),
        ({"rotation": (10, 10)}, "rotation"),
        ({"rotation": (10, 10, 60)}, "rotation"),
        ({"scale": 1.0}, "scale"),
        ({"low_resolution": 1.5}, "low_resolution"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        VolumeAugmentation(**settings)  # type: ignore[arg-type]
