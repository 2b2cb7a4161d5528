"""The scanner alone: noise, kernel, slices, padding, metal, and where the person lies."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from spineseg.errors import ConfigError
from spineseg.phantom import DifficultyName, PhantomOptions, SimulatedCase, simulate_case
from spineseg.phantom.curves import spine_frames
from spineseg.phantom.difficulty import DIFFICULTIES
from spineseg.phantom.metal import Implant, draw_implants, lay_metal
from spineseg.phantom.outline import build_trunk
from spineseg.phantom.scanner import Settings, draw_settings, point_spread, scan, slice_profile
from spineseg.phantom.shapes import WORLD, Array, Limb, VoxelGrid, coverage
from spineseg.phantom.subject import draw_subject
from spineseg.phantom.views import VIEWS, broad_heights, field_of_view, view_at
from spineseg.vertebrae import level_id

GRID = VoxelGrid((64, 64, 40), (0.8, 0.8, 1.5), (0.0, 0.0, 0.0))
PLAIN = Settings("standard", 1.0, 0.0, 1.5, 1.5, 20.0, 0.0, 0.0, 1.0, 0.0, None)
ROD = (Implant(Limb((25.0, 25.0, 20.0), (25.0, 25.0, 40.0), (3.0, 3.0), None, (0.0, 1.0, 0.0)), WORLD),)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def canvas(hu: float = 0.0, grid: VoxelGrid = GRID) -> Array:
    return np.full(grid.shape, hu, np.float32)


@pytest.mark.parametrize("step_mm", [1.5, 2.5, 5.0])
def test_noise_has_the_stated_sd_also_when_resampled(step_mm: float) -> None:
    image = scan(replace(PLAIN, slice_mm=step_mm, step_mm=step_mm), generator(), canvas(40), GRID)
    assert image.std() == pytest.approx(PLAIN.noise_hu, rel=0.1)
    assert image.mean() == pytest.approx(40, abs=1.0)


def test_noise_is_band_limited() -> None:
    image = scan(PLAIN, generator(), canvas(), GRID)
    power = np.abs(np.fft.fft2(image[:, :, 10].astype(float))) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    low, middle, high = (
        power[(frequency > a) & (frequency <= b)].mean() for a, b in ((0, 0.05), (0.12, 0.25), (0.45, 1))
    )
    assert middle > 3 * low and middle > 3 * high


def test_noise_of_neighbouring_slices_is_correlated_and_of_distant_ones_not() -> None:
    image = scan(PLAIN, generator(3), canvas(), GRID)
    near, far = (np.corrcoef(image[:, :, 0:-lag].ravel(), image[:, :, lag:].ravel())[0, 1] for lag in (1, 5))
    assert 0.25 < near < 0.45 and abs(far) < 0.05


def test_noise_is_louder_the_harder_the_sharper_and_the_thinner() -> None:
    drawn = {
        name: [draw_settings(generator(seed), "kaggle", name, GRID) for seed in range(300)] for name in DIFFICULTIES
    }
    means = [np.mean([s.noise_hu for s in drawn[name]]) for name in ("easy", "default", "hard")]
    assert means[0] < means[1] < means[2]
    assert 5 < means[0] < 12 and 10 < means[1] < 25 and 25 < means[2] < 55
    kernels = [
        np.mean([s.noise_hu for s in drawn["default"] if s.kernel == k]) for k in ("smooth", "standard", "sharp")
    ]
    assert kernels[0] < kernels[1] < kernels[2]
    thin, thick = (
        np.mean([s.noise_hu for s in drawn["default"] if s.kernel == "standard" and (s.slice_mm > 2) == side])
        for side in (False, True)
    )
    assert thick < thin
    assert max(s.slice_mm for s in drawn["hard"]) == 5.0
    assert all(s.padding is None and s.scale == 1 and s.kernel != "sharp" for s in drawn["easy"])
    # CSI 2014 is not resampled.
    assert draw_settings(generator(), "csi2014", "hard", GRID).step_mm == GRID.spacing[2]


def test_point_spread_keeps_mass_and_has_its_width() -> None:
    spread = canvas()
    spread[32, 32, 20] = 1000.0
    point_spread(spread, GRID, 2.0)
    assert spread.sum() == pytest.approx(1000, rel=1e-3)
    x = GRID.axis(0)
    across = spread.sum((1, 2)) / spread.sum()
    variance = float((across * (x - x[32]) ** 2).sum()) + 0.8**2 / 12
    assert variance**0.5 * 2.3548 == pytest.approx(2.0, rel=0.03)


def test_slice_profile_is_as_wide_as_the_slice_and_keeps_mass() -> None:
    spread = canvas()
    spread[:, :, 20] = 100.0
    slice_profile(spread, replace(GRID, spacing=(1.5, 1.5, 1.5)), replace(PLAIN, slice_mm=4.5))
    assert np.allclose(spread[5, 5, 18:23], [0, 100 / 3, 100 / 3, 100 / 3, 0], atol=0.5)
    resampled = canvas()
    resampled[:, :, 12:30] = 100.0
    slice_profile(resampled, GRID, replace(PLAIN, slice_mm=5.0, step_mm=5.0))
    assert resampled[5, 5].sum() == pytest.approx(1800, rel=0.08)
    # What lies between two scanned slices is their interpolation: the edge is wider than the slice.
    assert ((resampled[5, 5] > 1) & (resampled[5, 5] < 99)).sum() > 2 * 5.0 / 1.5


@pytest.mark.parametrize("pixel", [1.5, 0.4])
def test_slices_are_as_thick_as_stated_whatever_the_pixels(pixel: float) -> None:
    """The variance of an edge across z is that of the slice's box, found by moving the edge through a slice."""
    grid, thick = VoxelGrid((1, 1, 41), (pixel, pixel, 1.5), (0.0, 0.0, -30.0)), 4.5
    places, values = [], []
    for edge in np.arange(-0.75, 0.75, 0.05):
        column = 100.0 * coverage((np.float32(edge) - grid.axis(2))[None, None], grid.voxel_mm)
        slice_profile(column, grid, replace(PLAIN, slice_mm=thick))
        places.append(grid.axis(2) - edge)
        values.append(column[0, 0] / 100.0)
    order = np.argsort(np.concatenate(places))
    place, value = np.concatenate(places)[order], np.concatenate(values)[order]
    variance = float((np.diff(value) * ((place[1:] + place[:-1]) / 2) ** 2).sum())
    assert variance == pytest.approx(thick**2 / 12, rel=0.03)


