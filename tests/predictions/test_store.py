"""The predictions folder: what is written is read back, and what is damaged is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spineseg.errors import ConfigError, DataError, FormatError
from spineseg.geometry import Volume, canonical
from spineseg.predictions.instances import SliceInstances, from_masks
from spineseg.predictions.slicing import slice_labels
from spineseg.predictions.store import LabelKind, PredictionWriter, open_predictions
from spineseg.vertebrae import CONVENTIONS, in_convention
from spineseg.volumes import read_volume, write_volume

AFFINE = np.array([[0.0, 0, -1.5, 30], [-0.7, 0, 0, 12], [0, -0.8, 0, 5], [0, 0, 0, 1]])  # stored PIR-like


def volume(dtype: type = np.uint8) -> Volume:
    labels = np.zeros((8, 9, 7), dtype)
    labels[2:5, 3:6, 1:5] = 20
    labels[2:5, 6:8, 1:5] = 21
    return Volume(labels, AFFINE)


def detections(labels: Volume) -> list[SliceInstances]:
    random = np.random.default_rng(0)
    count, *size = canonical(labels).shape
    return [
        from_masks(
            index,
            random.random((index % 3, *size)) < 0.4,
            random.random(index % 3),
            levels=random.integers(0, 25, index % 3),
            boxes=random.random((index % 3, 4)) * 7,
            probabilities=random.random((index % 3, 2)).astype(np.float32),
            classes=(20, 21),
        )
        for index in range(count)
    ]


def test_a_case_is_read_as_it_was_written(tmp_path: Path) -> None:
    labels = volume()
    slices = detections(labels)
    with PredictionWriter(tmp_path, provenance={"run": "a"}, score_threshold=0.4) as writer:
        writer.write("case1", labels, "levels", slices, seconds=1.5, peak_mb=100.0)
        writer.write("case2", labels, "instances", None, seconds=1.5, peak_mb=100.0)
        writer.fail("case3", "the file is empty")
    folder = open_predictions(tmp_path)
    assert (folder.score_threshold, folder.slice_kind, dict(folder.provenance)) == (0.4, "detections", {"run": "a"})
    assert dict(folder.failures) == {"case3": "the file is empty"}
    found = folder.read("case1")
    np.testing.assert_array_equal(found.labels.array, labels.array)
    np.testing.assert_array_equal(found.labels.affine.astype(np.float32), labels.affine.astype(np.float32))
    assert (found.kind, found.labels.array.dtype) == ("levels", np.uint8)
    assert found.slices is not None
    assert sorted(found.slices) == [s.index for s in slices if len(s)]
    for s in slices:
        if len(s):
            read = found.slices[s.index]
            assert (read.masks, read.size, read.classes) == (s.masks, s.size, s.classes)
            np.testing.assert_array_equal(read.scores, s.scores)  # bit for bit: ranks do not move
            np.testing.assert_array_equal(read.levels, s.levels)
            np.testing.assert_allclose(read.boxes, s.boxes, atol=1e-3)
            assert read.probabilities == pytest.approx(s.probabilities, abs=1e-5)
    numbered = open_predictions(tmp_path).read("case2")
    assert (numbered.kind, numbered.labels.array.dtype, numbered.slices) == ("instances", np.uint16, None)


def test_a_folder_of_label_maps_is_a_predictions_folder(tmp_path: Path) -> None:
    labels = volume()
    write_volume(tmp_path / "case1.nii.gz", labels.with_array(np.where(labels.array == 20, 31, 0).astype(np.float32)))
    found = open_predictions(tmp_path).read("case1", "totalsegmentator_v2")
    assert set(np.unique(found.labels.array)) == {0, 20}
    assert found.slices is None


def test_a_folder_that_says_its_convention_is_believed(tmp_path: Path) -> None:
    labels = volume()
    with PredictionWriter(tmp_path, provenance={}, label_convention="kaggle") as writer:
        sacrum = labels.with_array(np.where(labels.array == 20, 25, 0))
        writer.write("case1", sacrum, "levels", None, seconds=1, peak_mb=1)
    assert set(np.unique(open_predictions(tmp_path).read("case1").labels.array)) == {0, 26}  # S1


@pytest.mark.parametrize("name", sorted(CONVENTIONS))
def test_values_of_any_convention_are_written_and_read_as_levels(tmp_path: Path, name: str) -> None:
    """CSI 2014's go beyond a byte."""
    levels = np.zeros((8, 9, 7), np.uint8)
    levels.flat[:24] = range(1, 25)
    values = in_convention(levels, name, what="a")
    with PredictionWriter(tmp_path, provenance={}, label_convention=name) as writer:
        writer.write("a", Volume(values, AFFINE), "levels", None, seconds=1, peak_mb=1)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array, values)
    found = open_predictions(tmp_path).read("a").labels.array
    np.testing.assert_array_equal(found, levels)
    assert found.dtype == np.uint8


