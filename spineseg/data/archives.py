"""Archives from elsewhere: nothing is written outside the target, no link is made, and no bomb is unpacked."""

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from spineseg.errors import DataError

# More than any of the data sets; what exceeds it is not one of them.
MAX_BYTES: Final = 200 << 30
MAX_FILES: Final = 200_000
# What the standard library raises for damaged content; its RuntimeError is an encrypted or unsupported entry.
_DAMAGED: Final = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)
SUFFIXES: Final = (".zip", ".tar", ".tar.gz", ".tgz")


def is_archive(path: Path) -> bool:
    """Whether the name is one of an archive that can be unpacked here."""
    return path.name.lower().endswith(SUFFIXES)


def zip_members(path: Path, *, max_bytes: int = MAX_BYTES) -> list[zipfile.ZipInfo]:
    """List the files of a zip after checking all of its entries.

    Raises:
        DataError: not a zip; an absolute name or one with ``..``; a link; an encrypted entry; too many or too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as a zip ({error}); download it again") from error
    for entry in entries:
        _check_name(path, entry.filename)
        # The upper half holds the Unix mode where a Unix program wrote the zip.
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise DataError(f"{path}: refused: '{entry.filename}' is a link; expected plain files")
        if entry.flag_bits & 1:
            raise DataError(f"{path}: refused: '{entry.filename}' is encrypted; expected plain files")
    files = [entry for entry in entries if not entry.is_dir()]
    _check_size(path, len(files), sum(entry.file_size for entry in files), max_bytes)
    return files


def read_member(path: Path, name: str) -> bytes:
    """Read one checked file of a zip; never more bytes than its entry announces."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
            return stream.read(archive.getinfo(name).file_size + 1)
    except (OSError, KeyError, RuntimeError, *_DAMAGED) as error:
        raise DataError(f"{path}: '{name}' cannot be read ({error}); download the zip again") from error


def unpack(path: Path, target: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Unpack a zip or tar into ``target``; files get their names there only when all of them are whole.

    Raises:
        DataError: as ``zip_members``, for tars alike; or the disk has too little space.
    """
    partial = target / f".unpacking-{path.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if path.name.lower().endswith(".zip"):
            _unpack_zip(path, partial, max_bytes)
        else:
            _unpack_tar(path, partial, max_bytes)
        for file in sorted(file for file in partial.rglob("*") if file.is_file()):
            place = target / file.relative_to(partial)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unpack_zip(path: Path, target: Path, max_bytes: int) -> None:
    members = zip_members(path, max_bytes=max_bytes)
    _check_space(path, target, sum(member.file_size for member in members))
    try:
        with zipfile.ZipFile(path) as archive:
            for member in members:
                place = target / PurePosixPath(member.filename)
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, place.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
    except (RuntimeError, *_DAMAGED) as error:
        raise DataError(f"{path}: the zip is damaged ({error}); delete it and download it again") from error


def _unpack_tar(path: Path, target: Path, max_bytes: int) -> None:
    try:
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            for member in members:
                _check_name(path, member.name)
                if not (member.isfile() or member.isdir()):
                    raise DataError(f"{path}: refused: '{member.name}' is a link or device; expected plain files")
            _check_size(path, len(members), sum(member.size for member in members), max_bytes)
            _check_space(path, target, sum(member.size for member in members))
            archive.extractall(target, filter="data")
    except (OSError, *_DAMAGED) as error:
        raise DataError(f"{path}: the archive is damaged ({error}); delete it and download it again") from error


def _check_name(path: Path, name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\x00" in name:
        raise DataError(f"{path}: refused: the entry '{name}' leads out of the archive; expected plain relative names")


def _check_size(path: Path, files: int, size: int, max_bytes: int) -> None:
    if files > MAX_FILES or size > max_bytes:
        raise DataError(
            f"{path}: refused: {files:,} files of {size / 2**30:.1f} GiB; expected at most {MAX_FILES:,} files "
            f"of {max_bytes / 2**30:.1f} GiB"
        )


def _check_space(path: Path, target: Path, size: int) -> None:
    free = shutil.disk_usage(target).free
    if size > free:
        raise DataError(f"{path}: needs {size / 2**30:.1f} GiB in {target}, found {free / 2**30:.1f} GiB free")