def test_sharp_kernels_overshoot_and_smooth_ones_do_not() -> None:
    edge = canvas()
    edge[32:] = 500.0
    quiet = replace(PLAIN, noise_hu=1e-3)
    smooth = scan(replace(quiet, kernel="smooth", psf_fwhm_mm=1.4), generator(), edge.copy(), GRID)
    sharp = scan(replace(quiet, kernel="sharp", edge_gain=0.6), generator(), edge.copy(), GRID)
    assert smooth.max() <= 501 and smooth.min() >= -1
    assert sharp.max() > 530 and sharp.min() < -30


def test_calibration_and_number_format() -> None:
    settings = replace(PLAIN, noise_hu=1e-3, scale=1.02, offset_hu=5.0)
    assert int(np.median(scan(settings, generator(), canvas(0), GRID))) == 25
    assert scan(PLAIN, generator(), canvas(9000), GRID).max() == 3071
    assert scan(PLAIN, generator(), canvas(-3000), GRID).min() == -1024


@pytest.mark.parametrize("padding", [-1024, -2000, -3024])
def test_padding_lies_outside_the_circle_only(padding: int) -> None:
    image = scan(replace(PLAIN, padding=padding), generator(), canvas(), GRID)
    assert (image[0, 0] == padding).all() and (image[-1, -1] == padding).all()
    assert (image[32, 2:-2, 5] > -500).all() and (image[2:-2, 32, 5] > -500).all()
    assert (image == padding).mean() == pytest.approx(1 - np.pi / 4, abs=0.03)


def test_streaks_run_along_x_through_shoulders_only() -> None:
    image = scan(replace(PLAIN, noise_hu=10.0, streak=2.0), generator(), canvas(), GRID, broad_z=(10.0,))
    shoulder = image[:, :, 7].astype(float)
    assert np.corrcoef(shoulder[:-6].ravel(), shoulder[6:].ravel())[0, 1] > 0.4
    assert abs(np.corrcoef(shoulder[:, :-6].ravel(), shoulder[:, 6:].ravel())[0, 1]) < 0.4
    assert shoulder.std() > 1.5 * scan(replace(PLAIN, noise_hu=10.0), generator(), canvas(), GRID)[:, :, 7].std()


