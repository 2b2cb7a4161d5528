"""Label maps found and read in the layouts of other tools."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from spineseg.errors import DataError
from spineseg.geometry import Volume
from spineseg.predictions.layouts import find_label_maps, read_label_map
from spineseg.predictions.store import open_predictions
from spineseg.vertebrae import CONVENTIONS, level_name
from spineseg.volumes import write_volume

AFFINE = np.array([[0.0, 0, 3, -20], [-2.0, 0, 0, 7], [0, 2.5, 0, 11], [0, 0, 0, 1]])
LEVELS = (19, 20, 21, 26)


def truth() -> Volume:
    labels = np.zeros((8, 44, 6), np.uint8)
    for row, level in enumerate(LEVELS):
        labels[1:7, 10 * row + 1 : 10 * row + 9, 1:5] = level
    return Volume(labels, AFFINE)


def in_convention(volume: Volume, name: str) -> Volume:
    back = {level: value for value, level in CONVENTIONS[name].table.items()}
    table = np.array([back.get(value, 0) for value in range(29)], np.uint16)
    return volume.with_array(table[volume.array])


def write_structures(folder: Path, names: dict[str, int]) -> None:
    for name, level in names.items():
        write_volume(folder / f"{name}.nii.gz", truth().with_array((truth().array == level).astype(np.uint8)))


STRUCTURES = {
    "vertebrae_T12": 19,
    "vertebrae_L1": 20,
    "vertebrae_L2": 21,
    "vertebrae_L3": 22,
    "sacrum": 26,
    "liver": 99,
}


@pytest.mark.parametrize("inner", ["", "segmentations"])
def test_one_file_a_structure_is_read_by_name(tmp_path: Path, inner: str) -> None:
    for case in ("s0001", "s0002"):
        write_structures(tmp_path / case / inner, STRUCTURES)
        write_volume(tmp_path / case / "ct.nii.gz", truth())
    (tmp_path / ".cache").mkdir()
    folder = open_predictions(tmp_path)
    assert sorted(folder.files) == ["s0001", "s0002"]
    found = folder.read("s0001", "kaggle").labels  # names say what values would not
    np.testing.assert_array_equal(found.array, truth().array)
    np.testing.assert_array_equal(found.affine, truth().affine)


def test_the_folder_of_a_single_scan_is_that_case(tmp_path: Path) -> None:
    write_structures(tmp_path / "scan", STRUCTURES)
    assert list(find_label_maps(tmp_path / "scan")) == ["scan"]


def test_s1_is_the_sacrum_where_it_is_drawn_apart(tmp_path: Path) -> None:
    write_structures(tmp_path, {"vertebrae_S1": 26, "sacrum": 21})
    found = read_label_map(tmp_path, "verse").array
    assert np.array_equal(found == 26, truth().array == 26) and set(np.unique(found)) == {0, 26}


def test_structures_that_overlap_or_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    write_structures(tmp_path / "a", {"vertebrae_L1": 20, "vertebrae_L2": 20})
    with pytest.raises(DataError, match=r"vertebrae_L2.*192 of its voxels"):
        read_label_map(tmp_path / "a", "verse")
    write_structures(tmp_path / "b", {"vertebrae_L1": 20})
    moved = AFFINE.copy()
    moved[1, 3] += 4
    write_volume(tmp_path / "b" / "vertebrae_L2.nii.gz", Volume((truth().array == 21).astype(np.uint8), moved))
    with pytest.raises(DataError, match=r"vertebrae_L2.*4\.00 mm"):
        read_label_map(tmp_path / "b", "verse")


@pytest.mark.parametrize("convention", ["verse", "kaggle", "totalsegmentator_v1", "totalsegmentator_v2"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mhd", ".mha"])
def test_one_file_a_case_with_what_lies_beside(tmp_path: Path, convention: str, suffix: str) -> None:
    # nnU-Net leaves JSON files of its own beside its predictions, and others may bear the case's name.
    for name in ("dataset", "plans", "predict_from_raw_data_args", "case_1"):
        (tmp_path / f"{name}.json").write_text("{}")
    write_volume(tmp_path / f"case_1{suffix}", in_convention(truth(), convention))
    found = open_predictions(tmp_path).read("case_1", convention)
    assert found.slices is None
    np.testing.assert_array_equal(found.labels.array, truth().array)
    np.testing.assert_allclose(found.labels.affine, truth().affine, atol=1e-5)


def test_a_folder_a_case_with_one_label_map(tmp_path: Path) -> None:
    for case in ("a", "b"):
        write_volume(tmp_path / case / "multilabel.nii.gz", truth())
        write_volume(tmp_path / case / "ct.nii.gz", truth())
    assert {case: file.path.name for case, file in find_label_maps(tmp_path).items()} == {
        "a": "multilabel.nii.gz",
        "b": "multilabel.nii.gz",
    }


def test_verse_masks_are_found_with_subjects_and_points(tmp_path: Path) -> None:
    for scan in ("sub-gl003_dir-ax", "sub-gl003_dir-sag"):
        place = tmp_path / "dataset" / "derivatives" / "sub-gl003"
        write_volume(place / f"{scan}_seg-vert_msk.nii.gz", truth())
        (place / f"{scan}_seg-subreg_ctd.json").write_text(json.dumps([{"direction": ["R", "A", "S"]}]))
        write_volume(tmp_path / "dataset" / "rawdata" / "sub-gl003" / f"{scan}_ct.nii.gz", truth())
    found = find_label_maps(tmp_path)
    assert sorted(found) == ["sub-gl003_dir-ax", "sub-gl003_dir-sag"]
    assert {file.subject for file in found.values()} == {"sub-gl003"}
    assert all(file.points is not None and file.points.name.startswith(case) for case, file in found.items())
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "v19").symlink_to(tmp_path / "dataset", target_is_directory=True)
    assert sorted(find_label_maps(linked)) == sorted(found)


def test_two_maps_of_a_case_are_refused_and_an_empty_folder_says_what_it_should_hold(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", truth())
    write_volume(tmp_path / "a.nrrd", truth())
    with pytest.raises(DataError, match="two label maps"):
        find_label_maps(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="TotalSegmentator"):
        open_predictions(tmp_path / "empty")


def test_every_level_has_a_structure(tmp_path: Path) -> None:
    names = [level_name(level) for level in (*range(1, 26), 28)]
    shape = (len(names), 2, 2)
    for n, name in enumerate(names):
        mask = np.zeros(shape, np.uint8)
        mask[n] = 1
        write_volume(tmp_path / f"vertebrae_{name}.nii.gz", Volume(mask, np.eye(4)))
    found = read_label_map(tmp_path, "verse").array[:, 0, 0]
    assert [level_name(int(level)) for level in found] == names


@pytest.mark.parametrize("values", [(1.0, 0.02), (1.0, math.nan), (0.5,), (1, 2)])
def test_a_structure_that_is_no_mask_is_refused(tmp_path: Path, values: tuple[float, ...]) -> None:
    array = np.zeros(truth().shape, np.float32)
    array.flat[: len(values)] = values
    write_volume(tmp_path / "vertebrae_L1.nii.gz", truth().with_array(array))
    with pytest.raises(DataError, match=r"vertebrae_L1.*expected the mask of one structure"):
        read_label_map(tmp_path, "verse")


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", truth())
    (tmp_path / "b.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    with pytest.raises(DataError, match=r"b\.nii\.gz.*gone\.nii\.gz"):
        find_label_maps(tmp_path)
