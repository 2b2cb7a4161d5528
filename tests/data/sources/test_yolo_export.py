import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from spineseg.data.audit import examine
from spineseg.data.polygons import outline, to_row
from spineseg.data.sources.yolo_export import YoloExport
from spineseg.errors import ConfigError, DataError

NAME = "spine|csi 2014-3"


def masks() -> list[np.ndarray]:
    made = []
    for top in (4, 16, 28):
        mask = np.zeros((40, 24), bool)
        mask[top : top + 8, 6:15] = True
        mask[top + 2 : top + 4, 15:20] = True
        made.append(mask)
    return made


@pytest.fixture
def export(tmp_path: Path) -> Path:
    root = tmp_path / NAME
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("valid", 1), ("test", 1)):
        (root / part / "images").mkdir(parents=True)
        (root / part / "labels").mkdir()
        for number in range(count):
            stem = f"{part}|{number // 2}_png.rf.0a{number}f"
            Image.fromarray(rng.integers(0, 255, (40, 24)).astype(np.uint8)).convert("RGB").save(
                root / part / "images" / f"{stem}.png"
            )
            rows = [to_row(0, outline(mask), mask.shape) for mask in masks()]
            (root / part / "labels" / f"{stem}.txt").write_text("\n".join(rows))
    content = {
        "train": "../train/images",
        "val": "../valid/images",
        "test": "../test/images",
        "nc": 1,
        "names": ["Discs"],
    }
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    return root


def zip_of(root: Path) -> Path:
    path = root.with_name(f"{root.name}.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.write(file, Path(NAME) / file.relative_to(root))
    return path


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_slices_and_instances(export: Path, kind: str) -> None:
    source = YoloExport(zip_of(export) if kind == "zip" else export, pixel_mm=0.8)
    cases = source.cases()
    assert len(cases) == 5 and source.labels == "instances"
    assert [case.subject for case in cases if case.id.startswith("train")] == ["train|0", "train|0", "train|1"]
    image, labels = source.read_image(cases[0]), source.read_labels(cases[0])
    assert image.shape == labels.shape == (1, 24, 40) and image.spacing_mm == pytest.approx((0.8, 0.8, 0.8))
    # Rows run from the head down and columns from front to back: both turn round in RAS.
    expected = sum((index + 1) * mask.astype(int) for index, mask in enumerate(masks()))
    np.testing.assert_array_equal(labels.array[0], expected[::-1, ::-1].T)
    report = examine(source, cases[0]).report
    assert not report.fatal and report.facts["instances"] == 3 and report.case is not None and report.case.levels == ()
    assert {part: len(ids) for part, ids in source.given_split().items()} == {"train": 3, "val": 1, "test": 1}
    assert source.files(cases[0])[0].is_file()


def test_window_and_side(export: Path) -> None:
    left = YoloExport(export, window_hu=(-100, 155))
    right = YoloExport(export, window_hu=(-100, 155), anterior="right")
    case = left.cases()[0]
    with Image.open(export / case.image) as picture:
        grey = np.asarray(picture.convert("L")).astype(int)
    np.testing.assert_array_equal(left.read_image(case).array[0], grey[::-1, ::-1].T - 100)
    np.testing.assert_array_equal(right.read_image(case).array[0], grey[::-1].T - 100)
    for wrong in ({"anterior": "up"}, {"pixel_mm": 0}, {"window_hu": (5, 5)}):
        with pytest.raises(ConfigError):
            YoloExport(export, **wrong)  # type: ignore[arg-type]


def test_every_fault_is_reported_and_nothing_raises(export: Path) -> None:
    images = sorted((export / "train" / "images").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:60])
    (export / "train" / "labels" / f"{images[1].stem}.txt").write_text("0 0.1 0.1 0.2 0.2\n3 0 0 1 0 1 1\n")
    (export / "valid" / "labels" / "valid|0_png.rf.0a0f.txt").unlink()
    source = YoloExport(export)
    reports = {case.id: examine(source, case).report for case in source.cases()}
    assert "a damaged picture" in reports[images[0].stem].fatal[0] and len(reports[images[0].stem].fatal) == 1
    [message] = reports[images[1].stem].fatal
    assert "line 1: 2 points" in message and "line 2: class 3" in message
    unlabelled = reports["valid|0_png.rf.0a0f"].case
    assert unlabelled is not None and unlabelled.findings == ("no mask: not used for training",)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("names: [a]\ndownload: https://example.org/x.sh\n", "asks for a download"),
        ("names: [a]\ntrain: /etc\n", "leads out"),
        ("names: [a]\ntrain: ../../other\n", "leads out"),
        ("names: [a]\npath: C:/x\n", "leads out"),
        ("names: !!python/object/apply:os.system ['touch canary']\n", "cannot be read"),
        ("nc: 1\n", "cannot be read"),
        ("[", "cannot be read"),
    ],
)
def test_hostile_yaml_is_refused(export: Path, content: str, word: str) -> None:
    (export / "data.yaml").write_text(content)
    with pytest.raises(DataError, match=word):
        YoloExport(export).cases()
    assert not Path("canary").exists()


def test_hostile_zip_is_refused(export: Path) -> None:
    path = zip_of(export)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../canary.png", b"x")
    with pytest.raises(DataError, match="leads out"):
        YoloExport(path).cases()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Roboflow.*simulate"):
        YoloExport(tmp_path).cases()
