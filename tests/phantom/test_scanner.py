import numpy as np
import pytest

from spineseg.errors import ConfigError
from spineseg.phantom import PhantomOptions, SimulatedCase, simulate_case
from spineseg.phantom.scanner import scan
from spineseg.phantom.shapes import VoxelGrid

GRID = VoxelGrid((64, 64, 40), (0.8, 0.8, 1.5), (0.0, 0.0, 0.0))


def generators(seed: int = 0) -> tuple[np.random.Generator, np.random.Generator]:
    return np.random.default_rng(seed), np.random.default_rng(seed + 1)


def test_noise_has_the_stated_sd_and_is_band_limited() -> None:
    image, settings = scan(*generators(), np.full(GRID.shape, 40, np.float32), GRID, "default")
    assert image.std() == pytest.approx(settings["noise_hu"], rel=0.08)
    assert image.mean() == pytest.approx(40, abs=1.0)
    power = np.abs(np.fft.fft2(image[:, :, 10] - 40.0)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    low, middle, high = (
        power[(frequency > a) & (frequency <= b)].mean() for a, b in ((0, 0.05), (0.12, 0.25), (0.45, 1))
    )
    assert middle > 3 * low and middle > 3 * high


def test_noise_of_neighbouring_slices_is_correlated_and_of_distant_ones_not() -> None:
    image, _ = scan(*generators(3), np.zeros(GRID.shape, np.float32), GRID, "default")
    near, far = (np.corrcoef(image[:, :, 0:-lag].ravel(), image[:, :, lag:].ravel())[0, 1] for lag in (1, 5))
    assert 0.25 < near < 0.45 and abs(far) < 0.05


def test_blur_keeps_mass_and_numbers_are_clipped() -> None:
    canvas = np.zeros(GRID.shape, np.float32)
    canvas[32, 32, 20] = 8000
    image, _ = scan(*generators(), canvas.copy(), GRID, "easy")
    assert abs(int(image[20:45, 20:45, 14:27].astype(int).sum()) - 8000) < 2000
    assert image[32, 32, 20] < 0.6 * 8000
    high, _ = scan(*generators(), np.full(GRID.shape, 9000, np.float32), GRID, "easy")
    assert high.max() == 3071


def test_a_case_is_a_pure_function_of_seed_and_index(kaggle_case: SimulatedCase) -> None:
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    again = simulate_case(7, 2, PhantomOptions("kaggle", "small"))
    assert np.array_equal(again.image.array, kaggle_case.image.array)
    assert np.array_equal(again.labels.array, kaggle_case.labels.array)
    assert again.facts == kaggle_case.facts


def test_unknown_choices_name_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="csi2014, kaggle"):
        PhantomOptions(layout="verse")  # type: ignore[arg-type]
