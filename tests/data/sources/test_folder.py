from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spineseg.data.audit import examine
from spineseg.data.sources.base import volumes_in
from spineseg.data.sources.folder import Folder
from spineseg.data.sources.verse import Verse
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import Volume, canonical
from spineseg.volumes import write_volume

Spine = Callable[..., tuple[Volume, Volume]]


def test_subfolders(make_folder: Callable[..., Path]) -> None:
    root = make_folder(3)
    (root / "s1" / "vertebrae.nii.gz").unlink()
    source = Folder(root)
    assert [(case.id, case.label is None) for case in source.cases()] == [("s0", False), ("s1", True), ("s2", False)]
    report = examine(source, source.cases()[1]).report
    assert not report.fatal and report.case is not None and report.case.findings == ("no mask: not used for training",)
    assert [case.id for case in Folder(root, include=["s[02]"]).cases()] == ["s0", "s2"]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/{}.nii.gz", "labels/{}.nii.gz"),
        ("imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz"),
        ("{}.mha", "{}_label.mha"),
        ("{}_ct.nii.gz", "{}_seg-vert_msk.nii.gz"),
        ("{}/image.nrrd", "{}/seg.nrrd"),
    ],
)
def test_pairs_by_name(tmp_path: Path, make_spine: Spine, image: str, label: str) -> None:
    for number, name in enumerate(("a|b", "ünïcode 2")):
        volume, labels = make_spine(seed=number)
        write_volume(tmp_path / image.format(name), volume)
        write_volume(tmp_path / label.format(name), labels)
    source = Folder(tmp_path)
    cases = source.cases()
    assert len(cases) == 2 and all(case.label is not None for case in cases)
    for number, case in enumerate(cases):
        np.testing.assert_array_equal(source.read_image(case).array, make_spine(seed=number)[0].array)
        np.testing.assert_array_equal(source.read_labels(case).array, make_spine(seed=number)[1].array)


@pytest.mark.parametrize(
    "names",
    [("images/a/scan.nii.gz", "images/b/scan.nii.gz"), ("scan.nii", "scan.nii.gz"), ("s/ct.nii", "s/CT.nii.gz")],
)
def test_two_files_of_one_name_are_refused(tmp_path: Path, make_spine: Spine, names: tuple[str, str]) -> None:
    for name in names:
        write_volume(tmp_path / name, make_spine()[0])
    with pytest.raises(DataError, match=r"a second file of '(scan|ct)' beside .*rename or remove"):
        Folder(tmp_path).cases()


