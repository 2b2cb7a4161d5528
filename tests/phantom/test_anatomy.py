"""The skeleton alone, and what a whole case's labels and HU must be like."""

import itertools
import runpy
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import pytest

from spineseg.geometry import mm_to_index
from spineseg.phantom import PhantomOptions, SimulatedCase, sizes
from spineseg.phantom.curves import spine_frames
from spineseg.phantom.scene import draw_scene
from spineseg.phantom.sizes import COLUMN, SIZES, trabecular_factor
from spineseg.phantom.subject import draw_subject
from spineseg.vertebrae import L6, T13, level_id, level_name

PUBLISHED = Path(__file__).parents[2] / "experiments" / "phantom" / "published.py"
THORACOLUMBAR = range(level_id("T1"), level_id("L5") + 1)

# Whole vertebrae on real masks, ml, for a person of middle size.
VOLUMES_ML = {
    "T1": (19, 24),
    "T6": (22, 22),
    "T9": (28, 28),
    "T12": (39, 48),
    "L1": (40, 58),
    "L3": (55, 63),
    "L5": (56, 66),
}
# From body centre to the next lower body centre, mm, by the level above.
PITCHES_MM = {
    **{
        "C1": (17, 17),
        "C2": (23, 23),
        "C3": (17, 19),
        "C4": (17, 18),
        "C5": (17, 17),
        "C6": (17, 18),
        "C7": (18.5, 20.5),
    },
    **{"T1": (19.5, 23.6), "T2": (20, 24), "T3": (20, 23.4), "T4": (20.5, 25.4), "T5": (21, 25), "T6": (21, 22)},
    **{"T7": (21, 23), "T8": (22, 24), "T9": (23, 25), "T10": (25, 27), "T11": (28, 28), "T12": (30, 30)},
    **{"L1": (31, 36), "L2": (36, 38), "L3": (36, 37), "L4": (33, 38), "L5": (34, 34)},
}


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.mark.parametrize("difficulty", ["easy", "default", "hard"])
def test_levels_stand_in_order(difficulty: str) -> None:
    for seed in range(20):
        subject = draw_subject(generator(seed), difficulty)
        frames = spine_frames(subject)
        assert tuple(sorted(frames, key=lambda level: -frames[level].origin[2])) == subject.levels


def test_pitches_are_the_published_ones() -> None:
    found: dict[str, list[float]] = {name: [] for name in PITCHES_MM}
    for seed in range(100):
        subject = draw_subject(generator(seed), "easy")
        frames = spine_frames(subject)
        for above, below in itertools.pairwise(subject.levels):
            pitch = float(np.linalg.norm(np.subtract(frames[above].origin, frames[below].origin)))
            found[level_name(above)].append(pitch / subject.size)
    for name, (low, high) in PITCHES_MM.items():
        # A body's centre in voxels lies within a millimetre of its frame's origin; the masks' pitches are means of few.
        assert low - 2.5 < np.mean(found[name]) < high + 2.5, (name, np.mean(found[name]))
    middle = [(low + high) / 2 - np.mean(found[name]) for name, (low, high) in PITCHES_MM.items()]
    assert abs(np.mean(middle)) < 1.2


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="experiments are not installed")
def test_sizes_are_the_published_ones_and_what_is_added_is_named() -> None:
    published: dict[str, dict[str, Any]] = runpy.run_path(str(PUBLISHED))["PUBLISHED"]
    for name in (level_name(level) for level in COLUMN[2:-1]):
        row = sizes.LevelSize(*sizes._ROWS[name])
        for key, cell in published[name].items():
            if hasattr(row, key):
                assert cell.low <= getattr(row, key) <= cell.high, (name, key)
        added = sizes._TUNED.get(name, {})
        assert all(0 < abs(mm) <= 1 for mm in added.values())
        assert {key for key in vars(row) if getattr(row, key) != getattr(SIZES[level_id(name)], key)} == {*added}


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="experiments are not installed")
def test_a_mean_of_many_people_meets_a_published_size_narrowly_but_for_chance() -> None:
    cell = runpy.run_path(str(PUBLISHED))["Published"](14.5, 15.5, "V")
    assert cell.meets(13.4, "canal_depth", "C5") and not cell.meets_narrowly(13.4, "canal_depth", 1.0, 40)
    assert cell.meets_narrowly(13.6, "canal_depth", 1.0, 40) and cell.meets_narrowly(13.4, "canal_depth", 4.0, 40)
    assert cell.meets_narrowly(16.2, "volume", 0.1, 40) and not cell.meets_narrowly(16.4, "volume", 0.1, 40)
    assert cell.bias(14.0) == -1.0


def test_trabecular_bone_by_level_is_relative_to_l1() -> None:
    factor = {level_name(level): trabecular_factor(level) for level in (*COLUMN, T13, L6)}
    assert factor["L1"] == 1.0
    assert 1.5 <= factor["C2"] / factor["L4"] <= 1.6 and 1.65 <= factor["C5"] / factor["L4"] <= 1.85
    assert factor["T12"] / factor["L4"] == pytest.approx(1.03)
    assert factor["T1"] == pytest.approx(2.0, abs=0.05)
    # Equal steps from T12 to L4: the place of a level that most people lack is none of theirs.
    steps = np.diff([factor[name] for name in ("T12", "L1", "L2", "L3", "L4")])
    assert np.allclose(steps, steps[0])
    assert factor["T12"] > factor["T13"] > factor["L1"]


def test_curves_have_the_angles_drawn() -> None:
    subject = draw_subject(generator(3), "default")
    frames = spine_frames(subject)

    def lean(name: str) -> float:
        y, z = frames[level_id(name)].axes[2][1:]
        return float(np.degrees(np.arctan2(y, z)))

    assert lean("S1") - lean("T12") == pytest.approx(subject.lordosis_deg, abs=0.5)
    assert lean("T1") - lean("T12") == pytest.approx(subject.kyphosis_deg, abs=0.5)


