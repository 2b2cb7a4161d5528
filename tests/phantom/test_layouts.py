from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from spineseg.geometry import canonical
from spineseg.phantom import SimulatedCase
from spineseg.phantom.layouts import case_files, native_labels, sha256, write_case
from spineseg.vertebrae import CONVENTIONS, level_id, relabel
from spineseg.volumes import read_volume


def test_csi2014_files_are_as_the_real_ones(tmp_path: Path, csi_case: SimulatedCase) -> None:
    hashes = write_case(tmp_path, "csi2014", 0, csi_case)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "case1.mhd",
        "case1.raw",
        "case1_label.mhd",
        "case1_label.raw",
    ]
    assert hashes == {path.name: sha256(path) for path in tmp_path.iterdir()}
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


def test_kaggle_calls_s1_25() -> None:
    levels = np.array([0, 1, level_id("L5"), level_id("S1")], np.uint8)
    assert native_labels("kaggle", levels).tolist() == [0, 1, 24, 25]
    assert native_labels("csi2014", levels).tolist() == [0, 0, 100, 0]


def test_kaggle_ids_have_the_gaps_and_grow_without_moving() -> None:
    ids = [int(case_files("kaggle", index).id[-4:]) for index in range(200)]
    assert ids == sorted(set(ids))
    assert not {3, 9, 19} & set(ids)
    assert len(ids) / (ids[-1] + 1) < 0.92
