import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from spineseg.data.files import sha256_of_file
from spineseg.data.sources.csi2014 import CSI2014
from spineseg.data.sources.kaggle import Kaggle
from spineseg.errors import DataError
from spineseg.geometry import Volume, canonical
from spineseg.phantom import Layout, PhantomOptions, SimulatedCase, simulate_case
from spineseg.phantom.layouts import case_files, native_labels, write_case
from spineseg.phantom.scene import Scene, draw_scene
from spineseg.vertebrae import CONVENTIONS, L6, T13, level_id, level_name, relabel
from spineseg.volumes import read_volume


def test_csi2014_files_are_as_the_real_ones(tmp_path: Path, csi_case: SimulatedCase) -> None:
    hashes = write_case(tmp_path, "csi2014", 0, csi_case)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "case1.mhd",
        "case1.raw",
        "case1_label.mhd",
        "case1_label.raw",
    ]
    assert hashes == {path.name: sha256_of_file(path) for path in tmp_path.iterdir()}
    image, label = (sitk.ReadImage(str(tmp_path / name)) for name in ("case1.mhd", "case1_label.mhd"))
    # ITK reads the axes as LPS: the identity is what a scanner writes.
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert image.GetOrigin() == label.GetOrigin() and image.GetSpacing() == label.GetSpacing()
    values, marks = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(label)  # (Z, Y, X)
    assert values.min() >= 0 and values.max() <= 4095
    assert np.unique(marks).tolist() == [0, *range(100, 1800, 100)]
    heights = [np.nonzero(marks == value)[0].mean() for value in range(100, 1800, 100)]
    assert (np.diff(heights) > 0).all()
    # Air of the stored scan lies at HU + 1000.
    assert abs(int(np.bincount(values.ravel().astype(int))[:80].argmax())) < 60


def test_csi2014_goes_back_to_the_case(tmp_path: Path, csi_case: SimulatedCase) -> None:
    write_case(tmp_path, "csi2014", 4, csi_case)
    image, label = (canonical(read_volume(tmp_path / name)) for name in ("case5.mhd", "case5_label.mhd"))
    assert np.allclose(image.affine, csi_case.image.affine, atol=1e-4)
    assert np.array_equal(image.array, np.clip(csi_case.image.array.astype(int) + 1000, 0, 4095))
    kept = np.where((csi_case.labels.array >= 8) & (csi_case.labels.array <= 24), csi_case.labels.array, 0)
    assert np.array_equal(relabel(label.array, CONVENTIONS["csi2014"].table, what="label"), kept)


def test_kaggle_files_are_as_the_real_ones(tmp_path: Path, kaggle_case: SimulatedCase) -> None:
    hashes = write_case(tmp_path, "kaggle", 3, kaggle_case)
    root = "spine_segmentation_nnunet_v2"
    assert sorted(hashes) == [f"{root}/segmentations/case_0004.nii", f"{root}/volumes/case_0004.nii"]
    image, label = (
        nib.Nifti1Image.from_filename(tmp_path / root / kind / "case_0004.nii") for kind in ("volumes", "segmentations")
    )
    assert image.get_data_dtype() == np.int16 and label.get_data_dtype() == np.uint8
    assert np.allclose(image.affine, label.affine)
    assert np.allclose(image.header.get_zooms(), 1.5)
    back = relabel(np.asarray(label.dataobj), CONVENTIONS["kaggle"].table, what="label")
    assert np.array_equal(back, kaggle_case.labels.array)


def test_files_say_that_they_are_simulated(tmp_path: Path) -> None:
    volume = Volume(np.full((4, 5, 6), 20, np.uint8), np.eye(4))
    case = SimulatedCase(volume.with_array(np.full((4, 5, 6), -900, np.int16)), volume, {})
    for layout in get_args(Layout):
        hashes = write_case(tmp_path, layout, 0, case)
        for name in hashes:
            if not name.endswith(".raw"):
                assert b"SIMULATED by spineseg" in (tmp_path / name).read_bytes()
                assert hashes[name] == sha256_of_file(tmp_path / name)
        files = case_files(layout, 0)
        assert np.unique(read_volume(tmp_path / files.image).array).tolist() == [100 if layout == "csi2014" else -900]
        assert np.unique(read_volume(tmp_path / files.label).array).tolist() == [500 if layout == "csi2014" else 20]


