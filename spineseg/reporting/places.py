"""Texts that may leave the machine: of a path only its last part is left."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from spineseg.reporting.runs import ScoredRun

_NAME: Final = r"[\w.+=@-]+"


def places_of(runs: Sequence["ScoredRun"]) -> tuple[Path, ...]:
    """Folders of this machine that the texts of some runs may name, and this process's own."""
    found = {Path.home(), Path.cwd()}
    for run in runs:
        data = run.config.get("data", {})
        told = (data.get("prepared_root"), (data.get("source") or {}).get("root"))
        known = (run.root, run.evaluation, run.predictions, *(Path(str(place)) for place in told if place))
        found |= {place.absolute() for place in known if place is not None}
    return tuple(sorted(found))


def without_places(text: str, roots: tuple[Path, ...] = ()) -> str:
    """Cut every absolute path in a text to its last part.

    Args:
        text: to be shown.
        roots: absolute folders that may stand in it: a path below one of them, or below a folder above it, is found
            even where that folder's name has a space, at which another path would end.

    >>> without_places("/home/someone/scans/case1.nii.gz: no such file; n/a, 3 mm/s, csi2014/unet3d/2026")
    '…/case1.nii.gz: no such file; n/a, 3 mm/s, csi2014/unet3d/2026'
    >>> without_places("/home/me/My Scans/a/case1.nii.gz: damaged", (Path("/home/me/My Scans"),))
    '…/case1.nii.gz: damaged'
    """
    return _pattern(roots).sub(
        lambda found: "…/" + found.group().replace("\\", "/").rstrip("/").rpartition("/")[2], text
    )


@lru_cache
def _pattern(roots: tuple[Path, ...]) -> re.Pattern[str]:
    """A path from a known folder, from the root of a file system or from home; a lone slash, as in n/a, is none."""
    # Of a file system's first folders ("/home") the name alone tells nothing.
    known = {str(place) for root in roots for place in (root, *root.parents) if len(place.parts) > 2}
    longest_first = sorted(known, key=lambda place: (-len(place), place))
    literal = "".join(rf"{re.escape(place)}(?!{_NAME})(?:/{_NAME})*/?|" for place in longest_first)
    return re.compile(rf"(?<![\w.…/~])(?:{literal}(?:~|/{_NAME})(?:/{_NAME})+/?)|\b[A-Za-z]:\\[\w.\\+=@-]+")
