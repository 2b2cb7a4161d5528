"""CT series in a file, folder or zip of DICOM, as volumes in HU.

A series is what shares a SeriesInstanceUID, wherever its files lie and whatever they are called.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from spineseg.data.dicom_files import DAMAGED, DicomFile, dicom_files, is_dicom, opened, quiet
from spineseg.data.dicom_headers import Frame, frames, read_header
from spineseg.data.dicom_pixels import hounsfield, stored_pixels
from spineseg.data.dicom_stack import AIR_HU, Stack, stack
from spineseg.errors import DataError
from spineseg.geometry import Volume
from spineseg.memory import check_room

# CT, enhanced CT, legacy converted enhanced CT.
_CT_CLASSES: Final = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")


@dataclass(frozen=True, eq=False)
class Series:
    """The slices of one CT series, not yet read.

    Attributes:
        case: id, without the series' UID or anything of the header.
        frames: one a slice, in no order.
    """

    case: str
    frames: tuple[Frame, ...]

    def stack(self) -> Stack:
        """The slices in order, on their grid.

        Raises:
            DataError: see ``dicom_stack.stack``.
        """
        return stack(self.frames, what=self.case)

    def read(self, memory_limit_gb: float | None = None) -> Volume:
        """Values in HU (int16), rescaled slice by slice, what was not measured as air; the tilt is taken out.

        Raises:
            DataError: the geometry's errors; damaged or short pixel data; a compression that no package here reads;
                values beyond int16; more memory than there is.
        """
        found = self.stack()
        rows, columns = found.frames[0].size
        check_room(found.grid.shape, what=self.case, limit_gb=memory_limit_gb)
        array = np.full(found.grid.shape, AIR_HU, np.int16, order="F")
        of_file: dict[DicomFile, list[tuple[int, Frame]]] = defaultdict(list)
        for k, frame in enumerate(found.frames):
            of_file[frame.file].append((k, frame))
        missing = [frame for frame in found.frames if frame.slope is None or frame.intercept is None]
        if missing and len(missing) < len(found.frames):
            raise DataError(
                f"{self.case}: {len(missing)} of {len(found.frames)} slices have no RescaleSlope or RescaleIntercept "
                f"(first: {missing[0].file.name}), the others have; export the series again"
            )
        for file, stream in opened(sorted(of_file)):
            with quiet():
                try:
                    image = pydicom.dcmread(stream, force=True)
                except DAMAGED as error:
                    raise DataError(f"{file.name}: cannot be read ({error}); copy it again") from error
                for k, frame in of_file[file]:
                    stored = stored_pixels(image, frame)
                    if stored.shape != (rows, columns):
                        raise DataError(
                            f"{file.name}: pixels of shape {stored.shape}, expected rows × columns {(rows, columns)}"
                        )
                    found.place(array, k, hounsfield(stored, frame).T)
        return Volume(array, found.grid.affine)

    def notes(self) -> list[str]:
        """What a user should know of how the series is read; nothing where it cannot be."""
        try:
            degrees = self.stack().tilt_degrees
        except DataError:
            return []
        found = []
        if degrees:
            found.append(
                f"the gantry was tilted by {degrees:.1f}°; each slice is moved in its plane onto an upright grid, "
                "which is the native grid of the outputs"
            )
        if all(frame.slope is None or frame.intercept is None for frame in self.frames):
            found.append("no RescaleSlope or RescaleIntercept in any slice; values are taken as stored")
        return found

    def headers(self) -> list[Dataset]:
        """Whole headers without pixel data, in the order of the slices, for objects that refer to this series.

        They name the patient: for DICOM alone. A multi-frame file gives one.
        """
        order = list(dict.fromkeys(frame.file for frame in self.stack().frames))
        found: dict[DicomFile, Dataset] = {}
        for file, stream in opened(sorted(order)):
            with quiet():
                found[file] = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
        return [found[file] for file in order]


@dataclass(frozen=True)
class Found:
    """What a place holds: CT series, what was left out of them and why, and files that cannot be read."""

    series: tuple[Series, ...] = ()
    left_out: tuple[str, ...] = ()
    broken: Mapping[str, str] = field(default_factory=dict)


def find_series(where: Path) -> Found:
    """Every CT series of a folder or zip, or the one that a file belongs to.

    Left out with a note: other modalities, localizers, images without a place in the patient (screens, reports), and
    series all of whose slices lie at one position. Two copies of one slice count once.

    Args:
        where: a folder (with all below it), a ``.zip``, or a file: a slice stands for its series in the same folder.

    Raises:
        DataError: a zip that is refused.
    """
    if where.is_file() and where.suffix.lower() != ".zip":
        return _series_of(where)
    return _group(dicom_files(where), where)


def _series_of(path: Path) -> Found:
    file = DicomFile(path)
    with path.open("rb") as stream:
        header = read_header(file, stream)
    if int(header.get("NumberOfFrames") or 1) > 1:
        return _group([file], path)
    beside = [DicomFile(p) for p in sorted(path.parent.iterdir()) if p.is_file() and is_dicom(p)]
    found = _group(beside, path.parent, only=str(header.SeriesInstanceUID))
    if found.series:
        print(f"note: {path.name} stands for its series, {len(found.series[0].frames)} slices in its folder")
    return found


def _group(files: Iterable[DicomFile], where: Path, only: str | None = None) -> Found:
    series: dict[str, dict[tuple[str, int], Frame]] = defaultdict(dict)
    reasons: Counter[str] = Counter()
    unread: dict[str, list[str]] = defaultdict(list)
    for file, stream in opened(sorted(files)):
        try:
            header = read_header(file, stream)
            uid = str(header.SeriesInstanceUID)
            if only is not None and uid != only:
                continue
            reason = _no_slice(header)
            if reason is not None:
                reasons[reason] += 1
                continue
            for frame in frames(file, header):
                known = series[uid].setdefault((frame.instance, frame.index), frame)
                if known is not frame:
                    reasons["second copies of a slice"] += 1
        except DataError as error:
            unread[file.folder.name or where.name].append(str(error))
    names = _names({uid: list(slices.values()) for uid, slices in series.items()}, where)
    kept: list[Series] = []
    for uid, slices in series.items():
        places = np.stack([frame.position for frame in slices.values()])
        if np.ptp(places, axis=0).max() < 1e-2:
            count = f"{len(slices)} slice{'s' * (len(slices) > 1)} at one position"
            reasons[f"series of {count} ({names[uid]})"] += len(slices)
        else:
            kept.append(Series(names[uid], tuple(slices.values())))
    broken = {
        f"{name}_unreadable": f"{len(texts)} file{'s' * (len(texts) > 1)} that may belong to a series: {texts[0]}"
        for name, texts in unread.items()
    }
    left_out = tuple(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return Found(tuple(sorted(kept, key=lambda one: one.case)), left_out, broken)


def _no_slice(header: Dataset) -> str | None:
    """Why an image is no slice of a CT volume; None for one that is."""
    if header.get("Modality", "CT") != "CT":
        return f"of modality {header.Modality}"
    if str(header.SOPClassUID) not in _CT_CLASSES:
        return "that are no CT images (screens, reports, segmentations)"
    kind = [str(part).upper() for part in header.get("ImageType") or ()]
    if "LOCALIZER" in kind or "SCOUT" in kind:
        return "localizers"
    if "PerFrameFunctionalGroupsSequence" not in header and (
        "ImagePositionPatient" not in header or "ImageOrientationPatient" not in header
    ):
        return "without a place in the patient"
    return None


def _names(series: Mapping[str, Sequence[Frame]], where: Path) -> dict[str, str]:
    """A case id for each UID: the place's name for one series, else its folder's, with a short hash if need be."""
    # A file that is a link bears its own name, not that of what it leads to.
    whole = where.parent.resolve() / where.name if where.is_file() else where.resolve()
    top = whole.stem if where.is_file() else whole.name
    if len(series) == 1:
        return dict.fromkeys(series, top)
    # Inside a zip, folders lie below its name without the suffix.
    root = PurePosixPath((whole.with_suffix("") if where.is_file() else whole).as_posix())
    below = {}
    for uid, slices in series.items():
        common = PurePosixPath(os.path.commonpath([frame.file.folder for frame in slices]))
        below[uid] = common.relative_to(root).parts or (top,)
    for position in (-1, 0):
        names = {uid: parts[position] for uid, parts in below.items()}
        if len(set(names.values())) == len(names):
            return names
    return {uid: f"{parts[0]}_{hashlib.sha256(uid.encode()).hexdigest()[:8]}" for uid, parts in below.items()}
