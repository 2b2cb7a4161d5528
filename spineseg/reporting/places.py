"""Texts that may leave the machine: of a path only its last part is left."""

import re
from typing import Final

# A path from the root of a file system or from home; a lone slash, as in n/a or mm/s, is none.
_PLACE: Final = re.compile(r"(?<![\w.…/~])(?:~|/[\w.+=@-]+)(?:/[\w.+=@-]+)+/?|\b[A-Za-z]:\\[\w.\\+=@-]+")


def without_places(text: str) -> str:
    """Cut every absolute path in a text to its last part.

    >>> without_places("/home/someone/scans/case1.nii.gz: no such file; n/a, 3 mm/s, csi2014/unet3d/2026")
    '…/case1.nii.gz: no such file; n/a, 3 mm/s, csi2014/unet3d/2026'
    """
    return _PLACE.sub(lambda found: "…/" + found.group().replace("\\", "/").rstrip("/").rpartition("/")[2], text)
