import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from spineseg.data.exports import WINDOW_HU
from spineseg.data.preparation import prepare_source
from spineseg.data.prepared import read_prepared
from spineseg.data.sources.folder import Folder
from spineseg.data.sources.yolo_export import YoloExport
from spineseg.data.store import StoredCase
from spineseg.errors import ConfigError
from spineseg.vertebrae import level_id
from spineseg.volumes import read_volume

NATIVE = (None, None, None)


def test_yolo_export_read_back_is_the_store(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = Folder(make_folder(6))
    folder = prepare_source(
        source, prepared_root=tmp_path / "p", spacing_mm=NATIVE, split_seed=1, workers=1, export="yolo"
    )
    out = folder.with_name(f"{folder.name}-yolo-native")
    content = yaml.safe_load((out / "data.yaml").read_text())
    back = YoloExport(out, window_hu=WINDOW_HU)
    pictures = back.cases()
    assert len(pictures) == 6 * 6  # each spine is six slices wide
    for picture in pictures[::5]:
        case_id, x = picture.id.rsplit("_x", 1)
        stored = StoredCase(folder / "store" / "native" / case_id)
        expected = np.clip(stored.read_image(int(x), int(x) + 1), *WINDOW_HU)
        np.testing.assert_allclose(back.read_image(picture).array, expected, atol=3)
        label = stored.read_label(int(x))
        # The export's rows are in the order of the levels' ids, so instance 1 is the smallest id.
        found = back.read_labels(picture).array[0]
        np.testing.assert_array_equal(found > 0, label > 0)
        rows = (out / picture.label).read_text().splitlines() if picture.label else []
        names = [level_id(content["names"][int(row.split()[0])]) for row in rows]
        for number, level in enumerate(names, start=1):
            np.testing.assert_array_equal(found == number, label == level)
    split = read_prepared(folder).splits.fold(int(content["train"][len("fold")]))
    for part in ("train", "val", "test"):
        lines = (out / content[part]).read_text().splitlines()
        assert {Path(line).stem.rsplit("_x", 1)[0] for line in lines} == set(getattr(split, part))
        assert all((out / line).is_file() for line in lines)


def test_nnunet_export(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = Folder(make_folder(6), levels=["T12", "L1", "L2", "L3"])
    folder = prepare_source(
        source, prepared_root=tmp_path / "p", spacing_mm=NATIVE, split_seed=1, workers=1, export="nnunet"
    )
    data_set = folder.with_name(f"{folder.name}-nnunet") / "Dataset501_folder"
    content = json.loads((data_set / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "T12": 1, "L1": 2, "L2": 3, "L3": 4}
    assert content["numTraining"] == 6 == len(list((data_set / "imagesTr").iterdir()))
    case = source.cases()[1]
    image, mask = (
        read_volume(data_set / "imagesTr" / f"{case.id}_0000.nii.gz"),
        read_volume(data_set / "labelsTr" / f"{case.id}.nii.gz"),
    )
    np.testing.assert_array_equal(image.array, source.read_image(case).array)
    np.testing.assert_array_equal(image.affine, mask.affine)
    labels = source.read_labels(case).array
    np.testing.assert_array_equal(mask.array, np.where(labels > 0, labels.astype(int) - 18, 0))
    splits = read_prepared(folder).splits
    for entry in json.loads((data_set / "splits_final.json").read_text()):
        assert not set(entry["train"]) & set(entry["val"])
        test = set(splits.folds) - set(entry["train"]) - set(entry["val"])
        assert len({splits.folds[case] for case in test}) <= 1


def test_exports_are_kept_and_unknown_ones_refused(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = Folder(make_folder(5))

    def prepare(export: str) -> Path:
        return prepare_source(
            source, prepared_root=tmp_path / "p", spacing_mm=NATIVE, split_seed=1, workers=1, export=export
        )

    folder = prepare("nnunet")
    marker = folder.with_name(f"{folder.name}-nnunet") / "export.json"
    before = marker.stat().st_mtime_ns
    assert prepare("nnunet") == folder and marker.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="export=coco"):
        prepare("coco")
