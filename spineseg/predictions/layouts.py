"""Where the label maps of a folder lie: ours, nnU-Net's, TotalSegmentator's or VerSe's layout, found by file names.

- one file a case: ``<case>.nii.gz`` (nnU-Net; TotalSegmentator's multilabel files; ``.mhd``, ``.nrrd``, …);
- a folder a case with one file a structure: ``<case>/[segmentations/]vertebrae_L1.nii.gz`` … ``sacrum.nii.gz``
  (TotalSegmentator), or with a single label map of any name;
- VerSe: ``[derivatives/]sub-X/…_seg-vert_msk.nii.gz`` at any depth, centroids ``…_ctd.json`` beside.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from spineseg.data.files import below
from spineseg.errors import DataError
from spineseg.geometry import Volume
from spineseg.vertebrae import SACRUM, convention, level_id, relabel
from spineseg.volumes import is_volume, read_volume, stem

VERSE_MASK: Final = "_seg-vert_msk"
# VerSe's own ending, those of its releases without it, and that of `predict`.
POINT_ENDINGS: Final = ("_seg-subreg_ctd.json", "_seg-vb_ctd.json", "_ctd.json", "_centroids.json")
_STRUCTURE: Final = re.compile(r"vertebrae_(C[1-7]|T[1-9]|T1[0-3]|L[1-6]|S1)")
_SACRUM: Final = "sacrum"
# TotalSegmentator's name for its own folder inside a case.
_INNER: Final = "segmentations"
_SCANS: Final = re.compile(r"(.*_)?(ct|image|scan|\d{4})", re.IGNORECASE)


@dataclass(frozen=True)
class LabelFile:
    """The label map of a case on disk.

    Attributes:
        case: id.
        path: its file, or the folder that holds one file a structure.
        subject: the person, where the layout names one; else the case.
        points: VerSe's centroid file beside it.
    """

    case: str
    path: Path
    subject: str
    points: Path | None = None


def find_label_maps(root: Path, *, flat: bool = False) -> dict[str, LabelFile]:
    """Label maps of a folder by case; empty where there is none. The first layout that fits is taken.

    Args:
        root: the folder.
        flat: it is known to hold one file a case.

    Raises:
        DataError: two label maps of one case.
    """
    direct = _volumes(root)
    if flat:
        return _by_case((LabelFile(stem(path), path, stem(path)) for path in direct), root)
    if verse := sorted(path for path in below(root) if f"{VERSE_MASK}." in path.name and _is_map(path)):
        return _by_case((_verse_file(path) for path in verse), root)
    if any(_STRUCTURE.fullmatch(stem(path)) for path in direct):
        return _by_case([LabelFile(root.absolute().name, root, root.absolute().name)], root)
    if direct:
        return _by_case((LabelFile(stem(p), p, stem(p), points_beside(p)) for p in direct), root)
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    found = ((folder.name, _in_case_folder(folder)) for folder in folders)
    return _by_case((LabelFile(name, path, name, points_beside(path)) for name, path in found if path), root)


def read_label_map(path: Path, convention_name: str) -> Volume:
    """Read a case's label map as canonical level ids (uint8) on its native grid.

    Args:
        path: a label map, whose values the convention explains, or a folder of one file a structure, whose names do.
        convention_name: what label values mean.

    Raises:
        DataError: unreadable, unknown labels; structures that overlap or lie on different grids.
    """
    if path.is_dir():
        return _read_structures(path)
    rule = convention(convention_name)
    volume = read_volume(path)
    return volume.with_array(relabel(volume.array, rule.table, what=str(path), drop=rule.other))


def label_files(path: Path) -> list[Path]:
    """The files of a case's label map, which may be a folder of one file a structure."""
    if not path.is_dir():
        return [path]
    return [file for file in _volumes(path) if _STRUCTURE.fullmatch(stem(file)) or stem(file) == _SACRUM]


def points_beside(path: Path) -> Path | None:
    """VerSe's centroid file of a label map: beside it, under its name or that of its case."""
    names = [stem(path), stem(path).removesuffix(VERSE_MASK)]
    beside = (path.with_name(name + ending) for name in names for ending in POINT_ENDINGS)
    return next((file for file in beside if file.is_file()), None)


def _volumes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _is_map(path))


def _is_map(path: Path) -> bool:
    """Whether a path is a volume by its name; one that leads nowhere is refused, not passed over."""
    if not is_volume(path) or path.name.startswith("."):
        return False
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path}: a link to {path.readlink()}, which does not exist; mend or remove it")
    return path.is_file()


def _verse_file(path: Path) -> LabelFile:
    case = stem(path).removesuffix(VERSE_MASK)
    subject = path.parent.name if path.parent.name.startswith("sub-") else case
    return LabelFile(case, path, subject, points_beside(path))


def _in_case_folder(folder: Path) -> Path | None:
    """The folder of structures, or the only label map, of a case's folder."""
    for place in (folder / _INNER, folder):
        if place.is_dir():
            volumes = _volumes(place)
            if any(_STRUCTURE.fullmatch(stem(path)) for path in volumes):
                return place
            maps = [path for path in volumes if not _SCANS.fullmatch(stem(path))]
            if len(maps) == 1:
                return maps[0]
    return None


def _by_case(files: Iterable[LabelFile], root: Path) -> dict[str, LabelFile]:
    found: dict[str, LabelFile] = {}
    for file in files:
        if file.case in found:
            first = found[file.case].path.relative_to(root)
            raise DataError(f"{file.path}: case '{file.case}' has two label maps, also {first}; keep one")
        found[file.case] = file
    return found


def _read_structures(folder: Path) -> Volume:
    """One label map of a folder's vertebrae; the sacrum is S1 where that is drawn, as in the multilabel file."""
    files = {level_id(m.group(1)): p for p in _volumes(folder) if (m := _STRUCTURE.fullmatch(stem(p)))}
    for path in _volumes(folder):
        if stem(path) == _SACRUM:
            files.setdefault(SACRUM, path)
    labels: Volume | None = None
    for level, path in files.items():
        volume = read_volume(path)
        mask = volume.array != 0
        values = np.unique(volume.array[mask])
        if len(values) > 1 or not np.equal(values, np.rint(values)).all():
            listed = ", ".join(f"{value:g}" for value in values[:3]) + (", …" if len(values) > 3 else "")
            raise DataError(f"{path}: expected the mask of one structure, 0 and 1, found {listed}; threshold it first")
        if labels is None:
            labels = volume.with_array(np.zeros(volume.shape, np.uint8))
        elif (apart := labels.grid.distance_mm(volume.grid)) > 1e-3:
            raise DataError(f"{path}: its grid lies {apart:.2f} mm from that of the structures beside it; expected one")
        if taken := int(np.count_nonzero(labels.array[mask])):
            raise DataError(
                f"{path}: {taken} of its voxels belong to another vertebra's file too; a voxel can bear one name: "
                "decide, and write one label map"
            )
        labels.array[mask] = level
    assert labels is not None
    return labels