def test_an_unknown_convention_is_named_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'versee'"):
        PredictionWriter(tmp_path / "out", provenance={}, label_convention="versee")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_prediction_is_refused(tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path, provenance={})
    writer.write("case1", volume(), "levels", None, seconds=1, peak_mb=1)
    with pytest.raises(DataError, match="interrupted"):
        open_predictions(tmp_path)
    writer.close()
    assert list(open_predictions(tmp_path).files) == ["case1"]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_predictions(tmp_path / "absent")
    with pytest.raises(DataError, match="no label map"):
        open_predictions(tmp_path)
    labels = volume()
    with PredictionWriter(tmp_path, provenance={}) as writer:
        writer.write("case1", labels, "levels", slice_labels(canonical(labels).array), seconds=1, peak_mb=1)
        with pytest.raises(DataError, match="label values"):
            writer.write(
                "case2", volume(np.uint16).with_array(np.full((8, 9, 7), 300)), "levels", None, seconds=1, peak_mb=1
            )
    with pytest.raises(DataError, match="case9"):
        open_predictions(tmp_path).read("case9")
    beside = tmp_path / "case1.json"
    content = json.loads(beside.read_text())
    beside.write_text(json.dumps(content | {"size": [3, 3]}))
    with pytest.raises(DataError, match="size"):
        open_predictions(tmp_path).read("case1")
    beside.write_text(json.dumps(content | {"format": "slices 9"}))
    with pytest.raises(FormatError, match="slices 9"):
        open_predictions(tmp_path).read("case1")


def predict_into(folder: Path, *cases: str, kind: LabelKind = "instances", threshold: float = 0.3, **of: str) -> None:
    with PredictionWriter(folder, provenance={"run": "a", **of}, score_threshold=threshold) as writer:
        for case in cases:
            writer.write(case, volume(), kind, None, seconds=1, peak_mb=1)


def test_a_second_prediction_by_the_same_model_keeps_the_first_ones_cases(tmp_path: Path) -> None:
    predict_into(tmp_path, "case1", "case2")
    predict_into(tmp_path, "case3")
    folder = open_predictions(tmp_path)
    assert folder.kinds == {"case1": "instances", "case2": "instances", "case3": "instances"}
    assert folder.read("case1").kind == "instances"
    writer = PredictionWriter(tmp_path, provenance={"run": "a"}, score_threshold=0.3)
    writer.fail("case2", "cut short")
    writer.close()
    assert not (tmp_path / "case2.nii.gz").exists()
    assert set(open_predictions(tmp_path).files) == {"case1", "case3"}


@pytest.mark.parametrize("other", [{"run": "b"}, {"checkpoint": "last"}, {"threshold": 0.4}])
def test_another_models_folder_is_refused_and_stays_as_it_is(tmp_path: Path, other: dict[str, Any]) -> None:
    predict_into(tmp_path, "case1")
    before = (tmp_path / "predictions.json").read_text()
    with pytest.raises(DataError, match=f"{tmp_path}.*another model.*another folder"):
        predict_into(tmp_path, "case2", **other)
    assert (tmp_path / "predictions.json").read_text() == before


def test_a_run_scores_its_split_again_in_the_same_folder(tmp_path: Path) -> None:
    predict_into(tmp_path, "case1", "case2", split="test")
    predict_into(tmp_path, "case1", split="test", threshold=0.5)
    folder = open_predictions(tmp_path)
    assert (folder.score_threshold, folder.kinds) == (0.5, {"case1": "instances"})
    with pytest.raises(DataError, match=r"case2\.nii\.gz.*does not list"):
        folder.read("case2")
    with pytest.raises(DataError, match="another model"):
        predict_into(tmp_path, "case1", split="val", threshold=0.5)