def test_kaggle_calls_s1_25() -> None:
    levels = np.array([[0, 1], [level_id("L5"), level_id("S1")]], np.uint8)
    assert native_labels("kaggle", levels).tolist() == [[0, 1], [24, 25]]
    assert native_labels("csi2014", levels).tolist() == [[0, 0], [100, 0]]


@pytest.mark.parametrize(("layout", "copies"), [("csi2014", 2), ("kaggle", 1)])
def test_labels_are_renamed_without_a_larger_copy(layout: Layout, copies: int) -> None:
    labels = np.full((64, 64, 512), 20, np.uint8)
    tracemalloc.start()
    native_labels(layout, labels)
    assert tracemalloc.get_traced_memory()[1] < (copies + 0.5) * labels.nbytes
    tracemalloc.stop()


def test_kaggle_ids_have_the_gaps_and_grow_without_moving() -> None:
    ids = [int(case_files("kaggle", index).id[-4:]) for index in range(200)]
    assert ids == sorted(set(ids))
    assert not {3, 9, 19} & set(ids)
    # The real set has 1089 of the ids 0 to 1224.
    assert abs(int(case_files("kaggle", 1088).id[-4:]) - 1224) <= 2


def first_index(layout: Layout, wanted: Callable[[Scene], bool]) -> int:
    """Index of the first hard case whose person and view are as wanted; nothing is painted."""
    return next(index for index in itertools.count() if wanted(draw_scene(5, index, layout, "small", "hard")))


def short(scene: Scene, name: str) -> bool:
    """Whether a person lacks a level, and his lower lumbar levels and some thoracic ones are in view."""
    low = scene.grid.origin[2]
    high = low + scene.grid.spacing[2] * scene.grid.shape[2]
    ends = scene.frames[level_id("L4")].origin[2], scene.frames[level_id("T10")].origin[2]
    return name in scene.subject.variants and low < ends[0] and ends[1] < high


@pytest.mark.parametrize(
    ("layout", "variant", "absent"), [("csi2014", "t12_absent", "T12"), ("kaggle", "l5_absent", "L5")]
)
def test_real_sources_read_the_true_levels_of_columns_with_a_level_less(
    tmp_path: Path, layout: Layout, variant: str, absent: str
) -> None:
    index = first_index(layout, lambda scene: short(scene, variant))
    case = simulate_case(5, index, PhantomOptions(layout, "small", "hard"))
    write_case(tmp_path, layout, index, case)
    source = CSI2014(tmp_path) if layout == "csi2014" else Kaggle(tmp_path)
    (raw,) = source.cases()
    labels = canonical(source.read_labels(raw)).array
    truth = case.labels.array
    if layout == "csi2014":
        truth = np.where((truth >= level_id("T1")) & (truth <= level_id("L5")), truth, 0)
    assert np.array_equal(labels, truth)
    names = [level_name(int(level)) for level in np.unique(labels) if level]
    assert absent not in names
    assert names == [name for name in case.facts["levels"] if level_id(name) in np.unique(truth)]
    assert {"T11", "L1", "L4"} <= {*names}


@pytest.mark.parametrize("layout", ["csi2014", "kaggle"])
def test_who_shows_a_level_without_a_value_is_drawn_again(layout: Layout) -> None:
    index = first_index(layout, lambda scene: bool(scene.redrawn))
    scene = draw_scene(5, index, layout, "small", "hard")
    seen = set[int]()
    assert set(scene.redrawn) <= {"T13", "L6"}
    again = draw_scene(5, index, layout, "small", "hard")
    assert again.subject == scene.subject and again.grid == scene.grid
    for index in range(150):
        # Whoever has such a level still, has it out of view.
        scene = draw_scene(5, index, layout, "small", "hard")
        low = scene.grid.origin[2]
        high = low + scene.grid.spacing[2] * scene.grid.shape[2]
        for level in {T13, L6} & {*scene.subject.levels}:
            assert layout == "kaggle" and not low < scene.frames[level].origin[2] < high
            seen.add(level)
    assert bool(seen) == (layout == "kaggle")


@pytest.mark.parametrize("layout", ["csi2014", "kaggle"])
def test_a_level_without_a_value_is_never_written_as_background(layout: Layout) -> None:
    with pytest.raises(DataError, match=f"T13, L6 cannot be written as convention={layout}"):
        native_labels(layout, np.array([[0, 19, T13], [L6, 20, 0]], np.uint8))
