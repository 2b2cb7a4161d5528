"""Which scans `predict` takes from a place, what it writes, and that a bad scan stops no other."""

import gzip
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch

from spineseg.config import compose
from spineseg.data.inputs import find_scans
from spineseg.data.preparation import prepare_source
from spineseg.data.sources.folder import Folder
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import Volume
from spineseg.predict import main, predict_scans
from spineseg.predictions.extras import check_outputs
from spineseg.predictions.store import open_predictions
from spineseg.trained import TrainedModel, build_datamodule, build_task
from spineseg.vertebrae import level_name
from spineseg.volumes import read_volume, write_volume

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
        model = SimpleNamespace(task=SimpleNamespace(levels=()))
        predict_scans(cast(Any, model), [], tmp_path, trainer={}, provenance={}, outputs=outputs)
    assert (tmp_path / "predictions.json").read_text() == "kept"


def test_outputs_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", SCAN)
    scans = find_scans(tmp_path)
    with pytest.raises(DataError, match=r"no scan is DICOM \(a\)"):
        check_outputs(["nifti", "dicom_seg"], scans, named=True)
    with pytest.raises(ConfigError, match="names no level"):
        check_outputs(["nifti", "points"], scans, named=False)
    check_outputs(["nifti", "points", "json", "png"], scans, named=True)


def test_dicom_is_found_beside_other_files(
    tmp_path: Path, write_series: Callable[..., list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    hu = np.rint(body(0).array)
    write_series(tmp_path / "a" / "series", hu)
    write_volume(tmp_path / "a" / "series" / "spine.nrrd", SCAN)
    write_volume(tmp_path / "b.nii.gz", SCAN)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "1.dcm").write_bytes(b"")
    scans = {scan.case: scan for scan in find_scans(tmp_path, hu_offset=0)}
    assert set(scans) == {tmp_path.name, "b", "c_unreadable"}
    assert "beside DICOM slices (1): a/series/spine.nrrd" in capsys.readouterr().out
    np.testing.assert_array_equal(scans[tmp_path.name].read().array, hu)
    with pytest.raises(DataError, match=r"1 file .* 1\.dcm"):
        scans["c_unreadable"].read()
    # A series in stored values that are no HU is judged like any other file.
    write_series(tmp_path / "d", hu + 1024)
    (series,) = find_scans(tmp_path / "d")
    with pytest.raises(DataError, match="air peak expected"):
        series.read()
    (series,) = find_scans(tmp_path / "d", hu_offset=-1024)
    np.testing.assert_array_equal(series.read().array, hu)
    (shifted,) = find_scans(tmp_path / "d", source_offset=-1024)
    np.testing.assert_array_equal(shifted.read().array, hu)


@pytest.mark.parametrize("name", ["predictions", "failures"])
def test_a_scan_may_not_bear_the_name_of_the_folders_files(tmp_path: Path, name: str) -> None:
    write_volume(tmp_path / f"{name}.nii.gz", SCAN)
    with pytest.raises(DataError, match="rename it"):
        find_scans(tmp_path)


def test_predictions_inside_the_input_are_no_scans(
    ten: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ten[0], tmp_path, dirs_exist_ok=True)
    given = ["run=threshold", f"input={tmp_path}", f"output={tmp_path / 'deep' / 'out'}", "outputs=[nifti]"]
    for _ in range(2):
        main(compose("predict", given))
        assert "7 of 7 scans predicted" in capsys.readouterr().out
    write_volume(tmp_path / "deep" / "out" / "confidence" / "other.nii.gz", SCAN)
    assert len(find_scans(tmp_path)) == 7
    assert "predictions.json (8): deep/out/case0.nii.gz" in capsys.readouterr().out
    # Another tool's file of that name says nothing.
    (tmp_path / "deep" / "out" / "predictions.json").write_text("[]")
    with pytest.raises(DataError, match="would be called"):
        find_scans(tmp_path)


def test_a_place_without_scans_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    for where in (tmp_path, tmp_path / "gone", tmp_path / "a.txt"):
        with pytest.raises(DataError, match="DICOM"):
            find_scans(where)


def test_a_scan_that_does_not_fit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A header alone: whoever read the values would find none."""
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))
    image.header.set_data_shape((2048, 2048, 20000))
    (tmp_path / "large.nii.gz").write_bytes(gzip.compress(image.header.binaryblock + bytes(4)))
    for limit in (None, 1.0):
        (scan,) = find_scans(tmp_path, memory_limit_gb=limit)
        with pytest.raises(DataError, match=r"2048 × 2048 × 20000 voxels needs about [\d.]+ GB, but"):
            scan.read()


def body(seed: int) -> Volume:
    """Air, fat, tissue and two bright blocks, on an oblique-looking grid."""
    random = np.random.default_rng(seed)
    array = random.normal(40, 10, (20, 24, 12))
    array[:, :6] = random.normal(-1000, 5, (20, 6, 12))
    array[:, 6:8], array[6:12, 10:16, 1:5], array[6:12, 10:16, 7:11] = -100, 500, 600
    affine = np.array([[0, 0, -3.0, 0], [-2.0, 0, 0, 0], [0, 2.0, 0, 5.3 + seed], [0, 0, 0, 1]])
    return Volume(np.rint(array).clip(-1000).astype(np.int16), affine)


BAD = {"bad_cut": "cut short or damaged", "bad_spacing": "spacing", "bad_4d": "three axes"}


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Seven scans alone, and the same with three that cannot be read."""
    clean, mixed = tmp_path_factory.mktemp("clean"), tmp_path_factory.mktemp("mixed")
    for seed in range(7):
        write_volume(clean / f"case{seed}.nii.gz", body(seed))
        shutil.copy(clean / f"case{seed}.nii.gz", mixed)
    whole = (clean / "case0.nii.gz").read_bytes()
    (mixed / "bad_cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    image = nib.Nifti1Image(body(0).array, body(0).affine)
    block = bytearray(image.to_bytes())
    for offset in (80, 84, 88, *range(280, 328, 4)):  # pixdim and sform
        block[offset : offset + 4] = np.float32("nan").tobytes()
    (mixed / "bad_spacing.nii.gz").write_bytes(gzip.compress(bytes(block)))
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 2), np.int16), np.eye(4)), mixed / "bad_4d.nii.gz")
    return clean, mixed