def test_one_size_factor_scales_a_subject() -> None:
    factors = []
    for seed in range(200):
        subject = draw_subject(generator(seed), "default")
        ratios = [subject.sizes[level].width / SIZES[level].width for level in subject.levels if level in SIZES]
        assert np.std(np.array(ratios) / subject.size) < 0.06
        factors.append(subject.size)
    assert np.mean(factors) == pytest.approx(1.0, abs=0.02)
    assert np.std(factors) == pytest.approx(0.07, abs=0.015)


def test_whole_thoracic_and_lumbar_spine_is_in_the_field_of_view(csi_case: SimulatedCase) -> None:
    labels = csi_case.labels.array
    for level in THORACOLUMBAR:
        _, y, z = np.nonzero(labels == level)
        assert z.min() > 0 and z.max() < labels.shape[2] - 1, level
        assert y.min() > 0 and y.max() < labels.shape[1] - 1, level


@pytest.mark.parametrize("name", ["csi_case", "kaggle_case"])
def test_each_whole_level_is_one_piece_in_cranial_order(name: str, request: pytest.FixtureRequest) -> None:
    case: SimulatedCase = request.getfixturevalue(name)
    labels = case.labels.array
    heights = []
    for level in (level for level in COLUMN if (labels == level).any()):
        mask = labels == level
        if level_name(level) not in case.facts["cut_levels"]:
            assert cc3d.connected_components(mask.astype(np.uint8), connectivity=6, return_N=True)[1] == 1, level
        heights.append(float(np.nonzero(mask)[2].mean()))
    assert len(heights) >= 5
    assert (np.diff(heights) < 0).all()


def test_volumes_are_those_of_real_masks(csi_case: SimulatedCase) -> None:
    voxel_ml = float(np.prod(csi_case.labels.spacing_mm)) / 1000
    size = float(csi_case.facts["size"])
    for name, (low, high) in VOLUMES_ML.items():
        # As large as a person of middle size would have it; a level's own factor (sd 3 %) is cubed too.
        volume = float((csi_case.labels.array == level_id(name)).sum()) * voxel_ml / size**3
        assert 0.8 * low < volume < 1.2 * high, (name, volume)


def test_canal_is_open_from_t1_to_l5_and_ringed_by_bone(csi_case: SimulatedCase) -> None:
    scene = draw_scene(7, 1, "csi2014", "small", "default")
    subject, turn = scene.subject, scene.grid.turn_deg
    frames = {level: frame.turned(turn) for level, frame in scene.frames.items()}
    assert abs(turn) > 1
    affine, labels = csi_case.labels.affine, csi_case.labels.array
    for level in THORACOLUMBAR:
        size = subject.sizes[level]
        for height in np.linspace(-size.height / 2, size.height / 2, 9):
            center = frames[level].world((0.0, size.canal_y, float(height)))
            i, j, k = np.rint(mm_to_index(affine, np.array([center]))[0]).astype(int)
            assert not labels[i - 2 : i + 3, j - 2 : j + 3, k].any(), level
        # A horizontal path out of the canal at the height of the pedicles meets the vertebra on both sides.
        center = frames[level].world((0.0, -size.depth / 2 - 3.0, size.height / 2 - size.pedicle_height / 2))
        i, j, k = np.rint(mm_to_index(affine, np.array([center]))[0]).astype(int)
        assert (labels[:i, j, k] == level).any() and (labels[i:, j, k] == level).any(), level


def test_neighbours_do_not_touch_in_the_truth_but_their_boxes_overlap(csi_case: SimulatedCase) -> None:
    labels = csi_case.labels.array
    for axis in range(3):
        a, b = np.moveaxis(labels, axis, 0)[1:], np.moveaxis(labels, axis, 0)[:-1]
        touching = (a != b) & (a > 0) & (b > 0)
        # The gap is about a voxel: a few faces may meet, no joint may be fused.
        assert touching.sum() < 0.002 * (labels > 0).sum()
    for above in range(level_id("T5"), level_id("T9")):
        tip = np.nonzero(labels == above)[2].min()
        assert tip < np.nonzero(labels == above + 1)[2].max()


def test_hu_by_tissue(csi_case: SimulatedCase) -> None:
    image, labels = csi_case.image.array, csi_case.labels.array
    facts = csi_case.facts
    assert image.dtype == np.int16 and labels.dtype == np.uint8
    for level in THORACOLUMBAR:
        values = image[labels == level]
        assert 150 < values.mean() < 520, level
        # Real scans of 1.5 to 3 mm have 400 to 950; these voxels are finer, and blur a cortex less.
        assert 350 < np.percentile(values, 95) < 1100, level
    counts, edges = np.histogram(image, bins=np.arange(-1024, 400, 8))
    peaks = [float(edges[:-1][window][counts[window].argmax()]) for window in (edges[:-1] < -960, edges[:-1] > 0)]
    assert peaks[0] == pytest.approx(-1000, abs=30)
    assert peaks[1] == pytest.approx(facts["muscle_hu"], abs=25)
    fat = (image > -160) & (image < -40)
    assert fat.mean() > 0.02
    assert ((image > -950) & (image < -750)).mean() > 0.01  # lung


def test_kaggle_grid_is_isotropic(kaggle_case: SimulatedCase) -> None:
    assert kaggle_case.image.spacing_mm == pytest.approx((1.5, 1.5, 1.5))
    assert kaggle_case.image.orientation == "RAS"
    assert PhantomOptions().size == "small"
