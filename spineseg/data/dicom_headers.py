"""What of a DICOM header the geometry and the values of a CT depend on.

Only these elements are read here, none of which names a patient.
"""

from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from spineseg.data.dicom_files import DAMAGED, DicomFile, quiet
from spineseg.errors import DataError

_TAGS: Final = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "ImageType", "NumberOfFrames"),
    *("Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"),
    *("RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelRepresentation"),
    *("BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice of a CT as its header describes it; positions in mm, DICOM's patient frame (LPS).

    Attributes:
        file: that holds it.
        index: of the frame in its file.
        instance: SOP instance UID.
        position: (3,), of the centre of the first pixel.
        orientation: (2, 3), directions of a row (increasing column) and of a column (increasing row).
        spacing: distance of rows and of columns.
        size: (rows, columns).
        slope: of stored values to HU; None where the header has none.
        intercept: likewise.
        padding: lowest and highest stored value of pixels that were not measured.
    """

    file: DicomFile
    index: int
    instance: str
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: tuple[float, float]
    size: tuple[int, int]
    slope: float | None
    intercept: float | None
    padding: tuple[int, int] | None


def read_header(file: DicomFile, stream: BinaryIO) -> Dataset:
    """The few header elements that are needed, without pixel data.

    Raises:
        DataError: not DICOM, or damaged.
    """
    try:
        with quiet():
            found = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
            if "SOPClassUID" not in found or "SeriesInstanceUID" not in found:
                raise DataError(f"{file.name}: no DICOM image (no SOP class or no series in it); copy it again")
            return found
    except DAMAGED as error:
        raise DataError(f"{file.name}: cannot be read as DICOM ({_first_line(error)}); copy it again") from error


def frames(file: DicomFile, header: Dataset) -> list[Frame]:
    """The slices of a file, one for a classic CT image, many for an enhanced one.

    Raises:
        DataError: elements that a slice needs are missing or no numbers.
    """
    try:
        with quiet():
            return [_frame(file, header, index) for index in range(int(header.get("NumberOfFrames") or 1))]
    except DAMAGED as error:
        raise DataError(f"{file.name}: its header cannot be read ({_first_line(error)}); export it again") from error


def _frame(file: DicomFile, header: Dataset, index: int) -> Frame:
    def element(group: str, keyword: str) -> Any:
        """Of the frame's own groups, else of those that all share, else of the image itself."""
        for sequence, place in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
            groups = header.get(sequence)
            if groups and group in groups[place] and keyword in groups[place][group].value[0]:
                return groups[place][group].value[0][keyword].value
        return header.get(keyword)

    def numbers(group: str, keyword: str, count: int) -> NDArray[np.float64]:
        value = element(group, keyword)
        if value is None or len(value) != count:
            raise DataError(f"{file.name}: {keyword} is {value}; expected {count} numbers. Export the series again")
        array = np.array([float(part) for part in value])
        if not np.isfinite(array).all():
            raise DataError(f"{file.name}: {keyword} is {value}; expected {count} finite numbers")
        return array

    spacing = numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    if spacing.min() <= 0:
        raise DataError(f"{file.name}: PixelSpacing is {spacing.tolist()} mm; expected two positive numbers")
    orientation = numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6).reshape(2, 3)
    lengths = np.linalg.norm(orientation, axis=1)
    if abs(lengths - 1).max() > 1e-3 or abs(orientation[0] @ orientation[1]) > 1e-3:
        raise DataError(
            f"{file.name}: ImageOrientationPatient is {orientation.ravel().tolist()}; expected two directions of "
            "length 1 at right angles"
        )
    slope = element("PixelValueTransformationSequence", "RescaleSlope")
    intercept = element("PixelValueTransformationSequence", "RescaleIntercept")
    return Frame(
        file=file,
        index=index,
        instance=str(header.SOPInstanceUID),
        position=numbers("PlanePositionSequence", "ImagePositionPatient", 3),
        orientation=orientation,
        spacing=(float(spacing[0]), float(spacing[1])),
        size=(int(header.Rows), int(header.Columns)),
        slope=None if slope is None else float(slope),
        intercept=None if intercept is None else float(intercept),
        padding=_padding(header),
    )


def _padding(header: Dataset) -> tuple[int, int] | None:
    value = header.get("PixelPaddingValue")
    if value is None:
        return None
    bounds = [int(value), int(header.get("PixelPaddingRangeLimit") or value)]
    if header.get("PixelRepresentation") == 1:
        # Written as unsigned by some devices, where the pixels are signed: the same 16 bits.
        bounds = [bound - (1 << 16) if bound >= 1 << 15 else bound for bound in bounds]
    return min(bounds), max(bounds)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