def test_scans_are_not_written_over(tmp_path: Path) -> None:
    write_volume(tmp_path / "case1.nii.gz", volume())
    with pytest.raises(DataError, match=r"did not write \(case1"):
        predict_into(tmp_path, "case1")
    assert not (tmp_path / "predictions.json").exists()


@pytest.mark.parametrize(("kind", "values"), [("levels", {0, 26}), ("instances", {0, 25})])
def test_our_files_without_predictions_json_say_what_they_hold(
    tmp_path: Path, kind: LabelKind, values: set[int]
) -> None:
    labels = volume(np.uint16)
    with PredictionWriter(tmp_path, provenance={}, label_convention="kaggle") as writer:
        writer.write("case1", labels.with_array(np.where(labels.array == 20, 25, 0)), kind, None, seconds=1, peak_mb=1)
    (tmp_path / "predictions.json").unlink()
    found = open_predictions(tmp_path).read("case1", "verse")
    assert (found.kind, set(np.unique(found.labels.array))) == (kind, values)  # Kaggle's 25 is S1
    with pytest.raises(DataError, match=rf"case1.*labels: {kind}.*prediction_labels="):
        open_predictions(tmp_path).read("case1", labels="instances" if kind == "levels" else "levels")


def test_a_detectors_slices_are_a_detectors_without_predictions_json_too(tmp_path: Path) -> None:
    labels = volume()
    with PredictionWriter(tmp_path, provenance={}, slices="detections") as writer:
        writer.write("case1", labels, "levels", detections(labels), seconds=1, peak_mb=1)
    (tmp_path / "predictions.json").unlink()
    found = open_predictions(tmp_path).read("case1")
    assert found.slices and found.slice_kind == "detections"
    # Slices that do not say whose they are cannot be scored as either: the label map is.
    beside = tmp_path / "case1.json"
    content = json.loads(beside.read_text())
    beside.write_text(json.dumps({key: value for key, value in content.items() if key != "slices_of"}))
    assert open_predictions(tmp_path).read("case1").slices is None


def test_damaged_files_of_ours_are_named(tmp_path: Path) -> None:
    labels = volume()
    with PredictionWriter(tmp_path, provenance={}) as writer:
        writer.write("case1", labels, "levels", detections(labels), seconds=1, peak_mb=1, peak_vram_mb=2.04)
    folder_file = tmp_path / "predictions.json"
    assert json.loads(folder_file.read_text())["cases"]["case1"]["peak_vram_mb"] == 2.0
    beside = tmp_path / "case1.json"
    beside.write_text(beside.read_text().replace('"rle"', '"rles"'))
    with pytest.raises(DataError, match=r"case1\.json: damaged slices"):
        open_predictions(tmp_path).read("case1")
    folder_file.write_text(folder_file.read_text().replace('"complete"', '"completed"'))
    with pytest.raises(DataError, match=r"predictions\.json: damaged"):
        open_predictions(tmp_path)


def test_a_header_of_another_version_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "case1.nii.gz", volume(), extension={"format": "predictions 9", "labels": "levels"})
    with pytest.raises(FormatError, match="predictions 9"):
        open_predictions(tmp_path).read("case1")
    # Another tool's comment is its own affair.
    write_volume(tmp_path / "case1.nii.gz", volume(), extension={"format": "other", "labels": "instances"})
    assert open_predictions(tmp_path).read("case1").kind == "levels"


def test_other_tools_masks_may_bear_no_names(tmp_path: Path) -> None:
    labels = volume()
    write_volume(tmp_path / "case1.nii.gz", labels.with_array(np.where(labels.array > 0, 255, 0).astype(np.uint8)))
    found = open_predictions(tmp_path).read("case1", labels="instances")
    assert (found.kind, set(np.unique(found.labels.array))) == ("instances", {0, 255})
    with pytest.raises(DataError, match="prediction_convention="):
        open_predictions(tmp_path).read("case1")
