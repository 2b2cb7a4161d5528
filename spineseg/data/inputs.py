"""Which scans a place holds for ``predict``: volumes, DICOM series, or a prepared source's cases."""

import json
from collections import Counter
from collections.abc import Container
from functools import partial
from pathlib import Path
from typing import Final, TypedDict

from spineseg.data.cases import Case
from spineseg.data.files import below
from spineseg.data.prepared import read_prepared
from spineseg.data.scans import Scan, read_scan, read_series
from spineseg.data.sources.base import Source
from spineseg.data.sources.folder import MASK_NAMES, MASK_SUFFIXES
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import Volume
from spineseg.memory import check_room
from spineseg.predictions.store import FOLDER_FILE, FOLDER_FORMAT
from spineseg.volumes import is_volume, stem

_EXPECTED: Final = "expected a NIfTI, MetaImage or NRRD file, CT slices in DICOM (a file or a zip), or a folder of them"
# Their files would bear the names of the folder's own.
_TAKEN: Final = ("predictions", "failures")


class _Reading(TypedDict):
    """How plain files are read, see ``read_scan``."""

    hu_offset: float | None
    source_offset: float
    memory_limit_gb: float | None


def find_scans(
    where: Path, *, hu_offset: float | None = None, source_offset: float = 0, memory_limit_gb: float | None = None
) -> list[Scan]:
    """A volume, all volumes and CT series of a folder or zip, or a prepared source's cases, as scans in HU.

    The case's id is the file's name, or its folder's. In a folder, files named as masks are left out, and volumes
    beside the slices of a DICOM series (its masks, or itself again), folders of predictions with all below them (of an
    earlier run with ``output`` inside ``input``), and what is DICOM but no CT slice; notes say so.
    What cannot be read is a scan that fails when its turn comes.

    Args:
        where: a file, a folder, a zip, or the ``cases.csv`` that ``prepare`` wrote.
        hu_offset: of plain files, see ``read_scan``; a prepared source knows its own.
        source_offset: that of the data the network was trained on.
        memory_limit_gb: a scan that does not fit fails before it is read; None = what the machine has left.

    Raises:
        DataError: there is none, or two have the same id.
        ConfigError: ``hu_offset`` for a prepared source.
    """
    if where.name == "cases.csv" or (where / "cases.csv").is_file():
        if hu_offset is not None:
            raise ConfigError(
                f"hu_offset={hu_offset:g}: {where} is a prepared source, which knows its own; leave it out"
            )
        prepared = read_prepared(where if where.is_dir() else where.parent)
        source = prepared.open_source()
        return [Scan(case.id, partial(_read_prepared, source, case, memory_limit_gb)) for case in prepared.cases]
    if not where.exists():
        raise DataError(f"{where}: no such file or folder; {_EXPECTED}")
    reading = _Reading(hu_offset=hu_offset, source_offset=source_offset, memory_limit_gb=memory_limit_gb)
    if where.is_file() and is_volume(where):
        found = [Scan(stem(where), partial(read_scan, where, **reading))]
    else:
        series = _dicom(where, reading)
        slices = {frame.file.path.parent for scan in series if scan.series for frame in scan.series.frames}
        volumes = _volumes(where, slices) if where.is_dir() else {}
        found = [Scan(name, partial(read_scan, path, **reading)) for name, path in volumes.items()] + series
    if not found:
        raise DataError(f"{where}: no scan there (what is named as masks are does not count); {_EXPECTED}")
    twice = sorted(name for name, count in Counter(scan.case for scan in found).items() if count > 1)
    if twice:
        raise DataError(f"{where}: two scans would be called {', '.join(twice)}; predict them one by one")
    if taken := [scan.case for scan in found if scan.case in _TAKEN]:
        raise DataError(f"{where}: a scan called '{taken[0]}' would overwrite {taken[0]}.json; rename it")
    return found


def _read_prepared(source: Source, case: Case, memory_limit_gb: float | None) -> Volume:
    check_room(case.shape, what=f"case '{case.id}'", limit_gb=memory_limit_gb)
    return source.read_image(case)


def _volumes(folder: Path, slices: Container[Path]) -> dict[str, Path]:
    """The volumes below a folder by case id, without masks, predictions, and those in the folders ``slices``."""
    files = list(below(folder))
    predicted = {path.parent for path in files if path.name == FOLDER_FILE and _is_predictions(path)}
    every = [path for path in files if is_volume(path) and not path.name.startswith(".")]
    ours = sorted(path for path in every if not predicted.isdisjoint(path.parents))
    every = sorted(set(every) - set(ours))
    masks = sorted(path for path in every if _is_mask(path))
    beside = sorted(path for path in set(every) - set(masks) if path.parent in slices)
    found = sorted(set(every) - set(masks) - set(beside))
    reasons = (
        (ours, f"they are predictions, of a folder with {FOLDER_FILE}"),
        (masks, "their names are those of masks"),
        (beside, "they lie beside DICOM slices"),
    )
    for left_out, why in reasons:
        if left_out:
            listed = ", ".join(str(path.relative_to(folder)) for path in left_out[:5])
            print(f"note: left out, for {why} ({len(left_out)}): {listed}{', …' * (len(left_out) > 5)}")
    names = [stem(path) for path in found]
    # Folders of one scan each (sub-01/ct.nii.gz) are told apart by the folder.
    if len(set(names)) < len(names):
        names = [path.parent.name for path in found]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"{folder}: two volumes would be called {', '.join(twice)}; predict them one by one")
    return dict(zip(names, found, strict=True))


def _is_predictions(file: Path) -> bool:
    """Whether a ``predictions.json`` is one of ours, of whatever version."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    known = FOLDER_FORMAT.split()[0] + " "
    return isinstance(content, dict) and str(content.get("format", "")).startswith(known)


def _is_mask(path: Path) -> bool:
    name = stem(path).lower()
    return name in MASK_NAMES or name.endswith((*MASK_SUFFIXES, "_msk"))


def _dicom(where: Path, reading: _Reading) -> list[Scan]:
    """The CT series of a place, and its unreadable DICOM files as scans that fail."""
    from spineseg.data.dicom import find_series
    from spineseg.data.dicom_files import is_dicom

    if where.is_file() and where.suffix.lower() != ".zip" and not is_dicom(where):
        raise DataError(f"{where}: no scan by its name or its first bytes; {_EXPECTED}")
    found = find_series(where)
    if found.left_out:
        print(f"note: left out of the DICOM in {where.name}: {'; '.join(found.left_out)}")
    for one in found.series:
        for note in one.notes():
            print(f"note: {one.case}: {note}")
    scans = [Scan(one.case, partial(read_series, one, **reading), one) for one in found.series]
    broken = found.broken.items()
    return scans + [Scan(case, partial(_refuse, f"{case}: {why}"), unreadable=True) for case, why in broken]


def _refuse(reason: str) -> Volume:
    raise DataError(reason)
