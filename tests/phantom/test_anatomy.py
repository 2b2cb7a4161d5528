"""The skeleton alone, and what a whole case's labels and HU must be like."""

import itertools

import cc3d
import numpy as np
import pytest

from spineseg.geometry import mm_to_index
from spineseg.phantom import PhantomOptions, SimulatedCase
from spineseg.phantom.curves import spine_frames
from spineseg.phantom.sizes import COLUMN, SIZES
from spineseg.phantom.subject import draw_subject
from spineseg.vertebrae import level_id

THORACOLUMBAR = range(level_id("T1"), level_id("L5") + 1)

# Whole vertebrae on real masks, ml, widened by what one size factor (sd 7 %) does to a volume.
VOLUMES_ML = {
    "T1": (11, 27),
    "T6": (11, 28),
    "T9": (15, 36),
    "T12": (24, 56),
    "L1": (28, 66),
    "L3": (35, 78),
    "L5": (38, 82),
}


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.mark.parametrize("difficulty", ["easy", "default", "hard"])
def test_levels_stand_in_order_at_their_pitch(difficulty: str) -> None:
    for seed in range(20):
        subject = draw_subject(generator(seed), difficulty)
        frames = spine_frames(subject)
        assert tuple(sorted(frames, key=lambda level: -frames[level].origin[2])) == subject.levels
        for above, below in itertools.pairwise(subject.levels):
            a, b = subject.sizes[above], subject.sizes[below]
            pitch = float(np.linalg.norm(np.subtract(frames[above].origin, frames[below].origin)))
            assert pitch == pytest.approx(a.height / 2 + a.rim_gap + b.height / 2, rel=1e-6)
        for frame in frames.values():
            axes = np.array(frame.axes)
            assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-9) and np.linalg.det(axes) > 0


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
def test_each_level_is_one_piece_in_cranial_order(name: str, request: pytest.FixtureRequest) -> None:
    case: SimulatedCase = request.getfixturevalue(name)
    labels = case.labels.array
    heights = []
    for level in (level for level in COLUMN if (labels == level).any()):
        mask = labels == level
        assert cc3d.connected_components(mask.astype(np.uint8), connectivity=6, return_N=True)[1] == 1, level
        heights.append(float(np.nonzero(mask)[2].mean()))
    assert len(heights) >= 5
    assert (np.diff(heights) < 0).all()


def test_volumes_are_those_of_real_masks(csi_case: SimulatedCase) -> None:
    voxel_ml = float(np.prod(csi_case.labels.spacing_mm)) / 1000
    size = float(csi_case.facts["size"])
    for name, (low, high) in VOLUMES_ML.items():
        # As large as a person of middle size would have it.
        volume = float((csi_case.labels.array == level_id(name)).sum()) * voxel_ml / size**3
        assert low < volume < high, (name, volume)


def test_canal_is_open_from_t1_to_l5_and_ringed_by_bone(csi_case: SimulatedCase) -> None:
    subject = draw_subject(generator_of_case(7, 1), "default")
    frames = spine_frames(subject)
    affine, labels = csi_case.labels.affine, csi_case.labels.array
    for level in THORACOLUMBAR:
        size = subject.sizes[level]
        for height in np.linspace(-size.height / 2, size.height / 2, 9):
            center = frames[level].world((0.0, -(size.depth + size.canal_depth) / 2 + 1.0, float(height)))
            i, j, k = np.rint(mm_to_index(affine, np.array([center]))[0]).astype(int)
            assert not labels[i - 2 : i + 3, j - 2 : j + 3, k].any(), level
        # A horizontal path out of the canal at the height of the pedicles meets the vertebra on both sides.
        center = frames[level].world((0.0, -size.depth / 2 - 3.0, size.height / 2 - size.pedicle_height / 2))
        i, j, k = np.rint(mm_to_index(affine, np.array([center]))[0]).astype(int)
        assert (labels[:i, j, k] == level).any() and (labels[i:, j, k] == level).any(), level


def generator_of_case(seed: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index]).spawn(5)[0]))


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