def test_linked_folders_are_entered_once(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root, elsewhere = make_folder(1), make_folder(2, root=tmp_path / "elsewhere")
    (root / "more").symlink_to(elsewhere / "s1", target_is_directory=True)
    (root / "round").symlink_to(root, target_is_directory=True)
    assert [case.id for case in Folder(root).cases()] == ["more", "s0"]
    (tmp_path / "sub-verse010").mkdir()
    verse = tmp_path / "verse"
    verse.mkdir()
    (verse / "v19").symlink_to(root, target_is_directory=True)
    assert sorted(path.name for path in volumes_in(verse)) == ["ct.nii.gz"] * 2 + ["vertebrae.nii.gz"] * 2


def test_a_convention_of_no_case_is_refused(make_folder: Callable[..., Path]) -> None:
    root = make_folder(2)
    with pytest.raises(ConfigError, match=r"data\.source\.conventions names no case of .*: S1; did you mean 's1'"):
        Folder(root, conventions={"S1": "kaggle"}).cases()
    assert len(Folder(root, conventions={"s1": "kaggle"}, include=["s0"]).cases()) == 1


def test_table_with_subjects_and_conventions(tmp_path: Path, make_spine: Spine) -> None:
    image, labels = make_spine((20, 21))
    for name in ("one", "two"):
        write_volume(tmp_path / "scans" / f"{name}.nii.gz", image)
    write_volume(tmp_path / "scans" / "one_m.nii.gz", labels)
    total = labels.with_array(np.where(labels.array > 0, 51 - labels.array, 0).astype(np.uint8))
    total.array[0, 0, 0] = 1  # the spleen
    write_volume(tmp_path / "elsewhere.nii.gz", total)
    table = tmp_path / "scans" / "pairs.csv"
    table.write_text(
        "subject,image,label,convention\np1,one.nii.gz,one_m.nii.gz,\np1,two.nii.gz,../elsewhere.nii.gz,totalsegmentator_v2\n"
    )
    source = Folder(tmp_path / "scans", pairs=table)
    cases = source.cases()
    assert [case.subject for case in cases] == ["p1", "p1"]
    for case in cases:
        np.testing.assert_array_equal(source.read_labels(case).array, labels.array)
        audited = examine(source, case).report.case
        assert audited is not None
        np.testing.assert_array_equal(source.read_labels(audited).array, labels.array)


def test_hostile_tables_and_names(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("subject,picture\na,b\n")
    with pytest.raises(DataError, match="expected the columns"):
        Folder(tmp_path, pairs=table).cases()
    table.write_text("id,image\n../../x,a.nii.gz\n")
    with pytest.raises(DataError, match="cannot name files"):
        Folder(tmp_path, pairs=table).cases()
    with pytest.raises(DataError, match="no such table"):
        Folder(tmp_path, pairs=tmp_path / "none.csv").cases()
    with pytest.raises(ConfigError, match="unknown label convention"):
        Folder(tmp_path, convention="versé")
    with pytest.raises(DataError, match=r"no image found.*simulate"):
        Folder(tmp_path / "none").cases()


def test_lone_masks_and_odd_spacings_are_reported(tmp_path: Path, make_spine: Spine) -> None:
    image, labels = make_spine(spacing_mm=(2.0, 2.0, 30.0))
    write_volume(tmp_path / "a" / "ct.nii.gz", image)
    write_volume(tmp_path / "b" / "mask.nii.gz", labels)
    source = Folder(tmp_path)
    first, second = (examine(source, case).report for case in source.cases())
    assert (
        first.case is not None and "spacing: 2 × 2 × 30 mm, expected 0.1 to 10.0 along each axis" in first.case.findings
    )
    assert second.fatal == (f"{tmp_path}/b/ct.nii.gz: no such file",)


def test_mask_with_other_axes_is_turned_to_the_image(tmp_path: Path, make_spine: Spine) -> None:
    image, _ = make_spine(axes="LPS", turn_deg=8)
    _, labels = make_spine(axes="PIR", turn_deg=8)
    write_volume(tmp_path / "a" / "ct.nii.gz", image)
    write_volume(tmp_path / "a" / "mask.nii.gz", labels)
    source = Folder(tmp_path)
    mask = source.read_labels(source.cases()[0])
    assert mask.shape == image.shape and mask.orientation == "LPS"
    np.testing.assert_array_equal(canonical(mask).array, canonical(labels).array)
    np.testing.assert_array_equal(mask.affine, source.read_image(source.cases()[0]).affine)


def test_grids_apart_are_refused_in_mm(tmp_path: Path, make_spine: Spine) -> None:
    image, labels = make_spine()
    moved = labels.affine.copy()
    moved[0, 3] += 1.5
    write_volume(tmp_path / "a" / "ct.nii.gz", image)
    write_volume(tmp_path / "a" / "mask.nii.gz", Volume(labels.array, moved))
    write_volume(tmp_path / "b" / "ct.nii.gz", image)
    write_volume(tmp_path / "b" / "mask.nii.gz", Volume(labels.array[1:], labels.affine))
    source = Folder(tmp_path)
    first, second = source.cases()
    with pytest.raises(DataError, match=r"1\.50 mm"):
        source.read_labels(first)
    with pytest.raises(DataError, match=r"shape \(13, 16, 18\), expected \(14, 16, 18\)"):
        source.read_labels(second)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_values_that_are_no_hu_never_wrap(tmp_path: Path, make_spine: Spine, value: float) -> None:
    image, _ = make_spine()
    array = image.array.astype(np.float32)
    array[3, 3, 3] = value
    write_volume(tmp_path / "a" / "ct.nii.gz", image.with_array(array))
    source = Folder(tmp_path)
    with pytest.raises(DataError, match=r"NaN or infinite|expected -32768"):
        source.read_image(source.cases()[0])


def test_verse_layout(tmp_path: Path, make_spine: Spine) -> None:
    image, labels = make_spine((19, 28, 20))
    for scan in ("sub-x_split-a", "sub-x_split-b", "sub-y"):
        subject = scan.split("_")[0]
        write_volume(tmp_path / "set1" / "rawdata" / subject / f"{scan}_ct.nii.gz", image)
        if scan != "sub-y":
            write_volume(tmp_path / "set1" / "derivatives" / subject / f"{scan}_seg-vert_msk.nii.gz", labels)
    source = Verse(tmp_path)
    cases = source.cases()
    assert [(case.id, case.subject) for case in cases] == [
        ("sub-x_split-a", "sub-x"),
        ("sub-x_split-b", "sub-x"),
        ("sub-y", "sub-y"),
    ]
    assert cases[2].label is None
    np.testing.assert_array_equal(source.read_labels(cases[1]).array, labels.array)
    with pytest.raises(DataError, match="rawdata"):
        Verse(tmp_path / "none").cases()


def test_real_scans(real_ct: Path) -> None:
    source = Folder(real_ct, convention="totalsegmentator_v2", conventions={"lumbar_crop": "verse"})
    reports = {case.id: examine(source, case).report for case in source.cases()}
    assert set(reports) == {"abdomen_3mm", "chest_1p5mm", "lumbar_crop", "no_vertebrae"}
    assert not any(report.fatal for report in reports.values())
    cases = {name: report.case for name, report in reports.items() if report.case is not None}
    assert cases["lumbar_crop"].levels == (21, 22, 23) and cases["lumbar_crop"].cut_levels == (21, 23)
    assert cases["lumbar_crop"].orientation == "PIR"
    assert cases["abdomen_3mm"].levels == (18, 19, 20, 21, 22, 23, 24, 26)
    assert cases["abdomen_3mm"].cut_levels == (18, 19)
    assert cases["abdomen_3mm"].findings == ("crumb: T11 76 voxels, 2.05 ml",)
    assert {7, 8, 21, 22} <= set(cases["chest_1p5mm"].cut_levels) and 20 not in cases["chest_1p5mm"].cut_levels
    assert cases["no_vertebrae"].label is None


def test_real_scan_under_the_wrong_convention_is_refused(real_ct: Path) -> None:
    source = Folder(real_ct, convention="verse", include=["chest_1p5mm"])
    fatal = examine(source, source.cases()[0]).report.fatal
    assert any("unknown label 29, 30" in message for message in fatal)
