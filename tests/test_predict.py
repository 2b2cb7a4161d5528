"""Which scans `predict` takes from a place, and what it refuses before it writes anything."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from spineseg.data.preparation import prepare_source
from spineseg.data.sources.folder import Folder
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import Volume
from spineseg.predict import find_scans, predict_scans
from spineseg.volumes import write_volume

SCAN = Volume(np.zeros((4, 5, 6), np.int16), np.eye(4))


def test_masks_beside_the_scans_are_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "a_label", "b", "b_seg", "c_ct", "c_seg-vert_msk", "d", "d_MSK"):
        write_volume(tmp_path / f"{name}.nii.gz", SCAN)
    assert [scan.case for scan in find_scans(tmp_path)] == ["a", "b", "c_ct", "d"]
    said = capsys.readouterr().out
    assert "masks (4)" in said and "a_label.nii.gz" in said
    # A file that is asked for by name is taken.
    assert [scan.case for scan in find_scans(tmp_path / "a_label.nii.gz")] == ["a_label"]


def test_a_folder_a_scan_bears_the_folders_name(tmp_path: Path) -> None:
    for case in ("x", "y"):
        for name in ("ct", "vertebrae", "labels"):
            write_volume(tmp_path / case / f"{name}.nii.gz", SCAN)
    assert [scan.case for scan in find_scans(tmp_path)] == ["x", "y"]
    (tmp_path / "x" / "ct.nii.gz").unlink()
    with pytest.raises(DataError, match="masks"):
        find_scans(tmp_path / "x")


def test_a_prepared_source_knows_its_offset(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    hu = np.rint(random.normal(40, 10, (20, 24, 8)))
    hu[:, :6] = -1000
    labels = np.zeros(hu.shape, np.uint8)
    labels[8:14, 10:16, 2:6] = 20
    hu[labels > 0] = 400
    write_volume(tmp_path / "raw" / "a" / "ct.nii.gz", Volume((hu + 1024).clip(0).astype(np.int16), np.eye(4)))
    write_volume(tmp_path / "raw" / "a" / "vertebrae.nii.gz", Volume(labels, np.eye(4)))
    folder = prepare_source(
        Folder(tmp_path / "raw", hu_offset=-1024),
        prepared_root=tmp_path / "prepared",
        spacing_mm=(None, None, None),
        split_seed=0,
        workers=1,
    )
    for where in (folder, folder / "cases.csv"):
        (scan,) = find_scans(where)
        assert scan.case == "a"
        np.testing.assert_array_equal(scan.read().array, (hu + 1024).clip(0) - 1024)
    with pytest.raises(ConfigError, match="hu_offset"):
        find_scans(folder / "cases.csv", hu_offset=0)


@pytest.mark.parametrize("outputs", [["json"], ["nifti", "jpeg"]])
def test_outputs_are_checked_before_a_folder_is_touched(tmp_path: Path, outputs: list[str]) -> None:
    (tmp_path / "predictions.json").write_text("kept")
    with pytest.raises(ConfigError, match="outputs"):
        predict_scans(cast(Any, SimpleNamespace()), [], tmp_path, trainer={}, provenance={}, outputs=outputs)
    assert (tmp_path / "predictions.json").read_text() == "kept"