def test_metal_is_bright_where_it_lies_and_streaks_its_slices_only() -> None:
    without = scan(PLAIN, generator(), canvas(), GRID)
    image = scan(PLAIN, generator(), canvas(), GRID, ROD)
    assert image[31, 31, 20] == 3071
    change = np.abs(image.astype(int) - without).max((0, 1))
    assert (change[[0, 1, 2, 38, 39]] == 0).all() and (change[16:24] > 1000).all()
    far = np.abs(image.astype(int) - without)[5:20, 5:20, 20]
    assert 1 < far.max() < 1500
    found = lay_metal(canvas(), GRID, ROD)
    assert len(found) * float(np.prod(GRID.spacing)) == pytest.approx(np.pi * 9 * 20 + 4 / 3 * np.pi * 27, rel=0.15)


@pytest.mark.parametrize("difficulty", get_args(DifficultyName))
def test_metal_is_drawn_as_often_as_stated(difficulty: str) -> None:
    subject = draw_subject(generator(1), difficulty)
    frames = spine_frames(subject)
    kinds = [draw_implants(generator(seed), difficulty, subject, frames)[0] for seed in range(400)]
    share = 1 - kinds.count("none") / 400
    assert share == pytest.approx(DIFFICULTIES[difficulty].metal_share, abs=0.05)
    assert (difficulty != "hard") or set(kinds) == {"none", "screws", "hip", "dental"}


def test_turning_the_person_moves_labels_but_not_volumes() -> None:
    for turn in (-15.0, 7.0):
        across = np.array(WORLD.turned(turn).axes)
        assert np.allclose(across @ across.T, np.eye(3)) and across[0, 1] == pytest.approx(np.sin(np.radians(turn)))
    grid = VoxelGrid((80, 80, 50), (1.0, 1.0, 1.5), (-40.0, -40.0, -35.0))
    shape = Limb((10.0, -5.0, -20.0), (14.0, 9.0, 18.0), (8.0, 5.0))
    volumes, middles = [], []
    for turn in (0.0, 15.0):
        turned = replace(grid, turn_deg=turn)
        box = turned.box(*shape.bounds())
        assert box is not None
        inside = np.argwhere(shape.distance(*WORLD.local(box)) < 0) + [span.start for span in box.slices]
        volumes.append(len(inside))
        middles.append(inside.mean(0) * grid.spacing + grid.origin)
    assert volumes[1] == pytest.approx(volumes[0], rel=0.02)
    assert np.allclose(middles[1], WORLD.turned(15.0).world(middles[0]), atol=0.3)


def test_views_are_as_frequent_as_stated_and_show_their_levels() -> None:
    shares = np.linspace(0, 1, 1000, endpoint=False)
    found = [view_at(float(share)) for share in shares]
    for view in VIEWS.values():
        assert found.count(view) / 1000 == pytest.approx(view.weight, abs=0.002)
    subject = draw_subject(generator(), "default")
    frames = spine_frames(subject)
    trunk = build_trunk(subject, frames, generator(1))
    seen = set[str]()
    for seed in range(40):
        grid = field_of_view(generator(seed), "kaggle", "small", "default", subject, frames, trunk)
        view = view_at(generator(seed).random())
        heights = grid.axis(2)
        for name in (view.top, view.bottom):
            assert heights[0] < frames[level_id(name)].origin[2] < heights[-1]
        seen.add(view.top + view.bottom)
    assert len(seen) >= 5


def test_shoulders_and_hips_lie_above_and_below_the_loins() -> None:
    frames = spine_frames(draw_subject(generator(), "default"))
    shoulders, hips = broad_heights(frames)
    assert shoulders > frames[level_id("L1")].origin[2] > hips


def test_settings_take_as_much_from_the_generator_whatever_is_drawn() -> None:
    words = set()
    for seed in range(300):
        rng, counted = generator(seed), np.random.PCG64(seed)
        draw_settings(rng, "kaggle", "hard", GRID)
        count = next(n for n in range(100) if counted.state == rng.bit_generator.state or not counted.advance(1))
        words.add(count)
    assert words == {12}


def test_a_case_is_a_pure_function_of_seed_and_index(kaggle_case: SimulatedCase) -> None:
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    again = simulate_case(7, 2, PhantomOptions("kaggle", "small"))
    assert np.array_equal(again.image.array, kaggle_case.image.array)
    assert np.array_equal(again.labels.array, kaggle_case.labels.array)
    assert again.facts == kaggle_case.facts


def test_unknown_choices_name_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="csi2014, kaggle"):
        PhantomOptions(layout="verse")  # type: ignore[arg-type]
