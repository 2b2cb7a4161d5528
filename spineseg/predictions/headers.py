"""What a label map of ours says of itself, in the comment of its NIfTI header."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any, Final

import nibabel as nib
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from spineseg.errors import FormatError
from spineseg.volumes import NIFTI_SUFFIXES

# NIfTI's code of a plain comment.
_COMMENT: Final = 6


def read_extension(path: Path, format_name: str) -> dict[str, Any] | None:
    """Read the ``extension`` of ``volumes.write_volume``; None where a file is not ours, or cannot be read.

    Args:
        path: any volume, or a folder.
        format_name: the ``format`` entry that it must carry, for example ``predictions 1``.

    Raises:
        FormatError: ours, of another version.
    """
    if not path.is_file() or not path.name.lower().endswith(NIFTI_SUFFIXES):
        return None
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            with gzip.GzipFile(fileobj=plain) if packed else plain as stream:
                extensions = nib.Nifti1Header.from_fileobj(stream).extensions
    except (WrapStructError, HeaderDataError, OSError, ValueError, EOFError, zlib.error):
        return None  # who reads the voxels says what is wrong with the file
    name = format_name.rsplit(" ", 1)[0]
    for text in (each.get_content() for each in extensions if each.get_code() == _COMMENT):
        try:
            content = json.loads(text)
        except ValueError:
            continue
        have = str(content.get("format", "")) if isinstance(content, dict) else ""
        if have == format_name:
            return dict(content)
        if have.startswith(f"{name} "):
            raise FormatError(
                f"{path}: expected format '{format_name}' in its header, found '{have}'; predict it again"
            )
    return None