def same_predictions(one: Path, other: Path, count: int) -> None:
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file() and path.name.startswith("case")}
    assert names == {path.relative_to(other) for path in other.rglob("case*") if path.is_file()}
    assert len([name for name in names if name.name.endswith(".nii.gz")]) == count
    for name in names:
        if name.suffix == ".gz":
            a, b = read_volume(one / name), read_volume(other / name)
            np.testing.assert_array_equal(a.array, b.array)
            np.testing.assert_array_equal(a.affine, b.affine)
        else:
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


def check_failures(folder: Path) -> None:
    failures = json.loads((folder / "failures.json").read_text())["failures"]
    assert set(failures) == set(BAD)
    for case, reason in BAD.items():
        assert reason in failures[case] and not list(folder.glob(f"{case}*"))
    assert json.loads((folder / "predictions.json").read_text())["failures"] == failures


def test_three_bad_scans_of_ten_leave_seven_predictions_as_they_are(
    ten: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, mixed = ten
    main(compose("predict", ["run=threshold", f"input={clean}", f"output={tmp_path / 'clean'}"]))
    assert json.loads((tmp_path / "clean" / "failures.json").read_text())["failures"] == {}
    with pytest.raises(DataError, match="3 of 10 scans failed") as error:
        main(compose("predict", ["run=threshold", f"input={mixed}", f"output={tmp_path / 'mixed'}"]))
    assert all(case in str(error.value) for case in BAD)
    assert "7 of 10 scans predicted" in capsys.readouterr().out
    same_predictions(tmp_path / "clean", tmp_path / "mixed", 7)
    check_failures(tmp_path / "mixed")
    for seed in range(7):
        found = read_volume(tmp_path / "mixed" / f"case{seed}.nii.gz")
        np.testing.assert_array_equal(found.affine, read_volume(clean / f"case{seed}.nii.gz").affine)
        assert found.array.any()


def test_where_all_fail_the_folder_says_so(ten: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copy(ten[1] / "bad_cut.nii.gz", tmp_path)
    with pytest.raises(DataError, match="1 of 1 scans failed"):
        main(compose("predict", ["run=threshold", f"input={tmp_path}", f"output={tmp_path / 'out'}"]))
    assert list(json.loads((tmp_path / "out" / "failures.json").read_text())["failures"]) == ["bad_cut"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"failures.json", "predictions.json"}


@pytest.fixture(scope="module")
def untrained(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A network of levels with the weights it began with."""
    cfg = compose(
        "train",
        [
            "+experiment=unet2d_csi",
            "data/source=folder",
            f"data.source.root={scans}",
            f"paths.prepared={tmp_path_factory.mktemp('prepared')}",
            "data.pixel_mm=2",
            "data.image_size=[32,32]",
            "data.workers=0",
            "model.features=[4,4,4,4,4,4]",
            "model.residual_units=0",
        ],
    )
    torch.manual_seed(0)
    datamodule = build_datamodule(cfg)
    task = build_task(cfg, datamodule, pretrained=False)
    task.eval()
    return TrainedModel(task, datamodule, None, simulated=True)


CPU = {"_target_": "lightning.Trainer", "accelerator": "cpu", "precision": "32-true"}


def test_a_network_too(ten: tuple[Path, Path], untrained: TrainedModel, tmp_path: Path) -> None:
    for seed in range(2):
        for folder in ("some", "all"):
            (tmp_path / folder).mkdir(exist_ok=True)
            shutil.copy(ten[0] / f"case{seed}.nii.gz", tmp_path / folder)
    for case in BAD:
        shutil.copy(ten[1] / f"{case}.nii.gz", tmp_path / "all")
    run = partial(predict_scans, untrained, trainer=CPU, provenance={"run": "a"}, convention="verse")
    outputs = ("nifti", "json", "png", "points")
    assert run(find_scans(tmp_path / "some"), tmp_path / "clean", outputs=outputs) == {}
    assert set(run(find_scans(tmp_path / "all"), tmp_path / "mixed", outputs=outputs)) == set(BAD)
    same_predictions(tmp_path / "clean", tmp_path / "mixed", 2)
    check_failures(tmp_path / "mixed")
    folder = open_predictions(tmp_path / "mixed")
    for seed in range(2):
        case = f"case{seed}"
        native, found = read_volume(ten[0] / f"{case}.nii.gz"), folder.read(case).labels
        np.testing.assert_array_equal(found.affine, native.affine)
        levels = json.loads((tmp_path / "mixed" / f"{case}.json").read_text())["levels"]
        assert all(0 <= level["confidence"] <= 1 for level in levels.values())
        # The header says what the values mean, in words.
        image = nib.load(tmp_path / "mixed" / f"{case}.nii.gz")
        (told,) = [json.loads(part.get_content()) for part in image.header.extensions]
        present = sorted(int(value) for value in np.unique(np.asarray(image.dataobj)) if value)
        assert told["convention"] == "verse" and sorted(map(int, told["names"])) == present
        assert set(told["names"].values()) == set(levels)
        # VerSe's file holds the same centres, in voxels.
        head, *points = json.loads((tmp_path / "mixed" / f"{case}_ctd.json").read_text())
        assert "".join(head["direction"]) == native.orientation
        assert {level_name(point["label"]) for point in points} == set(levels)
        for point in points:
            index = np.array([point[axis] for axis in "XYZ"])
            mm = native.affine[:3, :3] @ index + native.affine[:3, 3]
            centre = np.array(levels[level_name(point["label"])]["body_centre_mm"])
            assert np.linalg.norm(mm - centre) < 0.2, point


def test_dicom_in_and_dicom_out_without_the_patient_elsewhere(
    tmp_path: Path, write_series: Callable[..., list[Path]]
) -> None:
    hu = body(0).array.astype(float)
    for case in ("p1", "p2"):
        write_series(tmp_path / "in" / case, hu, spacing=(2, 2), step=(0, 0, 3))
    (tmp_path / "in" / "p2" / "000.dcm").write_bytes(b"nothing")
    overrides = ["run=threshold", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}"]
    with pytest.raises(DataError, match="p2_unreadable"):
        main(compose("predict", [*overrides, "outputs=[nifti,png,dicom_seg]"]))
    out = tmp_path / "out"
    assert {path.name for path in out.glob("p1*")} == {"p1.nii.gz", "p1.png", "p1_seg.dcm"}
    seg = pydicom.dcmread(out / "p1_seg.dcm")
    labels = read_volume(out / "p1.nii.gz").array
    assert np.count_nonzero(seg.pixel_array) == np.count_nonzero(labels) > 0
    for path in out.rglob("*"):
        content = path.read_bytes()
        content += gzip.decompress(content) if path.suffix == ".gz" else b""
        named = any(part in content for part in (b"Doe", b"12345", seg.PatientID.encode(), b"Jane"))
        assert named == (path.suffix == ".dcm"), path
