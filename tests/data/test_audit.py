import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spineseg.data.audit import across_cases, content_sha256, examine, refuse, write_audit
from spineseg.data.sources.csi2014 import CSI2014
from spineseg.data.sources.folder import Folder
from spineseg.errors import DataError
from spineseg.geometry import Volume
from spineseg.volumes import read_volume, write_volume

Spine = Callable[..., tuple[Volume, Volume]]


def test_every_damaged_file_is_found_in_one_pass(make_csi: Callable[..., Path]) -> None:
    root = make_csi(9)
    raw = root / "case1.raw"
    raw.write_bytes(raw.read_bytes()[:-100])
    (root / "case2_label.raw").unlink()
    header = root / "case3.mhd"
    header.write_text(header.read_text().replace("ElementSpacing = 2 2.5 3", "ElementSpacing = 2 0 3"))
    mask = read_volume(root / "case4_label.mhd")
    write_volume(root / "case4_label.mhd", Volume(mask.array[:-1], mask.affine))
    mask = read_volume(root / "case5_label.mhd")
    write_volume(root / "case5_label.mhd", mask.with_array(mask.array.astype(np.float32) + 0.25))
    (root / "case6.raw").write_bytes(b"")
    (root / "case7.mhd").unlink()
    (root / "case7.mhd").symlink_to(root / "nowhere.mhd")
    for suffix in ("mhd", "raw"):
        for part in ("", "_label"):
            (root / f"case8{part}.{suffix}").unlink()
    for part in ("", "_label"):
        write_volume(root / f"case8{part}.nii.gz", read_volume(root / f"case9{part}.mhd"))
    path = root / "case8.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    source = CSI2014(root)
    reports = {case.id: examine(source, case).report for case in source.cases()}
    expected = {
        "case1": "case1.raw: truncated",
        "case2": "case2_label.raw is missing",
        "case3": "case3.mhd",
        "case4": "case4_label.mhd: shape",
        "case5": "not whole numbers",
        "case6": "case6.raw: truncated: 0 bytes",
        "case7": "case7.mhd: no such file",
        "case8": "case8.nii.gz",
    }
    for case, words in expected.items():
        assert any(words in message for message in reports[case].fatal), (case, reports[case].fatal)
        assert len(reports[case].fatal) == 1, reports[case].fatal
    assert not reports["case9"].fatal
    with pytest.raises(DataError) as error:
        refuse(reports.values(), root / "audit.json")
    assert "8 fatal findings" in str(error.value)
    assert all(words in str(error.value) for words in expected.values())


def test_content_hash_sees_voxels_not_files(tmp_path: Path, make_spine: Spine) -> None:
    image, _ = make_spine(axes="LPS")
    write_volume(tmp_path / "a.nii.gz", image)
    write_volume(tmp_path / "b.mha", image)
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()), 1))
    hashes = {content_sha256(read_volume(tmp_path / name)) for name in ("a.nii.gz", "b.mha", "c.nii.gz")}
    assert hashes == {content_sha256(make_spine(axes="RAS")[0])}
    changed = image.array.copy()
    changed[0, 0, 0] += 1
    assert content_sha256(image.with_array(changed)) not in hashes


def test_duplicates_across_cases(tmp_path: Path, make_spine: Spine) -> None:
    image, labels = make_spine()
    other, _ = make_spine(seed=1)
    for name, picture in (("a", image), ("b", image), ("c", other)):
        write_volume(tmp_path / name / "ct.nii.gz", picture)
        write_volume(tmp_path / name / "mask.nii.gz", labels)
    source = Folder(tmp_path)
    reports = [examine(source, case).report for case in source.cases()]
    judged = {report.id: report for report in across_cases(reports)}
    assert not judged["a"].fatal and not judged["c"].fatal
    [message] = judged["b"].fatal
    assert "same image as a/ct.nii.gz" in message and "data.source.exclude=[b]" in message
    assert judged["c"].case is not None and judged["c"].case.findings == ("duplicate: same mask as a b",)
    assert reports[1].case is not None
    one_subject = [reports[0], replace(reports[1], case=replace(reports[1].case, subject="a"))]
    judged = {report.id: report for report in across_cases(one_subject)}
    assert not judged["b"].fatal and judged["b"].case is not None
    assert judged["b"].case.findings == ("duplicate: same image as a",)


def test_one_case_is_read_once(make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    monkeypatch.setattr(
        "spineseg.data.sources.base.read_volume", lambda path: (reads.append(path.name), read_volume(path))[1]
    )
    source = Folder(make_folder(1))
    examined = examine(source, source.cases()[0])
    assert reads == ["ct.nii.gz", "vertebrae.nii.gz"]
    assert examined.image is not None and examined.labels is not None


def test_audit_file(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = Folder(make_folder(2))
    reports = [examine(source, case).report for case in source.cases()]
    write_audit(tmp_path / "audit.json", reports, source)
    content = json.loads((tmp_path / "audit.json").read_text())
    assert content["format"] == "audit 1" and content["simulated"] is False
    assert abs(content["s0"]["air_peak_hu"] + 995) < 8 and content["s0"]["level_voxels"]["20"] == 6 * 6 * 3
