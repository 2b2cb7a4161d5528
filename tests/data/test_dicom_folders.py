"""Which files of a folder or a zip are a series, what it is called, and zips that are refused."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from spineseg.data.dicom import find_series
from spineseg.errors import DataError
from tests.data.dicom_cases import Write, only, values


def test_series_are_told_apart_by_uid_and_no_ct_is_left_out(tmp_path: Path, write_series: Write) -> None:
    folder = tmp_path / "study"
    for k, name in enumerate(("a", "b")):
        for path in write_series(tmp_path / name, values() + k):
            folder.mkdir(exist_ok=True)
            shutil.move(path, folder / f"{name}{path.name}")
    write_series(folder / "x", values((4, 5, 1)), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(folder / "y", values(), Modality="MR")
    write_series(folder / "z", values(), step=(0, 0, 0))
    (folder / "notes.txt").write_text("no image")
    found = find_series(tmp_path / "study")
    assert len(found.series) == 2 and not found.broken
    assert {int(series.read().array.max()) - int(values().max()) for series in found.series} == {0, 1}
    names = [series.case for series in found.series]
    assert all(name.startswith("study_") and len(name) == len("study_") + 8 for name in names)
    said = "; ".join(found.left_out)
    assert "1 localizers" in said and "6 of modality MR" in said and "series of 6 slices at one position" in said
    for series in found.series:
        for frame in series.frames:
            assert frame.instance not in said and series.case not in frame.instance


def test_cases_are_called_after_their_folders(tmp_path: Path, write_series: Write) -> None:
    for case in ("p1", "p2"):
        write_series(tmp_path / case / "DICOM" / "S1", values())
    assert [series.case for series in find_series(tmp_path).series] == ["p1", "p2"]
    assert only(tmp_path / "p1").case == "p1"


def test_a_file_stands_for_its_series(tmp_path: Path, write_series: Write, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_series(tmp_path, values())
    for path in write_series(tmp_path / "other", values() + 1):
        path.rename(tmp_path / f"other{path.name}")
    np.testing.assert_array_equal(only(paths[4]).read().array, values())
    assert "stands for its series, 6 slices" in capsys.readouterr().out


def test_a_zip_is_read_as_its_folder(tmp_path: Path, write_series: Write) -> None:
    write_series(tmp_path / "a" / "s", values())
    shutil.make_archive(str(tmp_path / "scan"), "zip", tmp_path / "a")
    series = only(tmp_path / "scan.zip")
    assert series.case == "scan"
    np.testing.assert_array_equal(series.read().array, values())
    np.testing.assert_array_equal(series.read().affine, only(tmp_path / "a").read().affine)
    assert len(series.headers()) == 6


def test_links_lie_where_they_are_and_not_where_they_lead(tmp_path: Path, write_series: Write) -> None:
    """As datalad and git-annex keep files: content elsewhere, under names that say nothing."""
    for case in ("p1", "p2"):
        for path in write_series(tmp_path / "content" / case, values()):
            path.rename(tmp_path / "content" / f"{case}{path.stem}")
            (tmp_path / "in" / case).mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / case / path.name).symlink_to(tmp_path / "content" / f"{case}{path.stem}")
    assert [series.case for series in find_series(tmp_path / "in").series] == ["p1", "p2"]
    shutil.make_archive(str(tmp_path / "annexed"), "zip", tmp_path / "in")
    (tmp_path / "annexed.zip").rename(tmp_path / "content" / "0815")
    (tmp_path / "study.zip").symlink_to(tmp_path / "content" / "0815")
    assert [series.case for series in find_series(tmp_path / "study.zip").series] == ["p1", "p2"]


@pytest.mark.parametrize("name", ["../evil.dcm", "/evil.dcm", "a/../../evil.dcm"])
def test_a_zip_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"\0" * 128 + b"DICM")
    with pytest.raises(DataError, match="leads out"):
        find_series(tmp_path / "a.zip")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


def test_a_bomb_is_refused_and_a_damaged_zip_named(tmp_path: Path, write_series: Write) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(100 << 20))
    with pytest.raises(DataError, match=r"refused: 'a\.dcm' of 100 MiB"):
        find_series(tmp_path / "bomb.zip")
    write_series(tmp_path / "s", values())
    shutil.make_archive(str(tmp_path / "scan"), "zip", tmp_path / "s")
    whole = (tmp_path / "scan.zip").read_bytes()
    (tmp_path / "scan.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as a zip"):
        find_series(tmp_path / "scan.zip")
