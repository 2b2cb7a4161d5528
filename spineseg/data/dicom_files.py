"""DICOM files in a folder or a zip."""

import contextlib
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

import pydicom
from pydicom.errors import InvalidDicomError

from spineseg.data.archives import zip_members
from spineseg.data.files import below
from spineseg.errors import DataError
from spineseg.volumes import is_volume

SUFFIXES: Final = (".dcm", ".dicom", ".ima")
# A whole CT is below a gigabyte; what unpacks to far more, or by a factor that no image reaches, is a bomb.
MAX_ZIP_BYTES: Final = 32 << 30
MAX_MEMBER_BYTES: Final = 4 << 30
MAX_FACTOR: Final = 400
_NEVER_A_BOMB: Final = 64 << 20
_MAGIC_AT: Final = 128
# What pydicom raises for damaged content.
DAMAGED: Final = (
    InvalidDicomError,
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    IndexError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
)


@dataclass(frozen=True, order=True)
class DicomFile:
    """A file on disk, or a member of a zip."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.path.name if self.member is None else f"{self.path.name}/{self.member}"

    @property
    def folder(self) -> PurePosixPath:
        """The folder that holds it; inside a zip, below the zip's name.

        A file that is a link, as datalad and git-annex make them, lies where the link does.
        """
        beside = PurePosixPath(self.path.parent.resolve().as_posix())
        return beside if self.member is None else (beside / self.path.stem / self.member).parent


def dicom_files(where: Path) -> list[DicomFile]:
    """Everything below a folder, or in a zip, that may be DICOM by its name or its first bytes.

    Raises:
        DataError: a zip with ``..``, absolute names, links or encrypted files, or one that is a bomb.
    """
    if where.is_dir():
        paths = (p for p in sorted(below(where)) if p.is_file() and not p.name.startswith("."))
        return [DicomFile(path) for path in paths if is_dicom(path)]
    members = zip_members(where, max_bytes=MAX_ZIP_BYTES)
    for member in members:
        factor = member.file_size / max(1, member.compress_size)
        if member.file_size > MAX_MEMBER_BYTES or (member.file_size > _NEVER_A_BOMB and factor > MAX_FACTOR):
            raise DataError(
                f"{where}: refused: '{member.filename}' of {member.file_size / 2**20:,.0f} MiB, {factor:,.0f} times "
                f"what it takes in the zip; expected DICOM files below {MAX_MEMBER_BYTES >> 20:,} MiB"
            )
    names = [member.filename for member in members if not PurePosixPath(member.filename).name.startswith(".")]
    found = [DicomFile(where, name) for name in sorted(names)]
    return [file for file, stream in opened(found) if _looks_like_dicom(file.member or "", stream)]


def is_dicom(path: Path) -> bool:
    """Whether a file's name or first bytes are those of DICOM."""
    return any(_looks_like_dicom(path.name, stream) for _, stream in opened([DicomFile(path)]))


def _looks_like_dicom(name: str, stream: BinaryIO) -> bool:
    last = PurePosixPath(name).name
    if last.upper() == "DICOMDIR" or is_volume(Path(last)):
        return False
    if last.lower().endswith(SUFFIXES):
        return True
    try:
        return stream.read(_MAGIC_AT + 4)[_MAGIC_AT:] == b"DICM"
    except DAMAGED:
        return False


class _Unreadable(io.BytesIO):
    """Stands for a file that cannot be opened: the reason comes when it is read, as for one that is damaged inside."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def read(self, size: int | None = -1, /) -> bytes:
        raise self.error


def opened(files: Iterable[DicomFile]) -> Iterator[tuple[DicomFile, BinaryIO]]:
    """Each file with its open stream; a zip is opened once for the members that follow each other."""
    archive: zipfile.ZipFile | None = None
    try:
        for file in files:
            stream: BinaryIO
            try:
                if file.member is None:
                    stream = file.path.open("rb")
                else:
                    if archive is None or archive.filename != str(file.path):
                        if archive is not None:
                            archive.close()
                        archive = zipfile.ZipFile(file.path)
                    stream = archive.open(file.member)  # type: ignore[assignment]  # ZipExtFile reads and seeks as one
            except DAMAGED as error:
                stream = _Unreadable(error)
            with stream:
                yield file, stream
    finally:
        if archive is not None:
            archive.close()


def quiet() -> contextlib.AbstractContextManager[None]:
    """Without pydicom's checks of values that are not used here."""
    return pydicom.config.disable_value_validation()
