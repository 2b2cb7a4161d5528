import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from spineseg.data.archives import read_member, unpack, zip_members
from spineseg.errors import DataError


def make_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_plain_archives_are_unpacked(tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", {"case1.mhd": b"x", "deep/er/case2|ü.raw": b"yy"})
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert (tmp_path / "out" / "deep" / "er" / "case2|ü.raw").read_bytes() == b"yy"
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("t/case3.raw")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"zzz"))
    unpack(tmp_path / "b.tar.gz", tmp_path / "out")
    assert (tmp_path / "out" / "t" / "case3.raw").read_bytes() == b"zzz"
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(
    "name", ["../canary", "a/../../canary", "/tmp/canary", "..\\canary", "C:\\canary", "C:/canary"]
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "evil.zip"
    make_zip(path, {"good.txt": b"1"})
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo("x")
        entry.filename = name
        archive.writestr(entry, b"pwned")
    with pytest.raises(DataError, match="refused"):
        unpack(path, tmp_path / "in" / "out")
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == ["evil.zip"]


def test_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "link.zip"
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        zip_members(path)
    for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "../x"), (tarfile.FIFOTYPE, "")):
        with tarfile.open(tmp_path / "link.tar", "w") as tar:
            info = tarfile.TarInfo("link")
            info.type, info.linkname = kind, target
            tar.addfile(info)
        with pytest.raises(DataError, match="link or device"):
            unpack(tmp_path / "link.tar", tmp_path / "out")


def test_tar_with_dots_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("../canary")
        archive.addfile(info, io.BytesIO(b""))
    with pytest.raises(DataError, match="leads out"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    assert not (tmp_path / "canary").exists()


def test_bombs_are_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "bomb.zip", {"zeros": bytes(5_000_000)})
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"refused: 1 files.*expected at most"):
        unpack(path, tmp_path / "out", max_bytes=1_000_000)
    assert not list((tmp_path / "out").iterdir())


def test_damage_leaves_nothing_behind(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.txt": b"a" * 10, "b.bin": bytes(range(256)) * 50})
    content = bytearray(path.read_bytes())
    at = content.index(b"b.bin") + 40
    content[at] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="damaged"):
        unpack(path, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(DataError, match="cannot be read"):
        read_member(path, "b.bin")
    path.write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(DataError, match="cannot be read as a zip"):
        zip_members(path)
