import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from spineseg.data.cases import Case
from spineseg.data.preparation import prepare_source
from spineseg.data.prepared import Prepared, read_prepared
from spineseg.data.sources.folder import Folder
from spineseg.data.splits import Split
from spineseg.errors import ConfigError
from spineseg.geometry import Grid, Volume, restore
from spineseg.models.nnunet_raw import dataset_json, write_raw
from spineseg.volumes import read_volume, write_volume

SHAPE, SPACING = (8, 10, 12), (2.0, 1.0, 1.5)
# The same scan with its axes as they are, and lying as inferior, right, anterior.
NATIVE = {
    "a": Grid(SHAPE, np.diag([*SPACING, 1.0])),
    "b": Grid((12, 8, 10), np.array([[0, 2.0, 0, 0], [0, 0, 1.0, 0], [-1.5, 0, 0, 16.5], [0, 0, 0, 1]])),
    "c": Grid(SHAPE, np.diag([*SPACING, 1.0])),
}


def upright(case: str) -> tuple[Volume, Volume]:
    rng = np.random.default_rng(ord(case))
    image = rng.integers(-1000, 1000, SHAPE).astype(np.int16)
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:6, 2:8, 1:4], labels[2:6, 2:8, 5:8], labels[2:6, 2:8, 9:11] = 22, 21, 20
    affine = np.diag([*SPACING, 1.0])
    return Volume(image, affine), Volume(labels, affine)


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Prepared, Folder, Split]:
    for case, grid in NATIVE.items():
        image, labels = upright(case)
        write_volume(tmp_path / "scans" / case / "ct.nii.gz", restore(image, grid))
        write_volume(tmp_path / "scans" / case / "vertebrae.nii.gz", restore(labels, grid))
    source = Folder(tmp_path / "scans", levels=(21, 22))
    folder = prepare_source(
        source, prepared_root=tmp_path / "prepared", spacing_mm=(None, None, None), split_seed=0, workers=1
    )
    found = read_prepared(folder)
    first, second, third = (case.id for case in sorted(found.cases, key=lambda case: case.image))
    return found, source, Split((second,), (first,), (third,))


def case_of(prepared: Prepared, name: str) -> Case:
    return next(case for case in prepared.cases if case.image.parent.name == name)


def test_raw_data_set_is_canonical_whatever_the_files_are(
    prepared: tuple[Prepared, Folder, Split], tmp_path: Path
) -> None:
    cases, source, split = prepared
    folder = write_raw(cases, source, split, tmp_path / "raw")
    content = json.loads((folder / "dataset.json").read_text())
    assert folder.name == "Dataset501_folder"
    assert content["labels"] == {"background": 0, "L2": 1, "L3": 2}
    assert set(content["dataset"]) == {*split.train, *split.val}
    assert content["numTraining"] == 2
    for name in ("a", "b"):
        case = case_of(cases, name)
        files = content["dataset"][case.id]
        image, labels = (read_volume(folder / file) for file in (*files["images"], files["label"]))
        expected_image, expected_labels = upright(name)
        np.testing.assert_array_equal(image.array, expected_image.array)
        np.testing.assert_allclose(image.affine, expected_image.affine, atol=1e-5)
        assert image.orientation == "RAS"
        # L1 is not in the class list.
        classes = np.select([expected_labels.array == 21, expected_labels.array == 22], [1, 2], 0)
        np.testing.assert_array_equal(labels.array, classes)
        assert nib.load(folder / files["label"]).get_data_dtype() == np.uint8
    assert not list(folder.rglob(f"*{case_of(cases, 'c').id}*"))
    assert json.loads((folder / "splits_final.json").read_text()) == [
        {"train": list(split.train), "val": list(split.val)}
    ]


def test_what_holds_is_kept_and_what_does_not_is_written_again(
    prepared: tuple[Prepared, Folder, Split], tmp_path: Path
) -> None:
    cases, source, split = prepared
    folder = write_raw(cases, source, split, tmp_path / "raw")

    def stamps() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    before = stamps()
    write_raw(cases, source, split, tmp_path / "raw")
    assert stamps() == before
    write_raw(cases, source, Split(split.train, split.test, split.val), tmp_path / "raw")
    assert {path.name for path in stamps()} != {path.name for path in before}
    assert not list((tmp_path / "raw").glob("*.partial"))


def test_instances_have_no_levels_to_learn(prepared: tuple[Prepared, Folder, Split], tmp_path: Path) -> None:
    cases, source, split = prepared

    class Instances(Folder):
        labels = "instances"

    with pytest.raises(ConfigError, match="name levels"):
        write_raw(cases, Instances(source.root, levels=(21, 22)), split, tmp_path / "raw")


def test_labels_count_from_one() -> None:
    assert dataset_json((7, 8))["labels"] == {"background": 0, "C7": 1, "T1": 2}
